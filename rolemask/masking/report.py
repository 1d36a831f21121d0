"""Counts the turns and tokens of a row, and says why a row trains nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import Policy
from rolemask.masking.turns import Turn
from rolemask.matching.compiler import Rules

UNKNOWN_ROLE = "other"
"""The role of a catch-all marker, which matches the turns of roles that the marker set does not name."""


@dataclass(frozen=True)
class RowReport:
    """The turns and tokens of one row. `str()` of it is one line.

    Attributes:
        tokens: Tokens that are attended to.
        trained: Tokens with a label.
        turns: Turns found, per role.
        role_tokens: Tokens in turns, per role.
        stops_trained: Turns whose end marker is trained, per role: these teach a model to stop.
        unterminated: Turns without their end marker (truncated, or the next turn came first).
        unknown_roles: Turns whose role the marker set does not name.
        why_empty: Why nothing is trained, or None.
    """

    tokens: int
    trained: int
    turns: Mapping[str, int]
    role_tokens: Mapping[str, int]
    stops_trained: Mapping[str, int]
    unterminated: int
    unknown_roles: int
    why_empty: str | None

    def __str__(self) -> str:
        turns = ", ".join(f"{count} {role}" for role, count in self.turns.items()) or "none"
        parts = [f"{self.trained} of {self.tokens} tokens trained; turns: {turns}"]
        if self.unterminated:
            parts.append(f"unterminated turns: {self.unterminated}")
        if self.unknown_roles:
            parts.append(f"turns of unknown roles: {self.unknown_roles}")
        if self.why_empty:
            parts.append(f"nothing is trained: {self.why_empty}")
        return "; ".join(parts)


def report_row(
    labels: Sequence[int], roles: Sequence[int], turns: Sequence[Turn], attention: Sequence[int] | None, rules: Rules, policy: Policy
) -> RowReport:
    """Count the turns and tokens of one row."""
    tokens = len(labels) if attention is None else sum(map(bool, attention))
    seen = roles if attention is None else [role for role, is_seen in zip(roles, attention, strict=True) if is_seen]
    turn_counts = Counter(rules.roles[rules.rules[turn.rule].role] for turn in turns)
    trained = sum(label != IGNORE_INDEX for label in labels)
    return RowReport(
        tokens=tokens,
        trained=trained,
        turns=dict(turn_counts),
        role_tokens=dict(Counter(rules.roles[role] for role in seen if role >= 0)),
        stops_trained=dict(Counter(rules.roles[rules.rules[turn.rule].role] for turn in turns if _stop_is_trained(turn, labels))),
        unterminated=sum(not turn.terminated for turn in turns),
        unknown_roles=turn_counts[UNKNOWN_ROLE],
        why_empty=None if trained else _why_empty(tokens, turns, turn_counts, rules, policy),
    )


def _stop_is_trained(turn: Turn, labels: Sequence[int]) -> bool:
    return turn.stop > turn.end and all(labels[at] != IGNORE_INDEX for at in range(turn.end, turn.stop))


def _why_empty(tokens: int, turns: Sequence[Turn], counts: Mapping[str, int], rules: Rules, policy: Policy) -> str:
    if not tokens:
        return "the row has no tokens that are attended to"
    if not policy.roles_to_train and not policy.train_on_inputs:
        return "roles_to_train is empty"
    if not turns:
        return f"no start marker of {rules.name!r} was found in {tokens} tokens. Was the chat rendered with another template?"
    wanted = [turn for turn in turns if rules.roles[rules.rules[turn.rule].role] in policy.roles_to_train]
    if not wanted:
        found = ", ".join(f"{count} {role}" for role, count in counts.items())
        return f"turns found: {found}; none of {', '.join(policy.roles_to_train)}. Wrong roles_to_train, or truncated?"
    if all(turn.content == turn.stop for turn in wanted):
        return f"every turn of {', '.join(policy.roles_to_train)} is cut off before its first word. Truncated?"
    if policy.turns == "last_round":
        return f"no words of {', '.join(policy.roles_to_train)} follow the last question (turns=last_round)"
    return "all tokens of the trained turns are media, padding, or excluded by train_on_eos"

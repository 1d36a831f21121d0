"""Counts the turns and tokens of a row, and says why a row trains nothing."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import automaton_of
from rolemask.masking.batch import ArrayBatch
from rolemask.masking.columns import count_in_rows
from rolemask.masking.fates import outputs_of
from rolemask.masking.labelled import Labelled
from rolemask.masking.policy import Policy
from rolemask.masking.steps import Output
from rolemask.masking.turns import Turn
from rolemask.matching.compiler import OUTSIDE, Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    """Count the turns and tokens of one row that the definition has masked."""
    seen = roles if attention is None else [role for role, is_seen in zip(roles, attention, strict=True) if is_seen]

    def role_of(turn: Turn) -> str:
        return rules.roles[rules.rules[turn.rule].role]

    return _report(
        len(seen),
        sum(label != IGNORE_INDEX for label in labels),
        Counter(map(role_of, turns)),
        Counter(rules.roles[role] for role in seen if role >= 0),
        Counter(role_of(turn) for turn in turns if _stop_is_trained(turn, labels)),
        sum(not turn.terminated for turn in turns),
        lambda: turns,
        rules,
        policy,
    )


def report_rows(
    batch: ArrayBatch, found: Labelled, turns_of: Callable[[int], Sequence[Turn]], rules: Rules, policy: Policy
) -> list[RowReport]:
    """Like `report_row`, for rows that an array kernel has masked, with events. `turns_of` finds the turns of a row, which is slow."""
    import numpy as np

    offsets, size = batch.column.offsets, len(batch)
    trained = found.labels != IGNORE_INDEX
    trained_before = np.concatenate([[0], np.cumsum(trained)])
    at = np.flatnonzero(found.events)
    outputs = outputs_of(automaton_of(rules), rules)
    output = found.events[at].astype(np.int64) - 1
    rows = np.searchsorted(offsets, at, side="right") - 1

    def of_output(value: Callable[[Output], int]) -> "NDArray[np.int64]":
        of_events: NDArray[np.int64] = np.array([value(one) for one in outputs], dtype=np.int64)[output]
        return of_events

    def role_of(rule: int) -> int:
        return OUTSIDE if rule == OUTSIDE else rules.rules[rule].role

    def names(which: "NDArray[np.bool_]", roles: "NDArray[np.int64]") -> Iterator[list[str]]:
        """Yield, per row, the roles of the events that count."""
        of_row = np.split(roles[which], np.cumsum(np.bincount(rows[which], minlength=size))[:-1])
        return ([rules.roles[role] for role in row.tolist()] for row in of_row)

    starts = of_output(lambda one: one.starts_turn).astype(bool)
    lengths = of_output(lambda one: one.end_length)
    stops = (lengths > 0) & (trained_before[at + lengths] - trained_before[at] == lengths)
    # A turn whose end is missing is one that needs an end, and gets none. One that nobody answered needs none.
    answered = len(automaton_of(rules).outputs)
    needs_end = of_output(lambda one: one.starts_turn and rules.rules[one.rule].has_end) * (output < answered)
    terminates = of_output(lambda one: one.terminates)
    unterminated = np.bincount(rows, needs_end - terminates, minlength=size).astype(int)

    counted = found.roles >= 0 if batch.attention is None else (found.roles >= 0) & batch.attention
    tokens = np.repeat(np.arange(size), np.diff(offsets))[counted] * len(rules.roles) + found.roles[counted]
    role_tokens = np.bincount(tokens, minlength=size * len(rules.roles)).reshape(size, -1).tolist()

    columns = (
        batch.lengths() if batch.attention is None else count_in_rows(batch.attention, offsets).tolist(),
        np.diff(trained_before[offsets]).tolist(),
        names(starts, of_output(lambda one: role_of(one.rule))),
        role_tokens,
        names(stops, of_output(lambda one: role_of(one.ended))),
        unterminated.tolist(),
    )
    reports = []
    for row, (attended, labels, turns, of_roles, stopped, unended) in enumerate(zip(*columns, strict=True)):
        by_role = {role: count for role, count in zip(rules.roles, of_roles, strict=True) if count}
        reports.append(_report(attended, labels, Counter(turns), by_role, Counter(stopped), unended, partial(turns_of, row), rules, policy))
    return reports


def _report(
    tokens: int,
    trained: int,
    turns: Mapping[str, int],
    role_tokens: Mapping[str, int],
    stops_trained: Mapping[str, int],
    unterminated: int,
    find_turns: Callable[[], Sequence[Turn]],
    rules: Rules,
    policy: Policy,
) -> RowReport:
    return RowReport(
        tokens=tokens,
        trained=trained,
        turns=dict(turns),
        role_tokens=dict(role_tokens),
        stops_trained=dict(stops_trained),
        unterminated=unterminated,
        unknown_roles=turns.get(UNKNOWN_ROLE, 0),
        why_empty=None if trained else _why_empty(tokens, turns, find_turns, rules, policy),
    )


def _stop_is_trained(turn: Turn, labels: Sequence[int]) -> bool:
    return turn.stop > turn.end and all(labels[at] != IGNORE_INDEX for at in range(turn.end, turn.stop))


def _why_empty(tokens: int, counts: Mapping[str, int], find_turns: Callable[[], Sequence[Turn]], rules: Rules, policy: Policy) -> str:
    if not tokens:
        return "the row has no tokens that are attended to"
    if not policy.roles_to_train and not policy.train_on_inputs:
        return "roles_to_train is empty"
    if not counts:
        return f"no start marker of {rules.name!r} was found in {tokens} tokens. Was the chat rendered with another template?"
    if not counts.keys() & {*policy.roles_to_train}:
        found = ", ".join(f"{count} {role}" for role, count in counts.items())
        return f"turns found: {found}; none of {', '.join(policy.roles_to_train)}. Wrong roles_to_train, or truncated?"
    wanted = [turn for turn in find_turns() if rules.roles[rules.rules[turn.rule].role] in policy.roles_to_train]
    if all(turn.content == turn.stop for turn in wanted):
        return f"every turn of {', '.join(policy.roles_to_train)} is cut off before its first word. Truncated?"
    if policy.turns == "last_round":
        return f"no words of {', '.join(policy.roles_to_train)} follow the last question (turns=last_round)"
    return "all tokens of the trained turns are media, padding, or excluded by train_on_eos"

"""The definition: which tokens of a row are trained. Plain, slow, lists in and lists out.

Every kernel must agree with this module bit for bit; `rolemask check` and `rolemask explain` use it as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from rolemask.errors import InputError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import QUESTION_ROLE, RESULT_ROLE, Policy
from rolemask.masking.turns import UNATTENDED, Turn, scan
from rolemask.matching.compiler import OUTSIDE, Rule, Rules


@dataclass
class Masked:
    """The label and role id of each token of a row, its turns, and which of these are trained."""

    labels: list[int]
    roles: list[int]
    turns: list[Turn]
    trained: list[bool]


def mask(
    ids: Sequence[int],
    rules: Rules,
    policy: Policy,
    attention: Sequence[int] | None = None,
    *,
    starts: Sequence[int] | None = None,
    train_turns: Sequence[bool] | None = None,
) -> Masked:
    """Label one row, which may hold several documents: each is masked as if it stood alone.

    Args:
        ids: Token ids; negative ones (some processors use them for media) are never trained.
        rules: The compiled marker set.
        policy: What to train.
        attention: 0 for each token that is not attended to; such tokens are never trained and match no marker. Without it, the pad
            token is not trained, unless it is part of an end marker that its role emits.
        starts: Nonzero for the first token of each document. The label of the first token of every document but the first is -100, since
            it would be predicted from another document.
        train_turns: One flag per trainable turn of the row; a turn whose flag is false, or missing, is not trained. The caller checks that
            there are as many flags as turns (`check_train_turns`).
    """
    flags = None if train_turns is None else iter(train_turns)
    row = Masked([], [], [], [])
    for start, stop in documents(len(ids), starts):
        attended = None if attention is None else attention[start:stop]
        document = _mask_document(ids[start:stop], rules, policy, attended, flags)
        if start:
            document.labels[0] = IGNORE_INDEX
        row.labels += document.labels
        row.roles += document.roles
        row.turns += [turn.moved(start) for turn in document.turns]
        row.trained += document.trained
    return row


def documents(size: int, starts: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return [start, stop) of each document of a row."""
    borders = [0, *(at for at in range(1, size) if starts is not None and starts[at]), size]
    return list(pairwise(borders))


def _mask_document(
    ids: Sequence[int], rules: Rules, policy: Policy, attention: Sequence[int] | None, flags: Iterator[bool] | None
) -> Masked:
    attended = [True] * len(ids) if attention is None else [bool(value) for value in attention]
    turns = scan([id_ if seen else UNATTENDED for id_, seen in zip(ids, attended, strict=True)], rules)
    chosen = choose_turns(turns, rules, policy, flags)

    trained = [policy.train_on_inputs] * len(ids)
    roles = [OUTSIDE] * len(ids)
    for stretch in stretches(turns, chosen, rules, policy):
        for at in range(stretch.start, stretch.stop):
            trained[at] = stretch.trained
            roles[at] = stretch.role
    end_tokens = end_tokens_of(turns, chosen, rules, policy, roles)
    for at, token in end_tokens.items():
        trained[at] |= token.trained
        roles[at] = token.role

    is_masked = masked_roles(rules, policy)
    for at, id_ in enumerate(ids):
        is_pad = attention is None and id_ == rules.pad_id and not (at in end_tokens and end_tokens[at].emitted)
        if id_ < 0 or id_ in rules.media or is_pad or not attended[at] or is_masked[roles[at]]:
            trained[at] = False
    labels = [id_ if is_trained else IGNORE_INDEX for id_, is_trained in zip(ids, trained, strict=True)]
    return Masked(labels, roles, turns, chosen)


class Stretch(NamedTuple):
    """Tokens [start, stop) of one role, all trained or none."""

    start: int
    stop: int
    role: int
    trained: bool


def stretches(turns: Sequence[Turn], chosen: Sequence[bool], rules: Rules, policy: Policy) -> Iterator[Stretch]:
    """Yield the headers, contents and spans of the turns; where two overlap, the later one counts."""
    for turn, is_chosen in zip(turns, chosen, strict=True):
        rule = rules.rules[turn.rule]
        is_trained = is_chosen and role_is_trained(rule, rules, policy)
        yield Stretch(turn.start, turn.content, rule.role, policy.train_on_inputs or (is_trained and rule.include_start))
        yield Stretch(turn.content, turn.end, rule.role, policy.train_on_inputs or is_trained)
        for span in turn.spans:
            inner = rules.rules[span.rule]
            trained = policy.train_on_inputs or (is_chosen and span_is_trained(inner, rules, policy))
            yield Stretch(span.own, span.stop, inner.role, trained)


class EndToken(NamedTuple):
    """A token of an end marker. `emitted`: some role has to generate it to end its turn."""

    role: int
    trained: bool
    emitted: bool


def end_tokens_of(turns: Sequence[Turn], chosen: Sequence[bool], rules: Rules, policy: Policy, roles: Sequence[int]) -> dict[int, EndToken]:
    """Return the tokens of the end markers, by position.

    An end marker that is left in place is part of the next turn too. Such a token has the role that emits it, else the one in `roles`,
    which is that of the header, content or span it is in.
    """
    tokens: dict[int, EndToken] = {}
    for turn, end_trained in zip(turns, trained_ends(turns, chosen, rules, policy), strict=True):
        rule = rules.rules[turn.rule]
        for at in range(turn.end, turn.stop):
            before = tokens.get(at, EndToken(roles[at], trained=False, emitted=False))
            takes_role = rule.include_end or (roles[at] == OUTSIDE and not before.emitted)
            role = rule.role if takes_role else before.role
            tokens[at] = EndToken(role, before.trained or end_trained, before.emitted or rule.include_end)
    return tokens


def role_is_trained(rule: Rule, rules: Rules, policy: Policy) -> bool:
    """Whether `roles_to_train` names the role of a turn or span."""
    return rules.roles[rule.role] in policy.roles_to_train


def span_is_trained(rule: Rule, rules: Rules, policy: Policy) -> bool:
    """Whether a span of a trained turn is trained: its role is named, or it follows its turn, whose role is named, and isn't masked."""
    follows = rule.follows_turn and rules.roles[rule.within] in policy.roles_to_train
    return role_is_trained(rule, rules, policy) or (follows and rules.roles[rule.role] not in policy.roles_to_mask)


def masked_roles(rules: Rules, policy: Policy) -> list[bool]:
    """Return, per role id, whether `roles_to_mask` names the role; the last entry, False, is for -1: outside any turn."""
    return [*(role in policy.roles_to_mask for role in rules.roles), False]


def may_be_trained(turn: Turn, rules: Rules, policy: Policy) -> bool:
    """Whether a turn is trainable: its role, or a span in it, is trained."""
    return role_is_trained(rules.rules[turn.rule], rules, policy) or any(
        span_is_trained(rules.rules[span.rule], rules, policy) for span in turn.spans
    )


def choose_turns(turns: Sequence[Turn], rules: Rules, policy: Policy, flags: Iterator[bool] | None = None) -> list[bool]:
    """Return, per turn of a document, whether it is trained. Each trainable turn takes one of the `flags`."""
    chosen = [may_be_trained(turn, rules, policy) and bool(flags is None or next(flags, False)) for turn in turns]
    if policy.turns == "last":
        first = max((index for index, is_chosen in enumerate(chosen) if is_chosen), default=0)
    elif policy.turns == "last_round":
        first = max((index for index, turn in enumerate(turns) if is_question(turn, rules)), default=-1) + 1
    else:
        first = 0
    return [is_chosen and index >= first for index, is_chosen in enumerate(chosen)]


def is_question(turn: Turn, rules: Rules) -> bool:
    """Whether a turn is the user's, and carries no tool's result."""
    carries_result = any(rules.roles[rules.rules[span.rule].role] == RESULT_ROLE for span in turn.spans)
    return rules.roles[rules.rules[turn.rule].role] == QUESTION_ROLE and not carries_result


def check_train_turns(flags: Sequence[bool], count: int, policy: Policy, row: int = 0) -> None:
    """Raise InputError unless there is one flag for each of the `count` trainable turns."""
    if len(flags) != count:
        raise InputError(
            f"train_turns has {len(flags)} flags for row {row}, where {count} turns of {', '.join(policy.roles_to_train) or 'no role'} "
            "were found. `Masker.explain` shows them"
        )


def trained_ends(turns: Sequence[Turn], chosen: Sequence[bool], rules: Rules, policy: Policy) -> list[bool]:
    """Return, per turn of a document, whether its end marker is trained."""
    emitted = [turn.stop > turn.end and rules.rules[turn.rule].include_end for turn in turns]
    if policy.train_on_eos == "none":
        return [False] * len(turns)
    if policy.train_on_eos == "all":
        return emitted
    trained = [
        is_emitted and is_chosen and role_is_trained(rules.rules[turn.rule], rules, policy)
        for turn, is_emitted, is_chosen in zip(turns, emitted, chosen, strict=True)
    ]
    if policy.train_on_eos == "turn":
        return trained
    last = max((index for index, is_trained in enumerate(trained) if is_trained), default=None)
    return [index == last for index in range(len(turns))]

"""The array kernel with numba: one compiled pass over the tokens; agrees with `rolemask.masking.reference.mask` bit for bit.

It runs on one thread, so that the workers of a DataLoader do not compete for cores, and releases the GIL. numba caches the compiled code
on disk.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import Automaton, automaton_of
from rolemask.masking.fates import fates_of
from rolemask.masking.kernels.dense import matcher_steps, steps_and_outputs
from rolemask.masking.policy import Policy
from rolemask.masking.reference import masked_roles
from rolemask.matching.compiler import OUTSIDE, Rules

Ids = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
_F = TypeVar("_F", bound=Callable[..., Any])


def _compiled(function: _F) -> _F:
    """Compile with numba. To mypy the function keeps its type, whether numba is installed or not."""
    njit: Any = numba.njit
    compiled: _F = njit(cache=True, nogil=True)(function)
    return compiled


# Bits of the mark of a token. These follow from its id: a marker can begin with it; it can be a whole marker (or media or padding, which
# need a closer look too); it can be the second token of a marker. Together with the next token, the first two say that one may begin here.
_BEGINS, _ALONE, _FOLLOWS = 1, 2, 4
_LIVE = _BEGINS | _ALONE
_END_TRAINED, _END_EMITTED = 8, 16  # inside an end marker


class _Fates(NamedTuple):
    """The fields of `Fate`, one array each, by output."""

    role: NDArray[np.int8]
    trained_always: Bools
    trained_if_chosen: Bools
    starts_turn: Bools
    reopens: Bools
    is_candidate: Bools
    starts_question: Bools
    carries_result: Bools
    end_length: NDArray[np.uint32]
    end_role: NDArray[np.int8]
    end_emitted: Bools
    end_trained_always: Bools
    end_trained_if_chosen: Bools


_FATE_DTYPES: dict[str, DTypeLike] = {"role": np.int8, "end_length": np.uint32, "end_role": np.int8}


class _Matcher(NamedTuple):
    """The matcher of the automaton, as arrays. Indices are unsigned, which saves numba the checks for negative ones."""

    token_class: NDArray[np.uint32]  # id -> class, the last one for all other ids; 0 for what is in no marker, no media and no padding
    steps: NDArray[np.uint32]  # (states, classes)
    matches_in: NDArray[np.uint32]  # (states,)
    goes_on: Bools  # (states,), whether more tokens can change the matches


class _Tables(NamedTuple):
    """What the kernel reads."""

    matcher: _Matcher
    token_mark: NDArray[np.uint8]  # id -> mark, the last one for all other ids; one byte each, so that the table fits the cache
    is_media: Bools  # class -> whether its tokens are media
    is_pad: Bools  # class -> whether it is the padding token
    step: NDArray[np.uint32]  # (matches, states)
    output: NDArray[np.uint32]  # (matches, states)
    is_stable: Bools  # (states,), whether a token without a match leaves the state as it is
    fates: _Fates
    unanswered: np.uint32  # from an output to the same in a turn that nobody answered; 0 where no rule has such turns


class _Options(NamedTuple):
    """Which arguments are given (arrays that are not are empty), and the policies that the fates don't cover."""

    has_attention: bool
    has_starts: bool
    has_flags: bool
    with_roles: bool
    only_last_turn: bool
    only_last_round: bool
    only_last_end: bool


class _Row(NamedTuple):
    """One row of the batch: input, output, a mark per token, and what is found in the document at hand."""

    ids: Ids
    attention: Bools
    flags: Bools
    labels: Ids
    roles: NDArray[np.int8]
    marks: NDArray[np.uint8]
    live_at: NDArray[np.int64]  # the tokens of the document where a marker may begin, then its end
    live_matches: NDArray[np.uint32]  # the number of the matches at each of these


class NumbaKernel:
    """Masks arrays of shape (B, T)."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self._policy = policy
        self._is_masked = np.array(masked_roles(rules, policy))
        self._tables = _make_tables(rules, policy, automaton_of(rules))

    def mask(
        self,
        ids: Ids,
        attention: Bools | None = None,
        *,
        starts: Bools | None = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
    ) -> tuple[Ids, NDArray[np.int8], list[int]]:
        """Return labels (B, T) of the dtype of `ids`, roles (B, T) int8, and the number of trainable turns of each row.

        `train_turns` has one flag per trainable turn; the caller checks their number. Without `with_roles` the roles are (B, 0).
        """
        empty = np.zeros((len(ids), 0), dtype=np.bool_)
        flags = empty
        if train_turns is not None:
            flags = np.zeros((len(ids), max(map(len, train_turns), default=0)), dtype=np.bool_)
            for row, given in zip(flags, train_turns, strict=True):
                row[: len(given)] = given
        options = _Options(
            has_attention=attention is not None,
            has_starts=starts is not None,
            has_flags=train_turns is not None,
            with_roles=with_roles or bool(self._policy.roles_to_mask),
            only_last_turn=self._policy.turns == "last",
            only_last_round=self._policy.turns == "last_round",
            only_last_end=self._policy.train_on_eos == "last",
        )
        # numba compiles anew for every memory layout; a copy is cheaper.
        ids = np.ascontiguousarray(ids)
        attention = empty if attention is None else np.ascontiguousarray(attention)
        starts = empty if starts is None else np.ascontiguousarray(starts)
        labels = np.full_like(ids, IGNORE_INDEX)
        roles = np.full(ids.shape if options.with_roles else (len(ids), 0), OUTSIDE, dtype=np.int8)
        counts = np.zeros(len(ids), dtype=np.int64)
        _mask_rows(ids, attention, starts, flags, options, labels, roles, counts, self._tables)
        if self._policy.roles_to_mask:
            labels[self._is_masked[roles]] = IGNORE_INDEX
        return labels, roles if with_roles else roles[:, :0], counts.tolist()


def _make_tables(rules: Rules, policy: Policy, automaton: Automaton) -> _Tables:
    matcher = automaton.matcher
    # A class of the kernel is a class of the matcher, and whether its tokens are media or padding.
    classes: dict[int, tuple[int, bool, bool]] = {id_: (number, False, False) for id_, number in matcher.token_class.items()}
    for id_ in {*rules.media} if rules.pad_id is None else {*rules.media, rules.pad_id}:
        classes[id_] = matcher.token_class.get(id_, 0), id_ in rules.media, id_ == rules.pad_id
    kinds = list(dict.fromkeys([(0, False, False), *classes.values()]))
    number_of = {kind: number for number, kind in enumerate(kinds)}
    token_class = np.zeros(max(classes, default=-1) + 2, dtype=np.uint32)
    for id_, kind in classes.items():
        token_class[id_] = number_of[kind]
    is_media = np.array([kind[1] for kind in kinds], dtype=np.bool_)
    is_pad = np.array([kind[2] for kind in kinds], dtype=np.bool_)
    steps = matcher_steps(matcher, [kind[0] for kind in kinds])
    matches_in = np.array(matcher.matches_in, dtype=np.uint32)
    goes_on = np.array(matcher.goes_on)
    step, output = steps_and_outputs(automaton)
    quiet = np.array([not (out.starts_turn or out.opens != OUTSIDE or out.ended != OUTSIDE) for out in automaton.outputs])
    fates = fates_of(automaton, rules, policy)
    fields = zip(*fates, strict=True)
    return _Tables(
        matcher=_Matcher(token_class, steps, matches_in, goes_on),
        token_mark=_class_marks(steps, matches_in, goes_on, is_media | is_pad)[token_class],
        is_media=is_media,
        is_pad=is_pad,
        step=step,
        output=output,
        is_stable=(step[0] == np.arange(automaton.size)) & quiet[output[0]],
        fates=_Fates(
            *(np.array(field, dtype=_FATE_DTYPES.get(name, np.bool_)) for name, field in zip(_Fates._fields, fields, strict=True))
        ),
        unanswered=np.uint32(len(fates) - len(automaton.outputs)),
    )


def _class_marks(steps: NDArray[np.uint32], matches_in: NDArray[np.uint32], goes_on: Bools, is_special: Bools) -> NDArray[np.uint8]:
    """Return the mark of each class of tokens. `is_special`: media and padding."""
    second = steps[steps[0]]  # (class, next class) -> state of the matcher
    is_match = (matches_in[second] != 0) | goes_on[second]
    alone = is_match[:, 0] | is_special
    follows = is_match[~alone].any(axis=0)
    marks: NDArray[np.uint8] = (is_match.any(axis=1) * _BEGINS | alone * _ALONE | follows * _FOLLOWS).astype(np.uint8)
    return marks


# From here on, compiled. Slices start at index 0 and unsigned indices are never negative: both save checks.


@_compiled
def _mask_rows(
    ids: Ids,
    attention: Bools,
    starts: Bools,
    flags: Bools,
    options: _Options,
    labels: Ids,
    roles: NDArray[np.int8],
    counts: NDArray[np.int64],
    tables: _Tables,
) -> None:  # pragma: no cover: compiled
    size = ids.shape[1]
    marks = np.zeros(size + 1, dtype=np.uint8)  # nothing follows the last token
    live_at = np.empty(size + 1, dtype=np.int64)
    live_matches = np.empty(size, dtype=np.uint32)
    for index in range(ids.shape[0]):
        row = _Row(ids[index], attention[index], flags[index], labels[index], roles[index], marks, live_at, live_matches)
        _find_live(row.ids, row.attention, options.has_attention, marks, tables.token_mark)
        ordinal = 0
        start = 0
        while start < size:
            stop = start + 1
            if options.has_starts:
                while stop < size and not starts[index, stop]:
                    stop += 1
            else:
                stop = size
            _find_matches(row.ids, row.attention, options.has_attention, marks, start, stop, tables.matcher, live_at, live_matches)
            # With turns="last" or "last_round" a first pass finds the first turn to train, a second one trains from there on.
            first_turn = 0
            if options.only_last_turn or options.only_last_round:
                no_turn = stop - start + 1
                _, first_turn = _mask_document(row, start, stop, ordinal, no_turn, False, options, tables)
            ordinal, _ = _mask_document(row, start, stop, ordinal, first_turn, options.with_roles, options, tables)
            if start > 0:
                labels[index, start] = IGNORE_INDEX
            start = stop
        counts[index] = ordinal


@_compiled
def _find_live(
    ids: Ids, attention: Bools, has_attention: bool, marks: NDArray[np.uint8], token_mark: NDArray[np.uint8]
) -> None:  # pragma: no cover: compiled
    """Mark the tokens of a row where a marker may begin.

    Many tokens could begin a text marker, and mostly the next token rules it out. Nothing branches on it here: a branch that is predicted
    wrong costs more than ten tokens.
    """
    others = np.uint64(len(token_mark) - 1)
    for at in range(len(ids)):
        marks[at] = token_mark[min(np.uint64(ids[at]), others)] if not has_attention or attention[at] else 0
    for at in range(len(ids)):
        marks[at] &= marks[at + 1] // _FOLLOWS | _ALONE  # _BEGINS is left if the next one _FOLLOWS


@_compiled
def _next_live(marks: NDArray[np.uint8], at: int, stop: int) -> int:  # pragma: no cover: compiled
    """Return the first token from `at` on where a marker may begin, or `stop`."""
    while at + 8 <= stop:  # eight by one comparison
        block, live = marks[at : at + 8], 0
        for k in range(8):
            live |= block[k]
        if live & _LIVE:
            break
        at += 8
    while at < stop and not marks[at] & _LIVE:
        at += 1
    return at


@_compiled
def _class_of(id_: Any, seen: bool, token_class: NDArray[np.uint32]) -> Any:  # pragma: no cover: compiled
    """Return the class of a token; 0 where it is not attended to."""
    return token_class[min(np.uint64(id_), np.uint64(len(token_class) - 1))] if seen else np.uint32(0)


@_compiled
def _find_matches(
    ids: Ids,
    attention: Bools,
    has_attention: bool,
    marks: NDArray[np.uint8],
    start: int,
    stop: int,
    matcher: _Matcher,
    live_at: NDArray[np.int64],
    live_matches: NDArray[np.uint32],
) -> None:  # pragma: no cover: compiled
    """Run the matcher at the live tokens of a document; fills `live_at` and `live_matches`."""
    count = 0
    live = _next_live(marks, start, stop)
    while live < stop:
        state = np.uint32(0)
        at = live
        while at < stop and matcher.goes_on[state]:
            state = matcher.steps[state, _class_of(ids[at], not has_attention or attention[at], matcher.token_class)]
            at += 1
        live_at[count] = live
        live_matches[count] = matcher.matches_in[state]
        count += 1
        live = _next_live(marks, live + 1, stop)
    live_at[count] = stop


@_compiled
def _mask_document(
    row: _Row, start: int, stop: int, ordinal: int, first_turn: int, with_roles: bool, options: _Options, tables: _Tables
) -> tuple[int, int]:  # pragma: no cover: compiled
    """Mask one document; return the number of flags used so far in the row, and the first turn to train by the policy.

    Turns before `first_turn` are not trained. Turns count from 1.
    """
    fates, token_class = tables.fates, tables.matcher.token_class
    state = np.uint32(0)
    turn = last = question = question_before = 0
    is_candidate = is_chosen = False
    marked_to = start  # end markers reach up to here
    end_at = end_stop = 0  # the last end marker of a chosen turn
    at, next_live = start, 0
    # Nobody answered a turn that meets its own start again. Then the scan goes back to its first token, and reads it as a question.
    shift, unanswered_at = np.uint32(0), -1
    before = (at, next_live, state, turn, ordinal, last, question, question_before, is_chosen, marked_to, end_at, end_stop)
    while at < stop:
        is_live = at == row.live_at[next_live]
        if at >= marked_to and tables.is_stable[state] and not is_live:
            # Most tokens: in no marker, inside a turn. The whole stretch has one fate.
            ahead = row.live_at[next_live]
            out = tables.output[0, state] + shift
            if fates.trained_always[out] or (is_chosen and fates.trained_if_chosen[out]):
                _label_stretch(row.ids[at:ahead], row.attention[at:ahead], row.labels[at:ahead])
            if with_roles and fates.role[out] != OUTSIDE:
                row.roles[at:ahead] = fates.role[out]
            at = ahead
            continue
        found = row.live_matches[next_live] if is_live else np.uint32(0)
        answered = tables.output[found, state]
        if tables.unanswered and fates.starts_turn[answered]:
            if fates.reopens[answered] and unanswered_at != before[0]:
                unanswered_at = before[0]
                _forget(row, unanswered_at, at, with_roles)
                at, next_live, state, turn, ordinal, last, question, question_before, is_chosen, marked_to, end_at, end_stop = before
                continue
            before = (at, next_live, state, turn, ordinal, last, question, question_before, is_chosen, marked_to, end_at, end_stop)
            shift = tables.unanswered if at == unanswered_at else np.uint32(0)
        out = answered + shift
        next_live += is_live
        state = tables.step[found, state]
        length = fates.end_length[out]
        if length > 0:
            end_trained = fates.end_trained_always[out]
            if is_chosen and fates.end_trained_if_chosen[out]:
                end_trained = not options.only_last_end
                end_at, end_stop = at, at + length
            end_marks = row.marks[at : at + length]
            if with_roles:
                _paint_end(end_marks, row.roles[at : at + length], fates.end_role[out], fates.end_emitted[out])
            _mark_end(end_marks, end_trained, fates.end_emitted[out])
            marked_to = max(marked_to, at + length)
        if fates.starts_turn[out]:
            turn += 1
            is_candidate = is_chosen = False
            if fates.starts_question[out]:
                question_before, question = question, turn
        if fates.carries_result[out] and question == turn:
            question = question_before
        if fates.is_candidate[out] and not is_candidate:
            is_candidate = True
            is_chosen = not options.has_flags or (ordinal < row.flags.shape[0] and row.flags[ordinal])
            ordinal += 1
            if is_chosen:
                last = turn
            is_chosen = is_chosen and turn >= first_turn
        mark = row.marks[at] if at < marked_to else np.uint8(0)
        end_emitted = (mark & _END_EMITTED) != 0
        trained = fates.trained_always[out] or (is_chosen and fates.trained_if_chosen[out]) or (mark & _END_TRAINED) != 0
        if (
            trained
            and (not options.has_attention or row.attention[at])
            and not _is_excluded(row.ids[at], options.has_attention or end_emitted, token_class, tables.is_media, tables.is_pad)
        ):
            row.labels[at] = row.ids[at]
        if with_roles and fates.role[out] != OUTSIDE and not end_emitted:
            row.roles[at] = fates.role[out]
        at += 1
    for k in range(end_at, end_stop if options.only_last_end else end_at):
        if (not options.has_attention or row.attention[k]) and not _is_excluded(
            row.ids[k], True, token_class, tables.is_media, tables.is_pad
        ):
            row.labels[k] = row.ids[k]
    return ordinal, question + 1 if options.only_last_round else last


@_compiled
def _forget(row: _Row, start: int, stop: int, with_roles: bool) -> None:  # pragma: no cover: compiled
    """Take back the labels of tokens, and their roles where no end marker has them."""
    for k in range(start, stop):
        row.labels[k] = IGNORE_INDEX
        if with_roles and not row.marks[k] & _END_EMITTED:
            row.roles[k] = OUTSIDE


@_compiled
def _label_stretch(ids: Ids, attention: Bools, labels: Ids) -> None:  # pragma: no cover: compiled
    """Label tokens that are neither media nor padding."""
    for k in range(len(ids)):
        labels[k] = ids[k] if ids[k] >= 0 else IGNORE_INDEX
    for k in range(len(attention)):
        if not attention[k]:
            labels[k] = IGNORE_INDEX


@_compiled
def _paint_end(marks: NDArray[np.uint8], roles: NDArray[np.int8], role: Any, emitted: bool) -> None:  # pragma: no cover: compiled
    """Give the tokens of an end marker its role, but those of an earlier one that its role emits only if this one is emitted too."""
    for k in range(len(marks)):
        if emitted or not marks[k] & _END_EMITTED:
            roles[k] = role


@_compiled
def _mark_end(marks: NDArray[np.uint8], trained: bool, emitted: bool) -> None:  # pragma: no cover: compiled
    for k in range(len(marks)):
        marks[k] |= (_END_TRAINED if trained else 0) | (_END_EMITTED if emitted else 0)


@_compiled
def _is_excluded(
    id_: Any, pad_is_token: bool, token_class: NDArray[np.uint32], is_media: Bools, is_pad: Bools
) -> bool:  # pragma: no cover: compiled
    """Whether a token is media or padding."""
    number = _class_of(id_, True, token_class)
    return id_ < 0 or is_media[number] or (is_pad[number] and not pad_is_token)

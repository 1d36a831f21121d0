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
from rolemask.masking.policy import Policy
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
    is_candidate: Bools
    end_length: NDArray[np.uint32]
    end_role: NDArray[np.int8]
    end_emitted: Bools
    end_trained_always: Bools
    end_trained_if_chosen: Bools


_FATE_DTYPES: dict[str, DTypeLike] = {"role": np.int8, "end_length": np.uint32, "end_role": np.int8}


class _Tables(NamedTuple):
    """What the kernel reads, as arrays. Indices are unsigned, which saves numba the checks for negative ones."""

    token_class: NDArray[np.uint32]  # id -> class, the last one for all other ids; 0 for what is in no marker, no media and no padding
    token_mark: NDArray[np.uint8]  # id -> mark, the last one for all other ids; one byte each, so that the table fits the cache
    is_media: Bools  # class -> whether its tokens are media
    is_pad: Bools  # class -> whether it is the padding token
    steps: NDArray[np.uint32]  # matcher: (states, classes)
    matches_in: NDArray[np.uint32]  # matcher: (states,)
    goes_on: Bools  # matcher: (states,), whether more tokens can change the matches
    step: NDArray[np.uint32]  # automaton: (matches, states)
    output: NDArray[np.uint32]  # automaton: (matches, states)
    is_stable: Bools  # automaton: (states,), whether a token without a match leaves the state as it is
    fates: _Fates


class _Options(NamedTuple):
    """What numba can't see from empty arrays, and the two policies that need more than the fates."""

    has_attention: bool
    has_starts: bool
    has_flags: bool
    with_roles: bool
    only_last_turn: bool
    only_last_end: bool


class _Row(NamedTuple):
    """One row of the batch: input, output, and a mark per token."""

    ids: Ids
    attention: Bools
    flags: Bools
    labels: Ids
    roles: NDArray[np.int8]
    marks: NDArray[np.uint8]


class NumbaKernel:
    """Masks arrays of shape (B, T)."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self._policy = policy
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
            with_roles=with_roles,
            only_last_turn=self._policy.turns == "last",
            only_last_end=self._policy.train_on_eos == "last",
        )
        # numba compiles anew for every memory layout; a copy is cheaper.
        ids = np.ascontiguousarray(ids)
        attention = empty if attention is None else np.ascontiguousarray(attention)
        starts = empty if starts is None else np.ascontiguousarray(starts)
        labels = np.full_like(ids, IGNORE_INDEX)
        roles = np.full(ids.shape if with_roles else (len(ids), 0), OUTSIDE, dtype=np.int8)
        counts = np.zeros(len(ids), dtype=np.int64)
        _mask_rows(ids, attention, starts, flags, options, labels, roles, counts, self._tables)
        return labels, roles, counts.tolist()


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
    steps = np.array(matcher.steps, dtype=np.uint32)[:, [kind[0] for kind in kinds]]
    matches_in = np.array(matcher.matches_in, dtype=np.uint32)
    goes_on = np.array([any(after != state for after in row) for state, row in enumerate(matcher.steps)], dtype=np.bool_)
    step = np.array(automaton.step, dtype=np.uint32)
    output = np.array(automaton.output, dtype=np.uint32)
    quiet = np.array([not (out.starts_turn or out.opens != OUTSIDE or out.ended != OUTSIDE) for out in automaton.outputs])
    fields = zip(*fates_of(automaton, rules, policy), strict=True)
    return _Tables(
        token_class=token_class,
        token_mark=_class_marks(steps, matches_in, goes_on, is_media | is_pad)[token_class],
        is_media=is_media,
        is_pad=is_pad,
        steps=steps,
        matches_in=matches_in,
        goes_on=goes_on,
        step=step,
        output=output,
        is_stable=(step[0] == np.arange(len(automaton.states))) & quiet[output[0]],
        fates=_Fates(
            *(np.array(field, dtype=_FATE_DTYPES.get(name, np.bool_)) for name, field in zip(_Fates._fields, fields, strict=True))
        ),
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
    for index in range(ids.shape[0]):
        row = _Row(ids[index], attention[index], flags[index], labels[index], roles[index], marks)
        _find_live(row, options, tables)
        ordinal = 0
        start = 0
        while start < size:
            stop = start + 1
            if options.has_starts:
                while stop < size and not starts[index, stop]:
                    stop += 1
            else:
                stop = size
            # With turns="last" a first pass finds the last trainable turn, a second one trains it.
            last_turn = -1
            if options.only_last_turn:
                _, last_turn = _mask_document(row, start, stop, ordinal, -1, False, options, tables)
            ordinal, _ = _mask_document(row, start, stop, ordinal, last_turn, options.with_roles, options, tables)
            if start > 0:
                labels[index, start] = IGNORE_INDEX
            start = stop
        counts[index] = ordinal


@_compiled
def _find_live(row: _Row, options: _Options, tables: _Tables) -> None:  # pragma: no cover: compiled
    """Mark the tokens of a row where a marker may begin.

    Many tokens could begin a text marker, and mostly the next token rules it out. Nothing branches on it here: a branch that is predicted
    wrong costs more than ten tokens.
    """
    ids, attention, marks, token_mark = row.ids, row.attention, row.marks, tables.token_mark
    others = np.uint64(len(token_mark) - 1)
    for at in range(len(ids)):
        marks[at] = token_mark[min(np.uint64(ids[at]), others)] if not options.has_attention or attention[at] else 0
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
def _class_at(row: _Row, at: int, options: _Options, tables: _Tables) -> Any:  # pragma: no cover: compiled
    """Return the class of a token; 0 where it is not attended to."""
    others = np.uint64(len(tables.token_class) - 1)
    seen = not options.has_attention or row.attention[at]
    return tables.token_class[min(np.uint64(row.ids[at]), others)] if seen else np.uint32(0)


@_compiled
def _matches_at(row: _Row, at: int, stop: int, options: _Options, tables: _Tables) -> Any:  # pragma: no cover: compiled
    """Return the number of the matches at a token, 0 for none."""
    if not row.marks[at] & _LIVE:
        return np.uint32(0)
    path = tables.steps[0, _class_at(row, at, options, tables)]
    at += 1
    while at < stop and tables.goes_on[path]:
        path = tables.steps[path, _class_at(row, at, options, tables)]
        at += 1
    return tables.matches_in[path]


@_compiled
def _mask_document(
    row: _Row, start: int, stop: int, ordinal: int, last_turn: int, with_roles: bool, options: _Options, tables: _Tables
) -> tuple[int, int]:  # pragma: no cover: compiled
    """Mask one document; return the number of flags used so far in the row, and the number of its last turn to train.

    `last_turn` is the only turn to train with `only_last_turn`, -1 for none. Turns count from 1.
    """
    fates = tables.fates
    state = np.uint32(0)
    turn, last = 0, -1
    is_candidate = is_chosen = False
    marked_to = start  # end markers reach up to here
    end_at = end_stop = 0  # the last end marker of a chosen turn
    at = start
    while at < stop:
        if at >= marked_to and tables.is_stable[state] and not row.marks[at] & _LIVE:
            # Most tokens: in no marker, inside a turn. The whole stretch has one fate.
            ahead = _next_live(row.marks, at, stop)
            out = tables.output[0, state]
            if fates.trained_always[out] or (is_chosen and fates.trained_if_chosen[out]):
                _label_stretch(row.ids[at:ahead], row.attention[at:ahead], row.labels[at:ahead])
            if with_roles and fates.role[out] != OUTSIDE:
                row.roles[at:ahead] = fates.role[out]
            at = ahead
            continue
        found = _matches_at(row, at, stop, options, tables)
        out = tables.output[found, state]
        state = tables.step[found, state]
        length = fates.end_length[out]
        if length > 0:
            end_trained = fates.end_trained_always[out]
            if is_chosen and fates.end_trained_if_chosen[out]:
                end_trained = not options.only_last_end
                end_at, end_stop = at, at + length
            _mark_end(row, at, out, end_trained, with_roles, fates)
            marked_to = max(marked_to, at + length)
        if fates.starts_turn[out]:
            turn += 1
            is_candidate = is_chosen = False
        if fates.is_candidate[out] and not is_candidate:
            is_candidate = True
            is_chosen = not options.has_flags or (ordinal < row.flags.shape[0] and row.flags[ordinal])
            ordinal += 1
            if is_chosen:
                last = turn
            if options.only_last_turn:
                is_chosen = is_chosen and turn == last_turn
        mark = row.marks[at] if at < marked_to else np.uint8(0)
        trained = fates.trained_always[out] or (is_chosen and fates.trained_if_chosen[out]) or (mark & _END_TRAINED) != 0
        if trained:
            _label_token(row, at, (mark & _END_EMITTED) != 0, options, tables)
        if with_roles and fates.role[out] != OUTSIDE and not mark & _END_EMITTED:
            row.roles[at] = fates.role[out]
        at += 1
    if options.only_last_end:
        for k in range(end_at, end_stop):
            _label_token(row, k, True, options, tables)
    return ordinal, last


@_compiled
def _label_stretch(ids: Ids, attention: Bools, labels: Ids) -> None:  # pragma: no cover: compiled
    """Label tokens that are neither media nor padding."""
    for k in range(len(ids)):
        labels[k] = ids[k] if ids[k] >= 0 else IGNORE_INDEX
    for k in range(len(attention)):
        if not attention[k]:
            labels[k] = IGNORE_INDEX


@_compiled
def _mark_end(row: _Row, at: int, out: Any, end_trained: bool, with_roles: bool, fates: _Fates) -> None:  # pragma: no cover: compiled
    """Mark the tokens of the end marker that begins at `at`, and give them its role."""
    emitted = fates.end_emitted[out]
    bits = (_END_TRAINED if end_trained else 0) | (_END_EMITTED if emitted else 0)
    for k in range(at, at + fates.end_length[out]):
        if with_roles and (emitted or not row.marks[k] & _END_EMITTED):
            row.roles[k] = fates.end_role[out]
        row.marks[k] |= bits


@_compiled
def _label_token(row: _Row, at: int, end_emitted: bool, options: _Options, tables: _Tables) -> None:  # pragma: no cover: compiled
    """Label a trained token, unless it is media, padding or not attended to. In an end marker to emit, the pad id is no padding."""
    number = _class_at(row, at, options, tables)
    seen = not options.has_attention or row.attention[at]
    is_padding = not options.has_attention and tables.is_pad[number] and not end_emitted
    if seen and row.ids[at] >= 0 and not tables.is_media[number] and not is_padding:
        row.labels[at] = row.ids[at]

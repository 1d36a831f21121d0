"""The array kernel with numba: one compiled pass over the tokens; agrees with `rolemask.masking.reference.mask` bit for bit.

It runs on one thread, so that the workers of a DataLoader do not compete for cores, and releases the GIL. numba caches the compiled code
on disk; where it cannot, each process compiles it anew.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import automaton_of
from rolemask.masking.kernels.dense import OPENS
from rolemask.masking.kernels.tables import ALONE, FOLLOWS, LIVE, Bools, Ids, Records, Tables, make_tables
from rolemask.masking.labelled import Labelled
from rolemask.masking.policy import Policy
from rolemask.matching.compiler import OUTSIDE, Rules

_F = TypeVar("_F", bound=Callable[..., Any])

logger = logging.getLogger("rolemask")

_FUNCTIONS: list[Any] = []  # all that is compiled


def _compiled(function: _F) -> _F:
    """Compile with numba. To mypy the function keeps its type, whether numba is installed or not."""
    njit: Any = numba.njit
    try:
        compiled: _F = njit(cache=True, nogil=True)(function)
    except RuntimeError as error:  # there is no folder that it can write
        if not _FUNCTIONS:
            _tell_of_cache(error)
        compiled = njit(nogil=True)(function)
    _FUNCTIONS.append(compiled)
    return compiled


def _tell_of_cache(error: Exception) -> None:
    logger.warning(
        "numba cannot use its cache (%s: %s), so the first batch of each process takes some seconds longer. "
        "Set NUMBA_CACHE_DIR to a folder that can be written, or remove what is damaged in it",
        type(error).__name__,
        error,
    )


_END_TRAINED, _END_EMITTED = 8, 16  # bits of the mark of a token inside an end marker, beside those of `tables`
_NONE = np.empty(0, dtype=np.bool_)  # an argument that is not given
_WORD = 8  # marks that are looked at in one step
_LIVE_WORD = np.uint64(LIVE * 0x0101010101010101)


class _Row(NamedTuple):
    """One row of the batch: input, output, a mark per token, and what is found in the document at hand. What is not given is empty."""

    ids: Ids
    attention: Bools
    flags: Bools
    labels: Ids
    roles: NDArray[np.int8]
    events: NDArray[np.uint32]
    marks: NDArray[np.uint8]
    words: NDArray[np.uint64]  # the same marks, eight in each
    live_at: NDArray[np.int64]  # the tokens of the document where a marker may begin, then its end
    live_matches: NDArray[np.uint32]  # the number of the matches at each of these


class NumbaKernel:
    """Masks rows that stand end to end."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self._tables = make_tables(rules, policy, automaton_of(rules))
        self._load()

    def _load(self) -> None:
        """Load the compiled code from the cache, or compile it."""
        nothing = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        try:
            self.mask(*nothing)
        except Exception as error:  # numba lets through whatever a damaged file or a full disk raises
            _tell_of_cache(error)
            for function in _FUNCTIONS:
                function._cache.disable()
            self.mask(*nothing)

    def mask(
        self,
        ids: Ids,
        offsets: NDArray[np.int64],
        attention: Bools | None = None,
        *,
        starts: Bools | None = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
        with_events: bool = False,
    ) -> Labelled:
        """See `rolemask.masking.dispatch.ArrayKernel`."""
        rows = len(offsets) - 1
        flags = np.empty((rows, 0), dtype=np.bool_) if train_turns is None else _padded(train_turns)
        labels = np.empty(len(ids), dtype=np.int64)
        roles = np.empty(len(ids) if with_roles or len(self._tables.is_masked) else 0, dtype=np.int8)
        events = np.zeros(len(ids) if with_events else 0, dtype=np.uint32)
        counts, trains = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.bool_)
        _mask_rows(
            _own(ids, np.int64),
            _own(offsets, np.int64),
            _NONE if attention is None else _own(attention, np.bool_),
            _NONE if starts is None else _own(starts, np.bool_),
            flags,
            labels,
            roles,
            events,
            counts,
            trains,
            self._tables,
        )
        return Labelled(labels, roles if with_roles else None, counts, trains, events if with_events else None)


def _padded(train_turns: Sequence[Sequence[bool]]) -> Bools:
    """Return the flags as one array with a column more than there are flags in a row: one that is not empty, whatever is given."""
    flags = np.zeros((len(train_turns), max(map(len, train_turns), default=0) + 1), dtype=np.bool_)
    for row, given in zip(flags, train_turns, strict=True):
        row[: len(given)] = given
    return flags


def _own(values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the values as an array that numba has compiled for: it compiles anew for every dtype and layout, and for read-only arrays."""
    flags = values.flags
    is_fit = values.dtype == dtype and flags.c_contiguous and flags.writeable and flags.aligned
    return values if is_fit else np.array(values, dtype=dtype, order="C")


# From here on, compiled. Slices start at index 0 and unsigned indices are never negative: both save checks.


@_compiled
def _mask_rows(
    ids: Ids,
    offsets: NDArray[np.int64],
    attention: Bools,
    starts: Bools,
    flags: Bools,
    labels: Ids,
    roles: NDArray[np.int8],
    events: NDArray[np.uint32],
    counts: NDArray[np.int64],
    trains: Bools,
    tables: Tables,
) -> None:  # pragma: no cover: compiled
    options, is_masked = tables.options[0], tables.is_masked
    longest = 0
    for index in range(len(offsets) - 1):
        longest = max(longest, offsets[index + 1] - offsets[index])
    words = np.zeros(longest // _WORD + 1, dtype=np.uint64)
    marks = words.view(np.uint8)
    live_at = np.empty(longest + 1, dtype=np.int64)
    live_matches = np.empty(longest, dtype=np.uint32)
    for index in range(len(offsets) - 1):
        begin, end = offsets[index], offsets[index + 1]
        size = end - begin
        row = _Row(
            ids[begin:end],
            attention[begin:end],
            flags[index],
            labels[begin:end],
            roles[begin:end],
            events[begin:end],
            marks,
            words,
            live_at,
            live_matches,
        )
        row.labels[:] = IGNORE_INDEX
        row.roles[:] = OUTSIDE
        _find_live(row, tables.token_mark)
        ordinal = 0
        start = 0
        while start < size:
            stop = start + 1
            if len(starts):
                while stop < size and not starts[begin + stop]:
                    stop += 1
            else:
                stop = size
            _find_matches(row, start, stop, tables)
            # With turns="last" or "last_round" a first pass finds the first turn to train, a second one trains from there on.
            first_turn = 0
            if options.only_last_turn or options.only_last_round:
                no_turn = stop - start + 1
                _, first_turn = _mask_document(row, start, stop, ordinal, no_turn, False, tables)
            ordinal, _ = _mask_document(row, start, stop, ordinal, first_turn, len(row.roles) > 0, tables)
            if start > 0:
                row.labels[start] = IGNORE_INDEX
            start = stop
        for at in range(size if len(is_masked) else 0):
            if is_masked[row.roles[at]]:
                row.labels[at] = IGNORE_INDEX
        counts[index] = ordinal
        trains[index] = False
        for at in range(size):
            if row.labels[at] != IGNORE_INDEX:
                trains[index] = True
                break


@_compiled
def _find_live(row: _Row, token_mark: NDArray[np.uint8]) -> None:  # pragma: no cover: compiled
    """Mark the tokens of a row where a marker may begin.

    Many tokens could begin a text marker, and mostly the next token rules it out. Nothing branches on it here: a branch that is predicted
    wrong costs more than ten tokens.
    """
    ids, attention, marks = row.ids, row.attention, row.marks
    size = len(ids)
    others = np.uint64(len(token_mark) - 1)
    for at in range(size):
        marks[at] = token_mark[min(np.uint64(ids[at]), others)] if len(attention) == 0 or attention[at] else 0
    marks[size] = 0  # nothing follows the last token
    for at in range(size):
        marks[at] &= marks[at + 1] // FOLLOWS | ALONE  # BEGINS is left if the next one FOLLOWS


@_compiled
def _find_matches(row: _Row, start: int, stop: int, tables: Tables) -> None:  # pragma: no cover: compiled
    """Run the matcher at the live tokens of a document; fills `live_at` and `live_matches`."""
    count = 0
    has_attention = len(row.attention) > 0
    for word in range(start // _WORD, (stop + _WORD - 1) // _WORD):
        if not row.words[word] & _LIVE_WORD:
            continue
        for live in range(max(start, word * _WORD), min(stop, (word + 1) * _WORD)):
            if not row.marks[live] & LIVE:
                continue
            state = np.uint32(0)
            at = live
            while at < stop and tables.matcher_states[state].goes_on:
                state = tables.next_state[state, _class_of(row.ids[at], not has_attention or row.attention[at], tables.token_class)]
                at += 1
            row.live_at[count] = live
            row.live_matches[count] = tables.matcher_states[state].matches
            count += 1
    row.live_at[count] = stop


@_compiled
def _class_of(id_: Any, seen: bool, token_class: NDArray[np.uint32]) -> Any:  # pragma: no cover: compiled
    """Return the class of a token; 0 where it is not attended to."""
    return token_class[min(np.uint64(id_), np.uint64(len(token_class) - 1))] if seen else np.uint32(0)


@_compiled
def _mask_document(
    row: _Row, start: int, stop: int, ordinal: int, first_turn: int, with_roles: bool, tables: Tables
) -> tuple[int, int]:  # pragma: no cover: compiled
    """Mask one document; return the number of flags used so far in the row, and the first turn to train by the policy.

    Turns before `first_turn` are not trained. Turns count from 1.
    """
    states, token_class, options = tables.states, tables.token_class, tables.options[0]
    has_attention, has_flags = len(row.attention) > 0, len(row.flags) > 0
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
        if at >= marked_to and states[state].is_stable and not is_live:
            # Most tokens: in no marker, inside a turn. The whole stretch has one fate.
            ahead = row.live_at[next_live]
            fate = tables.fates[states[state].output + shift]
            if fate.trained_always or (is_chosen and fate.trained_if_chosen):
                _label_stretch(row.ids[at:ahead], row.attention[at:ahead], row.labels[at:ahead])
            if with_roles and fate.role != OUTSIDE:
                row.roles[at:ahead] = fate.role
            at = ahead
            continue
        found = row.live_matches[next_live] if is_live else np.uint32(0)
        after, answered = _step(found, state, tables)
        if options.unanswered and tables.fates[answered].starts_turn:
            if tables.fates[answered].reopens and unanswered_at != before[0]:
                unanswered_at = before[0]
                _forget(row, unanswered_at, at, with_roles)
                at, next_live, state, turn, ordinal, last, question, question_before, is_chosen, marked_to, end_at, end_stop = before
                continue
            before = (at, next_live, state, turn, ordinal, last, question, question_before, is_chosen, marked_to, end_at, end_stop)
            shift = options.unanswered if at == unanswered_at else np.uint32(0)
        fate = tables.fates[answered + shift]
        if len(row.events):
            row.events[at] = answered + shift + 1
        next_live += is_live
        state = after
        length = fate.end_length
        if length > 0:
            end_trained = fate.end_trained_always
            if is_chosen and fate.end_trained_if_chosen:
                end_trained = not options.only_last_end
                end_at, end_stop = at, at + length
            end_marks = row.marks[at : at + length]
            if with_roles:
                _paint_end(end_marks, row.roles[at : at + length], fate.end_role, fate.end_emitted)
            _mark_end(end_marks, end_trained, fate.end_emitted)
            marked_to = max(marked_to, at + length)
        if fate.starts_turn:
            turn += 1
            is_candidate = is_chosen = False
            if fate.starts_question:
                question_before, question = question, turn
        if fate.carries_result and question == turn:
            question = question_before
        if fate.is_candidate and not is_candidate:
            is_candidate = True
            is_chosen = not has_flags or (ordinal < row.flags.shape[0] and row.flags[ordinal])
            ordinal += 1
            if is_chosen:
                last = turn
            is_chosen = is_chosen and turn >= first_turn
        mark = row.marks[at] if at < marked_to else np.uint8(0)
        end_emitted = (mark & _END_EMITTED) != 0
        trained = fate.trained_always or (is_chosen and fate.trained_if_chosen) or (mark & _END_TRAINED) != 0
        if (
            trained
            and (not has_attention or row.attention[at])
            and not _is_excluded(row.ids[at], has_attention or end_emitted, token_class, tables.classes)
        ):
            row.labels[at] = row.ids[at]
        if with_roles and fate.role != OUTSIDE and not end_emitted:
            row.roles[at] = fate.role
        at += 1
    for k in range(end_at, end_stop if options.only_last_end else end_at):
        if (not has_attention or row.attention[k]) and not _is_excluded(row.ids[k], True, token_class, tables.classes):
            row.labels[k] = row.ids[k]
    return ordinal, question + 1 if options.only_last_round else last


@_compiled
def _step(found: Any, state: Any, tables: Tables) -> tuple[Any, Any]:  # pragma: no cover: compiled
    """Return the state after a token with these matches, and the output there."""
    column = tables.states[state].column
    if found == 0 or column == 0:
        return tables.states[state].step, tables.states[state].output
    cell = tables.cells[tables.opened[found, 0], column]
    if cell.step == OPENS:
        return tables.opened[found, 1], tables.opened[found, np.uint32(2) + cell.output]
    return cell.step, cell.output


@_compiled
def _forget(row: _Row, start: int, stop: int, with_roles: bool) -> None:  # pragma: no cover: compiled
    """Take back the labels of tokens, and their roles where no end marker has them."""
    for k in range(start, stop):
        row.labels[k] = IGNORE_INDEX
        if len(row.events):
            row.events[k] = 0
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
def _is_excluded(id_: Any, pad_is_token: bool, token_class: NDArray[np.uint32], classes: Records) -> bool:  # pragma: no cover: compiled
    """Whether a token is media or padding."""
    number = _class_of(id_, True, token_class)
    return id_ < 0 or classes[number].is_media or (classes[number].is_pad and not pad_is_token)

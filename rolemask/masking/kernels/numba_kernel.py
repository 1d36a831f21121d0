"""The path for arrays where numba is installed: one pass over the tokens, compiled; agrees with the reference bit for bit.

The kernel runs on one thread, so that the workers of a DataLoader do not fight for cores, and releases the GIL. numba keeps what it
compiled in its cache on disk.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import Automaton, build_automaton, end_is_emitted, end_may_be_trained, is_trained, makes_a_choice, role_of
from rolemask.masking.policy import Policy
from rolemask.matching.compiler import OUTSIDE, Rules

# Bits of the mark of a token. By its id alone: a marker can begin with it, it can be one by itself (so can media and padding, which need a
# closer look too), it can be the second token of one. Beside the token behind it, the first two mean that a marker may begin here.
_BEGINS, _ALONE, _FOLLOWS = 1, 2, 4
_LIVE = _BEGINS | _ALONE
_END_TRAINED, _END_OWNED = 8, 16  # inside an end marker


class _Tables(NamedTuple):
    """What the kernel reads, as arrays; unsigned where they hold indices, which saves the checks for negative ones."""

    token_class: NDArray[np.uint32]  # id -> class, the last one for all other ids; 0 for what is in no marker, no media and no padding
    token_mark: NDArray[np.uint8]  # id -> mark, the last one for all other ids; one byte each, to fit the cache: each token is looked up
    is_barred: NDArray[np.bool_]  # class -> whether its tokens are never trained (media)
    is_pad: NDArray[np.bool_]  # class -> whether it is the padding token
    steps: NDArray[np.uint32]  # matcher: (states, classes)
    finding: NDArray[np.uint32]  # matcher: (states,)
    goes_on: NDArray[np.bool_]  # matcher: (states,), whether more tokens can change what is found
    step: NDArray[np.uint32]  # machine: (findings, states)
    output: NDArray[np.uint32]  # machine: (findings, states)
    is_stable: NDArray[np.bool_]  # machine: (states,), whether a token at which nothing is found leaves the state as it is
    role: NDArray[np.int8]  # per output: the role of the token
    always: NDArray[np.bool_]  # per output: trained whatever turns are chosen
    if_chosen: NDArray[np.bool_]  # per output: trained if the turn is
    starts_turn: NDArray[np.bool_]
    is_candidate: NDArray[np.bool_]  # per output: from here on, something of the turn may be trained
    end_length: NDArray[np.uint32]
    end_role: NDArray[np.int8]
    end_owned: NDArray[np.bool_]  # per output: the end marker that begins here is its role's to emit
    end_always: NDArray[np.bool_]
    end_if_chosen: NDArray[np.bool_]


class NumbaKernel:
    """Masks arrays of shape (B, T)."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self._policy = policy
        self._tables = _make_tables(rules, policy, build_automaton(rules))

    def mask(
        self,
        ids: NDArray[Any],
        attention: NDArray[np.bool_] | None = None,
        *,
        starts: NDArray[np.bool_] | None = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
    ) -> tuple[NDArray[Any], NDArray[np.int8], list[int]]:
        """Return labels (B, T) of the dtype of `ids`, roles (B, T) int8 (without `with_roles` (B, 0)), and the number of turns, per row.

        Counted are the turns of which anything may be trained. `train_turns` has a flag for each of them; whether the numbers agree is
        checked elsewhere.
        """
        none = np.zeros((len(ids), 0), dtype=np.bool_)
        flags = none
        has_attention, has_starts, has_flags = attention is not None, starts is not None, train_turns is not None
        if train_turns is not None:
            flags = np.zeros((len(ids), max(map(len, train_turns), default=0)), dtype=np.bool_)
            for row, given in zip(flags, train_turns, strict=True):
                row[: len(given)] = given
        # Numba compiles anew for every memory layout; a copy is cheaper.
        ids, attention, starts = (np.ascontiguousarray(array) if array is not None else none for array in (ids, attention, starts))
        labels = np.full_like(ids, IGNORE_INDEX)
        roles = np.full(ids.shape if with_roles else (len(ids), 0), OUTSIDE, dtype=np.int8)
        counts = np.zeros(len(ids), dtype=np.int64)
        _mask_rows(
            ids,
            attention,
            starts,
            flags,
            has_attention,
            has_starts,
            has_flags,
            with_roles,
            self._policy.turns == "last",
            self._policy.train_on_eos == "last",
            labels,
            roles,
            counts,
            self._tables,
        )
        return labels, roles, counts.tolist()


def _make_tables(rules: Rules, policy: Policy, machine: Automaton) -> _Tables:
    matcher = machine.matcher
    # A class of the kernel is a class of the matcher, and whether its tokens are media or padding.
    classes: dict[int, tuple[int, bool, bool]] = {id_: (number, False, False) for id_, number in matcher.token_class.items()}
    for id_ in {*rules.media} if rules.pad_id is None else {*rules.media, rules.pad_id}:
        classes[id_] = matcher.token_class.get(id_, 0), id_ in rules.media, id_ == rules.pad_id
    kinds = list(dict.fromkeys([(0, False, False), *classes.values()]))
    number_of = {kind: number for number, kind in enumerate(kinds)}
    token_class = np.zeros(max(classes, default=-1) + 2, dtype=np.uint32)
    for id_, kind in classes.items():
        token_class[id_] = number_of[kind]
    steps = np.array(matcher.steps, dtype=np.uint32)[:, [kind[0] for kind in kinds]]
    is_special = np.array([kind[1] or kind[2] for kind in kinds], dtype=np.bool_)
    finding = np.array(matcher.finding, dtype=np.uint32)
    goes_on = np.array([any(after != state for after in row) for state, row in enumerate(matcher.steps)], dtype=np.bool_)
    second = steps[steps[0]]  # (class, next class) -> state of the matcher
    is_match = (finding[second] != 0) | goes_on[second]
    alone = is_match[:, 0] | is_special
    follows = is_match[~alone].any(axis=0)
    class_mark = is_match.any(axis=1) * _BEGINS | alone * _ALONE | follows * _FOLLOWS
    step = np.array(machine.step, dtype=np.uint32)
    output = np.array(machine.output, dtype=np.uint32)
    outputs = machine.outputs

    def per_output(function: Any, dtype: Any = np.bool_) -> NDArray[Any]:
        return np.array([function(out) for out in outputs], dtype=dtype)

    quiet = np.array([not (out.starts_turn or out.opens != OUTSIDE or out.ended != OUTSIDE) for out in outputs])
    return _Tables(
        token_class=token_class,
        token_mark=class_mark.astype(np.uint8)[token_class],
        is_barred=np.array([kind[1] for kind in kinds], dtype=np.bool_),
        is_pad=np.array([kind[2] for kind in kinds], dtype=np.bool_),
        steps=steps,
        finding=finding,
        goes_on=goes_on,
        step=step,
        output=output,
        is_stable=(step[0] == np.arange(len(machine.states))) & quiet[output[0]],
        role=per_output(lambda out: role_of(out, rules), np.int8),
        always=per_output(lambda out: policy.train_on_inputs),
        if_chosen=per_output(lambda out: is_trained(out, rules, policy)),
        starts_turn=per_output(lambda out: out.starts_turn),
        is_candidate=per_output(lambda out: makes_a_choice(out, rules, policy)),
        end_length=per_output(lambda out: out.end_length, np.uint32),
        end_role=per_output(lambda out: OUTSIDE if out.ended == OUTSIDE else rules.rules[out.ended].role, np.int8),
        end_owned=per_output(lambda out: end_is_emitted(out, rules)),
        end_always=per_output(lambda out: policy.train_on_eos == "all" and end_may_be_trained(out, rules, policy)),
        end_if_chosen=per_output(lambda out: policy.train_on_eos != "all" and end_may_be_trained(out, rules, policy)),
    )


@numba.njit(cache=True, nogil=True)
def _mask_rows(
    ids: Any,
    attention: Any,
    starts: Any,
    flags: Any,
    has_attention: bool,
    has_starts: bool,
    has_flags: bool,
    with_roles: bool,
    only_last_turn: bool,
    only_last_end: bool,
    labels: Any,
    roles: Any,
    counts: Any,
    tables: Any,
) -> None:  # pragma: no cover: compiled
    size = ids.shape[1]
    marks = np.zeros(size + 1, dtype=np.uint8)  # nothing follows the last token
    for row in range(ids.shape[0]):
        _find_live(ids[row], attention[row], has_attention, marks, tables.token_mark)
        ordinal = 0
        start = 0
        while start < size:
            stop = start + 1
            if has_starts:
                while stop < size and not starts[row, stop]:
                    stop += 1
            else:
                stop = size
            # With turns="last" a first pass finds the last turn of which anything may be trained, a second one trains it.
            last_turn = -1
            if only_last_turn:
                _, last_turn = _mask_document(
                    ids[row], attention[row], flags[row], start, stop, ordinal, -1,
                    has_attention, has_flags, False, True, only_last_end, labels[row], roles[row], marks, tables,
                )  # fmt: skip
            ordinal, _ = _mask_document(
                ids[row], attention[row], flags[row], start, stop, ordinal, last_turn,
                has_attention, has_flags, with_roles, only_last_turn, only_last_end, labels[row], roles[row], marks, tables,
            )  # fmt: skip
            if start > 0:
                labels[row, start] = IGNORE_INDEX
            start = stop
        counts[row] = ordinal


@numba.njit(cache=True, nogil=True)
def _find_live(ids: Any, attention: Any, has_attention: bool, marks: Any, token_mark: Any) -> None:  # pragma: no cover: compiled
    """Mark the tokens of a row where a marker may begin.

    Many tokens could begin a marker of text; the ones behind them mostly say that they do not. Nothing branches on it here: a branch that
    is guessed wrong costs more than ten tokens.
    """
    others = np.uint64(len(token_mark) - 1)
    for at in range(len(ids)):
        # Unsigned indices save the checks for negative ones.
        marks[at] = token_mark[min(np.uint64(ids[at]), others)] if not has_attention or attention[at] else 0
    for at in range(len(ids)):
        marks[at] &= marks[at + 1] // _FOLLOWS | _ALONE  # _BEGINS is left if the next one _FOLLOWS


@numba.njit(cache=True, nogil=True)
def _next_live(marks: Any, at: int, stop: int) -> int:  # pragma: no cover: compiled
    """Return where from `at` on a marker may begin, or `stop`."""
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


@numba.njit(cache=True, nogil=True)
def _mask_document(
    ids: Any,
    attention: Any,
    flags: Any,
    start: int,
    stop: int,
    ordinal: int,
    last_turn: int,
    has_attention: bool,
    has_flags: bool,
    with_roles: bool,
    only_last_turn: bool,
    only_last_end: bool,
    labels: Any,
    roles: Any,
    marks: Any,
    tables: Any,
) -> tuple[int, int]:  # pragma: no cover: compiled
    """Mask one document; return the number of flags used up so far, and the number of the last turn that would be trained."""
    others = np.uint64(len(tables.token_class) - 1)
    none = np.uint32(0)  # class, finding or state
    state = none
    turn = 0  # number of the turn, from 1
    last = -1
    is_candidate = False
    is_chosen = False
    marked_to = start  # end markers reach up to here
    end_at, end_stop = 0, 0
    at = start
    while at < stop:
        if at >= marked_to and tables.is_stable[state] and not marks[at] & _LIVE:
            # Most tokens: in no marker, in the midst of a turn. The whole stretch has one fate.
            ahead = _next_live(marks, at, stop)
            out = tables.output[0, state]
            if tables.always[out] or (is_chosen and tables.if_chosen[out]):
                # In slices, indices start at 0, which saves the checks for negative ones.
                part, seen_part, part_labels = ids[at:ahead], attention[at:ahead], labels[at:ahead]
                for k in range(len(part)):
                    part_labels[k] = part[k] if part[k] >= 0 else IGNORE_INDEX
                for k in range(len(seen_part)):
                    if not seen_part[k]:
                        part_labels[k] = IGNORE_INDEX
            if with_roles and tables.role[out] != OUTSIDE:
                roles[at:ahead] = tables.role[out]
            at = ahead
            continue
        id_ = ids[at]
        seen = not has_attention or attention[at]
        number = tables.token_class[min(np.uint64(id_), others)] if seen else none
        found = none
        if marks[at] & _LIVE:
            path = tables.steps[0, number]
            ahead = at + 1
            while ahead < stop and tables.goes_on[path]:
                next_seen = not has_attention or attention[ahead]
                path = tables.steps[path, tables.token_class[min(np.uint64(ids[ahead]), others)] if next_seen else none]
                ahead += 1
            found = tables.finding[path]
        out = tables.output[found, state]
        state = tables.step[found, state]
        length = tables.end_length[out]
        if length > 0:
            owned = tables.end_owned[out]
            trained = tables.end_always[out]
            if is_chosen and tables.end_if_chosen[out]:
                trained = not only_last_end
                end_at, end_stop = at, at + length
            for k in range(at, at + length):
                if with_roles and (owned or not marks[k] & _END_OWNED):
                    roles[k] = tables.end_role[out]
                marks[k] |= (_END_TRAINED if trained else 0) | (_END_OWNED if owned else 0)
            marked_to = max(marked_to, at + length)
        if tables.starts_turn[out]:
            turn += 1
            is_candidate = is_chosen = False
        if tables.is_candidate[out] and not is_candidate:
            is_candidate = True
            is_chosen = not has_flags or (ordinal < flags.shape[0] and flags[ordinal])
            ordinal += 1
            if is_chosen:
                last = turn
            if only_last_turn:
                is_chosen = is_chosen and turn == last_turn
        mark = marks[at] if at < marked_to else 0
        trained = tables.always[out] or (is_chosen and tables.if_chosen[out]) or (mark & _END_TRAINED) != 0
        barred = not seen or id_ < 0 or tables.is_barred[number]
        if not has_attention and tables.is_pad[number] and not mark & _END_OWNED:
            barred = True
        if trained and not barred:
            labels[at] = id_
        if with_roles and tables.role[out] != OUTSIDE and not mark & _END_OWNED:
            roles[at] = tables.role[out]
        at += 1
    for at in range(end_at, end_stop if only_last_end else end_at):
        id_ = ids[at]
        seen = not has_attention or attention[at]
        number = tables.token_class[min(np.uint64(id_), others)] if seen else none
        if seen and id_ >= 0 and not tables.is_barred[number]:
            labels[at] = id_
    return ordinal, last

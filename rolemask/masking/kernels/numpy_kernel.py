"""The array kernel without numba: agrees with `rolemask.masking.reference.mask` bit for bit.

`numpy_scan` runs the automaton. What its outputs say is carried over to turns, and from these to tokens, by operations on whole arrays.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import automaton_of
from rolemask.masking.columns import any_in_rows
from rolemask.masking.kernels.numpy_scan import MEDIA, PAD, Scan, Scanner
from rolemask.masking.kernels.numpy_walk import Integers
from rolemask.masking.kernels.tables import Bools, Ids, make_tables
from rolemask.masking.labelled import Labelled
from rolemask.masking.policy import Policy
from rolemask.matching.compiler import OUTSIDE, Rules


class _Turns(NamedTuple):
    """The turns of all rows. Number 0 is none: it is before the first turn.

    Attributes:
        of: The number of the turn that each token of the scan is in, or behind.
        first: The token of the scan with which each turn begins.
        starts: Whether a turn begins, per token of the scan.
        chosen: Whether each turn is trained.
    """

    of: Integers
    first: Integers
    starts: Bools
    chosen: Bools


class _Ends(NamedTuple):
    """The tokens of all end markers. One token may be part of several, which stand in the order in which they begin."""

    at: Integers
    role: NDArray[np.int8]
    emitted: Bools
    trained: Bools


class NumpyKernel:
    """Masks rows that stand end to end."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self._policy = policy
        tables = make_tables(rules, policy, automaton_of(rules))
        self._scanner = Scanner(tables)
        self._fates = {name: np.ascontiguousarray(tables.fates[name]) for name in tables.fates.dtype.names or ()}
        self._unanswered = int(tables.options["unanswered"][0])
        self._is_masked = tables.is_masked

    def mask(
        self,
        ids: Ids,
        offsets: Integers,
        attention: Bools | None = None,
        *,
        starts: Bools | None = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
        with_events: bool = False,
    ) -> Labelled:
        """See `rolemask.masking.dispatch.ArrayKernel`."""
        size, rows = len(ids), len(offsets) - 1
        if not size:
            none = np.zeros(rows, dtype=np.int64)
            no_events = np.zeros(0, np.uint32) if with_events else None
            return Labelled(ids.astype(np.int64), np.zeros(0, np.int8) if with_roles else None, none, none != 0, no_events)
        is_start = np.zeros(size + 1, dtype=np.bool_)
        if starts is not None:
            is_start[:-1] = starts
        not_first = is_start.copy()
        is_start[offsets] = True
        not_first[offsets] = False

        scan = self._scanner.scan(ids, is_start, attention)
        scan, turns, counts = self._find_turns(scan, offsets, train_turns)
        ends = self._find_ends(scan, turns)
        trained = self._trained(scan, turns, size)
        trained[ends.at[ends.trained]] = True
        roles = None
        if with_roles or len(self._is_masked):
            roles = self._roles(scan, ends, size)
        if len(self._is_masked):
            trained &= ~self._is_masked[roles]
        trained &= ids >= 0
        trained &= _may_be_trained(scan.marks, ends) if attention is None else attention & (scan.marks & MEDIA == 0)
        if starts is not None:
            trained &= ~not_first[:-1]
        labels = np.where(trained, ids.astype(np.int64, copy=False), np.int64(IGNORE_INDEX))
        events = None
        if with_events:
            events = np.zeros(size, dtype=np.uint32)
            events[scan.at] = scan.output + 1
        return Labelled(labels, roles if with_roles else None, counts, any_in_rows(trained, offsets), events)

    def _find_turns(self, scan: Scan, offsets: Integers, train_turns: Sequence[Sequence[bool]] | None) -> tuple[Scan, _Turns, Integers]:
        """Return the scan, where outputs in turns that nobody answered are the others; the turns; and how many are trainable per row."""
        starts = self._fates["starts_turn"][scan.output]
        of = np.cumsum(starts)
        first = np.concatenate([[0], np.flatnonzero(starts)])
        if self._unanswered:
            reopened = np.append(self._fates["reopens"][scan.output[first[1:]]], False)
            shift = (reopened * self._unanswered)[of]
            scan = scan._replace(output=scan.output + shift, output_after=scan.output_after + shift)

        chosen = np.zeros(len(first), dtype=np.bool_)
        chosen[of[self._fates["is_candidate"][scan.output]]] = True
        rows = np.searchsorted(offsets, scan.at[first[chosen]], side="right") - 1
        counts = np.bincount(rows, minlength=len(offsets) - 1)
        if train_turns is not None:
            chosen[chosen] = _flags(train_turns, rows, counts)
        turns = _Turns(of, first, starts, chosen)
        if self._policy.turns == "last":
            _keep_last(chosen, scan.document[first])
        elif self._policy.turns == "last_round":
            chosen &= self._follows_questions(scan, turns)
        return scan, turns, counts

    def _follows_questions(self, scan: Scan, turns: _Turns) -> Bools:
        """Return whether each turn stands behind the last question of its document."""
        is_question = self._fates["starts_question"][scan.output[turns.first]]
        is_question[turns.of[self._fates["carries_result"][scan.output]]] = False
        questions, document = np.flatnonzero(is_question), scan.document[turns.first]
        last_question = np.zeros(scan.document[-1] + 1, dtype=np.int64)
        last_question[document[questions]] = questions  # of several in one document, the last
        follows: Bools = np.arange(len(document)) > last_question[document]
        return follows

    def _find_ends(self, scan: Scan, turns: _Turns) -> _Ends:
        fates = self._fates
        found = np.flatnonzero(fates["end_length"][scan.output])
        output = scan.output[found]
        # The token that ends a turn may begin the next.
        is_chosen = turns.chosen[turns.of[found] - turns.starts[found]] & fates["end_trained_if_chosen"][output]
        if self._policy.train_on_eos == "last":
            _keep_last(is_chosen, scan.document[found])
        lengths = fates["end_length"][output].astype(np.int64)
        owner = np.repeat(np.arange(len(found)), lengths)
        at = np.arange(len(owner)) + (scan.at[found] - np.cumsum(lengths) + lengths)[owner]
        trained = fates["end_trained_always"][output] | is_chosen
        return _Ends(at, fates["end_role"][output][owner], fates["end_emitted"][output][owner], trained[owner])

    def _trained(self, scan: Scan, turns: _Turns, size: int) -> Bools:
        """Return whether each token is trained, but for end markers."""
        if self._policy.train_on_inputs:
            return np.ones(size, dtype=np.bool_)
        is_chosen, if_chosen = turns.chosen[turns.of], self._fates["trained_if_chosen"]
        return _painted(scan, if_chosen[scan.output] & is_chosen, if_chosen[scan.output_after] & is_chosen, size)

    def _roles(self, scan: Scan, ends: _Ends, size: int) -> NDArray[np.int8]:
        """Return the role of each token: that which emits its end marker, or that which it is in, or that whose end marker it is."""
        roles = _painted(scan, self._fates["role"][scan.output], self._fates["role"][scan.output_after], size)
        others = (roles[ends.at] == OUTSIDE) & ~ends.emitted
        for kind in (others, ends.emitted):
            roles[ends.at[kind]] = ends.role[kind]  # of several at one token, the last
        return roles


def _painted(scan: Scan, here: NDArray[Any], after: NDArray[Any], size: int) -> NDArray[Any]:
    """Return values (N,), given those of the tokens of the scan, and those of the tokens after each."""
    values: NDArray[Any] = np.repeat(after, np.diff(scan.at, append=size))
    values[scan.at] = here
    return values


def _flags(train_turns: Sequence[Sequence[bool]], rows: Integers, counts: Integers) -> Bools:
    """Return the flag of each trainable turn, given its row; False where the row has too few."""
    ordinals = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    lengths = np.fromiter(map(len, train_turns), np.int64, len(train_turns))
    flags = np.fromiter(chain.from_iterable(train_turns), np.bool_, lengths.sum())
    is_given = ordinals < lengths[rows]
    is_given[is_given] = flags[((np.cumsum(lengths) - lengths)[rows] + ordinals)[is_given]]
    return is_given


def _keep_last(flags: Bools, groups: Integers) -> None:
    """Clear, in place, all flags of each group but its last. The numbers of the groups ascend."""
    found = np.flatnonzero(flags)
    flags[found] = np.diff(groups[found], append=-1) != 0


def _may_be_trained(marks: NDArray[np.uint8], ends: _Ends) -> Bools:
    """Return whether each token is neither media nor padding, where no mask says what is padding. An end marker is none."""
    may_be: Bools = (marks & (MEDIA | PAD)) == 0
    emitted = ends.at[ends.emitted]
    may_be[emitted] = marks[emitted] & MEDIA == 0
    return may_be

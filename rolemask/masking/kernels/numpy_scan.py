"""The scan of the kernel without numba: what the automaton finds in rows that stand end to end.

1. The marks of each two adjacent tokens say where a marker may begin.
2. The matcher reads on from all these tokens at once, a token of each at a time.
3. The automaton goes from one token where markers match to the next (`numpy_walk`).
4. At a few tokens after each of these it passes over a marker. All others leave it as it is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rolemask.masking.kernels.numpy_walk import Integers, Walker
from rolemask.masking.kernels.tables import ALONE, BEGINS, FOLLOWS, Bools, Ids, Tables

MEDIA, PAD = 8, 16
"""Bits of the mark of a token, beside those of `tables`."""


class Scan(NamedTuple):
    """What was found in rows end to end.

    Attributes:
        marks: Per token, its mark; 0 where it is not attended to.
        at: The tokens that the automaton looks at, ascending. The first token of each document is one of them.
        output: What it says of each of them.
        output_after: What it says of all tokens between this one and the next, if there are any.
        document: The number of the document that each is in.
    """

    marks: NDArray[np.uint8]
    at: Integers
    output: Integers
    output_after: Integers
    document: Integers


class Scanner:
    """Runs the matcher and the automaton of `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._marks = _marks_of(tables)
        self._classes = tables.token_class
        self._next_state = tables.next_state.astype(np.int64)
        self._goes_on = tables.matcher_states["goes_on"].copy()
        self._matches = tables.matcher_states["matches"].astype(np.int64)
        self._quiet_output = tables.states["output"].astype(np.int64)
        self._walker = Walker(tables)

    def scan(self, ids: Ids, is_start: Bools, attention: Bools | None) -> Scan:
        """Scan tokens (N,), at least one. `is_start` (N + 1,) is True where a document begins, and after the last token."""
        marks = self._marks.take(_clipped(ids, len(self._marks)))
        if attention is not None:
            marks *= attention
        live = _live(marks)
        found = self._matches_at(live, ids, is_start, attention)
        matches = np.zeros(len(ids), dtype=np.int64)
        matches[live] = found
        is_event = is_start[:-1].copy()
        is_event[live] |= found != 0

        events = np.flatnonzero(is_event)
        gaps = np.diff(events, append=len(ids)) - 1
        begins = is_start[events]
        read = matches[events]
        before, after = self._walker.walk(read, gaps, begins)
        event_output, document = self._walker.outputs(read, before), np.cumsum(begins) - 1

        passed = np.minimum(gaps, self._walker.unsettled[after])
        if not passed.any():
            return Scan(marks, events, event_output, self._quiet_output[after], document)
        event = np.repeat(np.arange(len(events)), passed + 1)
        first = np.cumsum(passed + 1) - passed - 1
        ordinal = np.arange(len(event)) - first[event]
        output_after = self._quiet_output[self._walker.settled[ordinal, after[event]]]
        output = np.empty_like(output_after)
        output[1:] = output_after[:-1]
        output[first] = event_output
        return Scan(marks, events[event] + ordinal, output, output_after, document[event])

    def _matches_at(self, live: Integers, ids: Ids, is_start: Bools, attention: Bools | None) -> Integers:
        """Return the number of the matches at each token of `live`."""
        states = self._next_state[0].take(self._class_of(ids[live]))
        going = np.flatnonzero(self._goes_on.take(states))
        next_at = live[going]
        while len(going):
            next_at += 1
            # Past the end of the document stands what is in no marker; so this ends.
            classes = self._class_of(ids.take(next_at, mode="clip")) * ~is_start[next_at]
            if attention is not None:
                classes *= attention.take(next_at, mode="clip")
            states[going] = reached = self._next_state[states[going], classes]
            goes_on = self._goes_on.take(reached)
            going, next_at = going[goes_on], next_at[goes_on]
        found: Integers = self._matches.take(states)
        return found

    def _class_of(self, ids: Ids) -> NDArray[np.uint32]:
        return self._classes.take(_clipped(ids, len(self._classes)))


def _marks_of(tables: Tables) -> NDArray[np.uint8]:
    """Return the marks of `tables`, where media and padding have bits of their own, and are not ALONE if no marker begins with them."""
    classes = tables.classes[tables.token_class]
    is_media, is_pad = classes["is_media"], classes["is_pad"]
    marks: NDArray[np.uint8] = tables.token_mark.copy()
    marks[(is_media | is_pad) & (marks & BEGINS == 0)] &= FOLLOWS
    marks |= is_media * np.uint8(MEDIA) | is_pad * np.uint8(PAD)
    return marks


def _clipped(ids: Ids, size: int) -> Ids:
    """Return indices into a table whose last entry stands for all ids that are negative or too great."""
    clipped: Ids = np.minimum(ids.view(f"u{ids.dtype.itemsize}"), size - 1).view(ids.dtype)
    return clipped


def _live(marks: NDArray[np.uint8]) -> Integers:
    """Return the tokens where a marker may begin."""
    live = marks & ALONE
    live[:-1] |= marks[:-1] & (marks[1:] // FOLLOWS) & BEGINS
    return np.flatnonzero(live != 0)

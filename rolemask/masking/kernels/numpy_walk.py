"""Runs the automaton from one token where markers match to the next, with no Python code between the steps."""

from itertools import accumulate
from operator import attrgetter, getitem

import numpy as np
from numpy.typing import NDArray

from rolemask.masking.kernels.dense import OPENS
from rolemask.masking.kernels.tables import Bools, Tables

Integers = NDArray[np.int64]

_LONG = 256
"""As many equal events, one after the other, are not walked through one by one: padding, or a row of one marker token."""


class Walker:
    """Runs an automaton.

    Attributes:
        settled: (k, state) -> the state after k tokens without a match; no state changes after more than that.
        unsettled: state -> how many tokens without a match change it.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        is_stable, step = tables.states["is_stable"], tables.states["step"].astype(np.int64)
        settled = [np.arange(len(is_stable))]
        while not is_stable[settled[-1]].all():
            settled.append(step[settled[-1]])
        self.settled = np.array(settled)
        self.unsettled = (~is_stable[self.settled]).sum(axis=0)
        # What is before an event: some tokens without a match, or another document.
        self._before = np.array([*settled, np.zeros_like(settled[0])])
        self._states: list[_State] = []
        self._states += (_State(number, self) for number in range(len(is_stable)))

    def walk(self, matches: Integers, gaps: Integers, begins: Bools) -> tuple[Integers, Integers]:
        """Return the state before each event, and the one after it.

        An event is a token where markers match, or where a document begins: `begins`. After each are `gaps` tokens without a match.
        """
        kinds = np.zeros_like(gaps)
        kinds[1:] = np.minimum(gaps[:-1], len(self.settled) - 1)
        kinds[begins] = len(self.settled)
        path = self._path(kinds * len(self._tables.opened) + matches)
        return self._before[kinds, path[:-1]], path[1:]

    def _path(self, symbols: Integers) -> Integers:
        """Return the number of the state before the first symbol, and after each."""
        path = np.zeros(len(symbols) + 1, dtype=np.int64)
        borders = np.flatnonzero(np.diff(symbols, prepend=-1, append=-1))
        runs = np.flatnonzero(np.diff(borders) >= _LONG)
        at = 0
        for start, stop in [*zip(borders[runs].tolist(), borders[runs + 1].tolist(), strict=True), (len(symbols), len(symbols))]:
            steps = accumulate(symbols[at:start].tolist(), getitem, initial=self._states[path[at]])
            path[at : start + 1] = np.fromiter(map(attrgetter("number"), steps), np.int64, start + 1 - at)
            if start < stop:
                path[start : stop + 1] = self._path_of_run(path.item(start), symbols.item(start), stop - start)
            at = stop
        return path

    def _path_of_run(self, number: int, symbol: int, length: int) -> Integers:
        """The same for one symbol, `length` times: sooner or later its states come again."""
        path = [number]
        while len(path) <= length and (after := self._states[path[-1]][symbol].number) not in path:
            path.append(after)
        again = np.array(path[path.index(after) :] if len(path) <= length else path)
        return np.concatenate([path, again[np.arange(length + 1 - len(path)) % len(again)]])

    def after(self, symbol: int, number: int) -> "_State":
        """Return the state after a symbol, which stands for an event and what is before it."""
        kind, matches = divmod(symbol, len(self._tables.opened))
        before = self._before[kind, number]
        column, opened = self._tables.states["column"][before], self._tables.opened[matches]
        step = self._tables.cells["step"][opened[0], column] if column else self._tables.states["step"][before]
        return self._states[int(opened[1] if step == OPENS else step)]

    def outputs(self, matches: Integers, before: Integers) -> Integers:
        """Return the output of a token with these matches, given the state before it."""
        tables = self._tables
        column, opened = tables.states["column"][before], tables.opened[matches]
        cells = tables.cells[opened[:, 0], column]
        is_open = (column != 0) & (cells["step"] == OPENS)
        outputs = np.where(column == 0, tables.states["output"][before], cells["output"]).astype(np.int64)
        outputs[is_open] = opened[is_open, 2 + outputs[is_open]]
        return outputs


class _State(dict[int, "_State"]):
    """A state of the automaton: the state after each symbol, filled in when that is first read."""

    __slots__ = ("_walker", "number")

    def __init__(self, number: int, walker: Walker) -> None:
        self.number = number
        self._walker = walker

    def __missing__(self, symbol: int) -> "_State":
        after = self[symbol] = self._walker.after(symbol, self.number)
        return after

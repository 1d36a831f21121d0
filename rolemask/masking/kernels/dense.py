"""The tables of the automaton as NumPy arrays with a cell for every pair, which a kernel can look up in one step."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rolemask.masking.automaton import Automaton
from rolemask.masking.matcher import Matcher

Table = NDArray[np.uint32]


def matcher_steps(matcher: Matcher, columns: Sequence[int] | None = None) -> Table:
    """Return the state of the matcher after each state and class, (states, classes); of these classes, if `columns` names some."""
    lengths = [len(edges) for edges in matcher.edges]
    before = np.repeat(np.arange(len(lengths)), lengths)
    classes = _array(chain.from_iterable(matcher.edges), len(before))
    after = _array(chain.from_iterable(edges.values() for edges in matcher.edges), len(before))
    steps = np.empty((len(lengths), matcher.classes), dtype=np.uint32)
    steps[:] = np.array(matcher.otherwise, dtype=np.uint32)[:, None]
    steps[before, classes] = after
    return steps if columns is None or list(columns) == [*range(matcher.classes)] else steps[:, columns]


def steps_and_outputs(automaton: Automaton) -> tuple[Table, Table]:
    """Return the state after each matches and state, and the output there, both (matches, states)."""
    shape = len(automaton.kind), automaton.size
    step, output = np.empty(shape, dtype=np.uint32), np.empty(shape, dtype=np.uint32)
    step[:], output[:] = np.array(automaton.quiet_step), np.array(automaton.quiet_output)
    changes = [np.array(cells, dtype=np.int64).reshape(-1, 3).T for cells in automaton.changes]
    opens = [np.array(cells, dtype=np.int64).reshape(-1, 2).T for cells in automaton.opens]
    for matches, kind in enumerate(automaton.kind):
        before, after, found = changes[kind]
        step[matches, before], output[matches, before] = after, found
        before, form = opens[kind]
        if len(before):
            opened = np.array(automaton.opened[matches], dtype=np.int64)
            step[matches, before], output[matches, before] = opened[0], opened[1:][form]
    return step, output


def _array(values: Iterable[int], size: int) -> NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64, count=size)

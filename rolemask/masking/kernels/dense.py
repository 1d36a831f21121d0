"""The tables of the automaton as NumPy arrays with a cell for every pair, which a kernel can look up in one step."""

from array import array

import numpy as np
from numpy.typing import NDArray

from rolemask.masking.automaton import Automaton
from rolemask.masking.matcher import Matcher

Table = NDArray[np.uint32]


def matcher_steps(matcher: Matcher) -> Table:
    """Return the state of the matcher after each state and class, (states, classes)."""
    steps = np.empty((len(matcher.edges), matcher.classes), dtype=np.uint32)
    steps[:] = np.array(matcher.otherwise, dtype=np.uint32)[:, None]
    for row, edges in zip(steps, matcher.edges, strict=True):
        if edges:
            row[list(edges)] = list(edges.values())
    return steps


def steps_and_outputs(automaton: Automaton) -> tuple[Table, Table]:
    """Return the state after each matches and state, and the output there, both (matches, states)."""
    shape = len(automaton.kind), automaton.size
    step, output = np.empty(shape, dtype=np.uint32), np.empty(shape, dtype=np.uint32)
    step[:], output[:] = _array(automaton.quiet_step), _array(automaton.quiet_output)
    changes = [_array(cells).reshape(-1, 3).T for cells in automaton.changes]
    opens = [_array(cells).reshape(-1, 2).T for cells in automaton.opens]
    for matches, kind in enumerate(automaton.kind):
        before, after, found = changes[kind]
        step[matches, before], output[matches, before] = after, found
        before, form = opens[kind]
        if len(before):
            opened = _array(automaton.opened[matches])
            step[matches, before], output[matches, before] = opened[0], opened[1:][form]
    return step, output


def _array(values: "array[int]") -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)

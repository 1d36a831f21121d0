"""The tables of the automaton as NumPy arrays with a cell for every pair, which a kernel can look up in one step."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rolemask.masking.automaton import Automaton
from rolemask.masking.matcher import Matcher

Table = NDArray[np.uint32]


def matcher_steps(matcher: Matcher, columns: Sequence[int] | None = None) -> Table:
    """Return the state of the matcher after each state and class, (states, classes).

    Args:
        matcher: The matcher.
        columns: The class of each column, if they are not just the classes: a class may be there more than once, or not at all.
    """
    size, classes = len(matcher.edges), np.arange(len(matcher.region)) if columns is None else np.array(columns)
    steps = np.empty((size, len(classes)), dtype=np.uint32)
    steps[:] = np.array(matcher.otherwise, dtype=np.uint32)[:, None]
    region = np.array(matcher.region)[classes]
    in_region = {number: np.flatnonzero(region == number) for number in {*matcher.region}}
    for state, regions in enumerate(matcher.by_region):
        for number, after in regions.items():
            steps[state, in_region[number]] = after
    first_column = np.full(len(matcher.region), len(classes))
    first_column[classes[::-1]] = np.arange(len(classes))[::-1]
    counts = [len(edges) for edges in matcher.edges]
    before = np.repeat(np.arange(size), counts)
    found = np.fromiter(chain.from_iterable(matcher.edges), dtype=np.int64, count=len(before))
    after_edge = np.fromiter(chain.from_iterable(edges.values() for edges in matcher.edges), dtype=np.uint32, count=len(before))
    has_column = first_column[found] < len(classes)
    steps[before[has_column], first_column[found[has_column]]] = after_edge[has_column]
    for column in sorted({*range(len(classes))}.difference(first_column.tolist())):
        steps[:, column] = steps[:, first_column[classes[column]]]
    return steps


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

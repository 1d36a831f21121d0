"""The tables of the automaton as NumPy arrays with a cell for every pair, which a kernel can look up in one step."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

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


class Changes(NamedTuple):
    """The steps that matches change, as a table of the kinds of matches and of those states in which some kind changes the step.

    Attributes:
        column: state -> its column; column 0 is for the states where no matches change the step.
        step: (kinds, columns) -> the state after the token; `OPENS` where the matches start a turn.
        output: (kinds, columns) -> the output; with `OPENS` a column of `opened`, counted from 2.
        opened: matches -> their kind, the state in which they start a turn, and the outputs there.
    """

    column: Table
    step: Table
    output: Table
    opened: Table


OPENS = np.uint32(2**32 - 1)


def changes_of(automaton: Automaton) -> Changes:
    """Return the steps that matches change."""
    changes = [np.array(cells, dtype=np.int64).reshape(-1, 3).T for cells in automaton.changes]
    opens = [np.array(cells, dtype=np.int64).reshape(-1, 2).T for cells in automaton.opens]
    active = np.unique(np.concatenate([cells[0] for cells in (*changes, *opens)]))
    column = np.zeros(automaton.size, dtype=np.uint32)
    column[active] = np.arange(1, len(active) + 1)
    shape = len(changes), len(active) + 1
    step, output = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=np.uint32)
    step[:, 1:], output[:, 1:] = np.array(automaton.quiet_step)[active], np.array(automaton.quiet_output)[active]
    for kind, (before, after, found) in enumerate(changes):
        step[kind, column[before]], output[kind, column[before]] = after, found
    for kind, (before, form) in enumerate(opens):
        step[kind, column[before]], output[kind, column[before]] = OPENS, form
    opened = np.zeros((len(automaton.kind), 1 + max(2, *map(len, automaton.opened))), dtype=np.uint32)
    opened[:, 0] = automaton.kind
    for row, of_matches in zip(opened, automaton.opened, strict=True):
        row[1 : 1 + len(of_matches)] = of_matches
    return Changes(column, step, output, opened)


def steps_and_outputs(automaton: Automaton) -> tuple[Table, Table]:
    """Return the state after each matches and state, and the output there, both (matches, states)."""
    changes = changes_of(automaton)
    kind, active = changes.opened[:, 0], np.flatnonzero(changes.column)
    shape = len(kind), automaton.size
    step, output = np.empty(shape, dtype=np.uint32), np.empty(shape, dtype=np.uint32)
    step[:], output[:] = np.array(automaton.quiet_step), np.array(automaton.quiet_output)
    cells = kind[:, None], changes.column[active]
    opens = changes.step[cells] == OPENS
    step[:, active] = np.where(opens, changes.opened[:, 1:2], changes.step[cells])
    output[:, active] = np.where(
        opens, np.take_along_axis(changes.opened, 2 + changes.output[cells] * opens, axis=1), changes.output[cells]
    )
    return step, output

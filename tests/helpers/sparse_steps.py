"""Reads the tables of the matcher and the automaton as they are kept, one step at a time. The kernels write them out as arrays first."""

from array import array

from rolemask.masking.automaton import Automaton
from rolemask.masking.matcher import Matcher


def read(matcher: Matcher, state: int, class_: int) -> int:
    """The state of the matcher after a token."""
    after = matcher.edges[state].get(class_)
    return matcher.by_region[state].get(matcher.region[class_], matcher.otherwise[state]) if after is None else after


def steps_with(automaton: Automaton, matches: int) -> "tuple[array[int], array[int]]":
    """For each state before, the state after a token with these matches, and the output."""
    step, output = array("I", automaton.quiet_step), array("I", automaton.quiet_output)
    kind, opened = automaton.kind[matches], automaton.opened[matches]
    changes, opens = automaton.changes[kind], automaton.opens[kind]
    for before, after, found in zip(changes[::3], changes[1::3], changes[2::3], strict=True):
        step[before], output[before] = after, found
    for before, found in zip(opens[::2], opens[1::2], strict=True):
        step[before], output[before] = opened[0], opened[1 + found]
    return step, output

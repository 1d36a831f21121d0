"""Turns the rules into one finite-state machine, as tables, which the fast kernels run.

It takes two table look-ups per token:

1. `Matcher` reads the tokens from a position on, and finds the markers of every kind that match there. The different `Matches` that are
   possible are numbered.
2. `Automaton` goes from left to right over the numbers of the matches. Its state says where in a turn the scan is. Marker tokens still to
   be passed over are states too, so each token is one step, and steps can be composed, as a GPU needs.

`rolemask.masking.steps` has the steps that the tables hold. The order of the rules is that of `rolemask.masking.turns.event_in_turn`.

With many markers there are thousands of states and of matches, so the steps are not worked out for each pair of them. Most matches change
the step in a few states only. And those that start a turn differ only in the turn that they start, so all of a kind are worked out at once:
a step leads to the turn, whichever it is (`OPENED`).
"""

import weakref
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rolemask.masking.matcher import DOCUMENT_STARTS, SPECIAL_STARTS, STARTS, Matcher, Matches, Tries, build_matcher, tries_of
from rolemask.masking.steps import OPENED, Output, State, opened_by, opening_of, take_step, tries_read
from rolemask.masking.turns import Part
from rolemask.matching.compiler import Rules
from rolemask.matching.packing import pack, pack_lists, unpack, unpack_lists
from rolemask.matching.trie import Match


@dataclass(frozen=True)
class Automaton:
    """The steps, by the number of the matches and the state before; state 0 is outside, and matches 0 are none.

    Attributes:
        matcher: Tells which matches there are at a token.
        outputs: What a step can find.
        quiet_step: state -> the state after a token without a match.
        quiet_output: state -> an index into `outputs`, for a token without a match.
        kind: matches -> the kind of these matches.
        changes: kind -> the cells (state before, state after, output) where its matches differ from no match, one after the other.
        opened: matches -> the cells (state after, output) where these start a turn; empty where they start none.
        opens: kind -> the cells (state before, index into `opened` of the output) where its matches start a turn.
    """

    matcher: Matcher
    outputs: list[Output]
    quiet_step: "array[int]"
    quiet_output: "array[int]"
    kind: "array[int]"
    changes: "list[array[int]]"
    opened: "list[array[int]]"
    opens: "list[array[int]]"

    @property
    def size(self) -> int:
        """The number of states."""
        return len(self.quiet_step)

    def __getstate__(self) -> tuple[Any, ...]:
        outputs = [1 + number for output in self.outputs for number in (*output[:2], list(Part).index(output.part), *output[3:])]
        lists = [pack_lists(lists) for lists in (self.changes, self.opened, self.opens)]
        return self.matcher, pack(outputs), pack(self.quiet_step), pack(self.quiet_output), pack(self.kind), *lists

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        matcher, packed, *arrays = state
        numbers = unpack(packed)
        parts, width = list(Part), len(Output._fields)
        outputs = []
        for at in range(0, len(numbers), width):
            rule, span, part, starts_turn, opens, ended, end_length, *flags = (number - 1 for number in numbers[at : at + width])
            outputs.append(Output(rule, span, parts[part], bool(starts_turn), opens, ended, end_length, *map(bool, flags)))
        fields = (matcher, outputs, *map(unpack, arrays[:3]), *map(unpack_lists, arrays[3:]))
        self.__dict__.update(zip(self.__dataclass_fields__, fields, strict=True))


_automata: dict[int, Automaton] = {}


def automaton_of(rules: Rules) -> Automaton:
    """Return the automaton of `rules`, which is built once and kept as long as they live."""
    key = id(rules)  # rules hold mappings, so they have no hash
    if key not in _automata:
        keep_automaton(rules, build_automaton(rules))
    return _automata[key]


def keep_automaton(rules: Rules, automaton: Automaton) -> None:
    """Let `automaton_of(rules)` return this one: it was built elsewhere, and came with the rules in a pickle."""
    if id(rules) not in _automata:
        _automata[id(rules)] = automaton
        weakref.finalize(rules, _automata.pop, id(rules), None)


def build_automaton(rules: Rules) -> Automaton:
    """Tabulate the scan of `rules`."""
    tries = tries_of(rules)
    matcher, matches = build_matcher(tries.tries)
    return _Builder(rules, tries, matches).build(matcher)


class _Builder:
    def __init__(self, rules: Rules, tries: Tries, matches: Sequence[Matches]) -> None:
        self.rules = rules
        self.tries = tries
        self.openings = [opening_of(dict(found).get(STARTS), rules) for found in matches]
        passed_over = {*tries.ends, *tries.header_ends, *tries.spans.values()}  # own starts may be the same text, and the same trie
        truths = {STARTS, SPECIAL_STARTS, DOCUMENT_STARTS, *tries.own_starts} - passed_over
        self.kinds: dict[Matches, int] = {}
        self.kind = array("I", (self.kinds.setdefault(_kind(found, truths), len(self.kinds)) for found in matches))
        self.kinds_with: dict[int, list[Matches]] = {}
        for kind in self.kinds:
            for trie, _ in kind:
                self.kinds_with.setdefault(trie, []).append(kind)
        self.states: dict[State, int] = {State(): 0}
        self.queue = [State()]
        self.outputs: dict[Output, int] = {Output(): 0}

    def build(self, matcher: Matcher) -> Automaton:
        first = [None if opening is None else self._number(opening[0]) for opening in self.openings]
        quiet_step, quiet_output = array("I"), array("I")
        changes = [array("I") for _ in self.kinds]
        opens = [array("I") for _ in self.kinds]
        forms: list[dict[Output, int]] = [{} for _ in self.kinds]  # kind -> how the output of the turn that starts is changed
        for number, state in enumerate(self.queue):  # grows during the loop
            quiet = take_step(state, {}, self.rules, self.tries)
            quiet_step.append(self._number(quiet[0]))
            quiet_output.append(self._output(quiet[1]))
            for kind, (after, output) in self._steps(state):
                if after is OPENED:
                    form = forms[kind].setdefault(output, len(forms[kind]))
                    opens[kind].extend((number, form))
                elif (after, output) != quiet:
                    changes[kind].extend((number, self._number(after), self._output(output)))
        opened = []
        known: dict[tuple[Output, int], list[int]] = {}  # matches that differ in their lengths only have the same outputs
        for kind, opening, begun in zip(self.kind, self.openings, first, strict=True):
            if opening is None or begun is None:
                opened.append(array("I"))
                continue
            key = (opening[1], kind)
            if key not in known:
                known[key] = [self._output(opened_by(opening[1], form)) for form in forms[kind]]
            opened.append(array("I", [begun, *known[key]]))
        return Automaton(matcher, list(self.outputs), quiet_step, quiet_output, self.kind, changes, opened, opens)

    def _steps(self, state: State) -> Iterator[tuple[int, tuple[State, Output]]]:
        """Yield the step for each kind of matches that can change it."""
        read = tries_read(state, self.rules, self.tries)
        results: dict[Matches, tuple[State, Output]] = {}
        for kind in dict.fromkeys(kind for trie in read for kind in self.kinds_with.get(trie, ())):
            seen = tuple(item for item in kind if item[0] in read or item[0] == STARTS)
            if seen not in results:
                results[seen] = take_step(state, dict(seen), self.rules, self.tries)
            yield self.kinds[kind], results[seen]

    def _number(self, state: State) -> int:
        if state not in self.states:
            self.states[state] = len(self.queue)
            self.queue.append(state)
        return self.states[state]

    def _output(self, output: Output) -> int:
        return self.outputs.setdefault(output, len(self.outputs))


def _kind(matches: Matches, truths: Collection[int]) -> Matches:
    """Return what the rules ask of the matches: of the tries in `truths`, whether they match, and whether with more than one token."""
    return tuple((trie, Match(0, min(match.length, 2)) if trie in truths else match) for trie, match in matches)

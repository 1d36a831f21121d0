"""Turns the rules into one finite-state machine, as tables, which the fast kernels run.

It takes two table look-ups per token:

1. `Matcher` reads the tokens from a position on, and finds the markers of every kind that match there. The different `Matches` that are
   possible are numbered.
2. `Automaton` goes from left to right over the numbers of the matches. Its state says where in a turn the scan is. Marker tokens still to
   be passed over are states too, so each token is one step, and steps can be composed, as a GPU needs.

The order of the rules is that of `rolemask.masking.turns.event_in_turn`, which fills the tables case by case.

With many markers there are thousands of states and of matches, so the steps are not worked out for each pair of them. Most matches change
the step in a few states only. And those that start a turn differ only in the turn that they start, so all of a kind are worked out at once:
a step leads to the turn, whichever it is (`OPENED`).
"""

import weakref
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from rolemask.masking.matcher import DOCUMENT_STARTS, NO_TRIE, SPECIAL_STARTS, STARTS, Matcher, Matches, Tries, build_matcher, tries_of
from rolemask.masking.turns import Event, Here, Part, event_in_turn
from rolemask.matching.compiler import OUTSIDE, Rules
from rolemask.matching.packing import pack, pack_lists, unpack, unpack_lists
from rolemask.matching.trie import Match


class Passing(Enum):
    """The kind of marker that a state passes over."""

    HEADER = auto()
    END = auto()
    END_IN_NEXT = auto()  # an end marker that begins in the last token of another marker, which is the next token
    SPAN_START = auto()
    TURNS_SPAN_START = auto()  # the start marker of a span that belongs to the turn
    SPAN_END = auto()


class State(NamedTuple):
    """Where the scan is: outside (`rule` -1), in a turn, in its open header, in a span of it; `left` marker tokens to pass over."""

    rule: int = OUTSIDE
    span: int = OUTSIDE
    in_header: bool = False
    closed: int = OUTSIDE  # the span that ended right before this token
    left: int = 0
    passing: Passing | None = None  # None if and only if `left` is 0


OPENED = State(-2)
"""Where a turn starts, whichever it is."""


class Output(NamedTuple):
    """What a step finds at its token.

    `rule` and `span` are those that the token belongs to (-1: none), `part` is the part of the turn; `opens` is the span that starts here.
    `ended` is the rule of the turn that ends here, with an end marker of `end_length` tokens from here on (which the automaton may pass
    over, or read again as the next header).
    """

    rule: int = OUTSIDE
    span: int = OUTSIDE
    part: Part = Part.OUTSIDE
    starts_turn: bool = False
    opens: int = OUTSIDE
    ended: int = OUTSIDE
    end_length: int = 0
    reopens: bool = False  # the turn that starts here says that the one before it was none


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

    def rows(self, matches: int) -> "tuple[array[int], array[int]]":
        """Return, for each state before, the state after a token with these matches, and the output."""
        step, output = array("I", self.quiet_step), array("I", self.quiet_output)
        changes, opens, opened = self.changes[self.kind[matches]], self.opens[self.kind[matches]], self.opened[matches]
        for before, after, found in zip(changes[::3], changes[1::3], changes[2::3], strict=True):
            step[before], output[before] = after, found
        for before, found in zip(opens[::2], opens[1::2], strict=True):
            step[before], output[before] = opened[0], opened[1 + found]
        return step, output

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
            rule, span, part, starts_turn, opens, ended, end_length, reopens = (number - 1 for number in numbers[at : at + width])
            outputs.append(Output(rule, span, parts[part], bool(starts_turn), opens, ended, end_length, bool(reopens)))
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
        self.openings = [_opening(dict(found).get(STARTS), rules) for found in matches]
        truths = {STARTS, SPECIAL_STARTS, DOCUMENT_STARTS, *tries.own_starts}
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
            quiet = _step(state, {}, self.rules, self.tries)
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
                known[key] = [self._output(_opened(opening[1], form)) for form in forms[kind]]
            opened.append(array("I", [begun, *known[key]]))
        return Automaton(matcher, list(self.outputs), quiet_step, quiet_output, self.kind, changes, opened, opens)

    def _steps(self, state: State) -> Iterator[tuple[int, tuple[State, Output]]]:
        """Yield the step for each kind of matches that can change it."""
        read = _tries_read(state, self.rules, self.tries)
        results: dict[Matches, tuple[State, Output]] = {}
        for kind in dict.fromkeys(kind for trie in read for kind in self.kinds_with.get(trie, ())):
            seen = tuple(item for item in kind if item[0] in read or item[0] == STARTS)
            if seen not in results:
                results[seen] = _step(state, dict(seen), self.rules, self.tries)
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


def _tries_read(state: State, rules: Rules, tries: Tries) -> list[int]:
    """Return the tries whose matches can change the step from this state."""
    if state.left > 1:
        return []
    state = _behind_marker(state) if state.left else state
    if state.rule == OUTSIDE:
        return [STARTS]
    rule = rules.rules[state.rule]
    read = [SPECIAL_STARTS, DOCUMENT_STARTS, tries.ends[state.rule], tries.own_starts[state.rule], tries.spans.get(rule.role, NO_TRIE)]
    read += [STARTS] if rule.ends_at_next_start else []
    read += [tries.header_ends[state.rule]] if state.in_header else []
    read += [tries.ends[state.span]] if state.span != OUTSIDE else []
    return [trie for trie in read if trie != NO_TRIE]


def _opening(start: Match | None, rules: Rules) -> tuple[State, Output] | None:
    """Return the step at a start marker, outside any turn."""
    if start is None:
        return None
    index, opened = rules.openings[start.value]
    inside = State(index, opened, in_header=rules.rules[index].header_ends is not None)
    return _pass_over(inside, start.length - 1, Passing.HEADER), Output(index, part=Part.HEADER, starts_turn=True, opens=opened)


def _opened(opening: Output, form: Output) -> Output:
    """Return the output of a step that starts a turn, and may end another: `form` is the same for a turn that is not known yet."""
    return opening._replace(ended=form.ended, end_length=form.end_length, reopens=form.reopens)


_Found = Mapping[int, Match]
"""The matches at a token, by the number of the trie. Of starts it only counts whether they match, and whether with more than one token."""


def _step(state: State, matches: _Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
    """Take one token."""
    if state.left:
        return _step_over(state, matches, rules, tries)
    if state.rule == OUTSIDE:
        return _step_outside(matches)
    return _step_in_turn(state, matches, rules, tries)


def _step_in_turn(state: State, matches: _Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
    rule = rules.rules[state.rule]
    span = None if state.span == OUTSIDE else rules.rules[state.span]
    here = Here(
        header_end=matches.get(tries.header_ends[state.rule]),
        turn_end=matches.get(tries.ends[state.rule]),
        turn_start=matches.get(STARTS),
        own_start=matches.get(tries.own_starts[state.rule]),
        special_start=matches.get(SPECIAL_STARTS),
        document_start=matches.get(DOCUMENT_STARTS),
        span_end=None if span is None else matches.get(tries.ends[state.span]),
        span_start=matches.get(tries.spans.get(rule.role, NO_TRIE)),
    )
    event, length = event_in_turn(here, rule, span, in_header=state.in_header)
    if event is Event.HEADER_ENDS:
        return _pass_over(State(state.rule), length - 1, Passing.HEADER), Output(state.rule, part=Part.HEADER)
    if event is Event.TURN_ENDS:
        if rule.rewind or not length:
            after, output = _step_outside(matches)
        else:
            after, output = _pass_over(State(), length - 1, Passing.END), Output()
        return after, output._replace(ended=state.rule, end_length=length) if length else output
    if event is Event.TURN_IS_CUT:
        return _step_outside(matches)
    if event is Event.TURN_IS_REOPENED:
        after, output = _step_outside(matches)
        return after, output._replace(reopens=True)
    if event is Event.SPAN_ENDS:
        if rules.rules[state.span].rewind:  # the token is read again, without the span
            return _step_in_turn(state._replace(span=OUTSIDE, closed=state.span), matches, rules, tries)
        after = _pass_over(State(state.rule, state.span), length - 1, Passing.SPAN_END)
        return after if after.left else State(state.rule, closed=state.span), Output(state.rule, state.span, Part.SPAN)
    if here.span_start is not None and event is Event.SPAN_STARTS:
        opened = here.span_start.value
        inside = State(state.rule, opened)
        if rules.rules[opened].start_is_turns and opened != state.closed:
            after, output = _pass_over(inside, length - 1, Passing.TURNS_SPAN_START), Output(state.rule, part=Part.CONTENT)
        else:
            after, output = _pass_over(inside, length - 1, Passing.SPAN_START), Output(state.rule, opened, Part.SPAN)
        return after, output._replace(opens=opened)
    part = Part.SPAN if span is not None else Part.HEADER if state.in_header else Part.CONTENT
    return State(state.rule, state.span, state.in_header), Output(state.rule, state.span, part)


_PART_PASSED = {
    Passing.HEADER: Part.HEADER,
    Passing.SPAN_START: Part.SPAN,
    Passing.TURNS_SPAN_START: Part.CONTENT,
    Passing.SPAN_END: Part.SPAN,
}


def _step_over(state: State, matches: _Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
    """Pass over one token of a marker that was found before; in its last token, another marker may begin."""
    after = state._replace(left=state.left - 1)
    if state.passing is Passing.END:
        output = Output()  # the step at which the end marker began covers all its tokens
    elif state.passing is Passing.END_IN_NEXT:
        after, output = State(left=after.left, passing=Passing.END), Output(ended=state.rule, end_length=state.left)
    else:
        assert state.passing is not None
        part = _PART_PASSED[state.passing]
        output = Output(state.rule, state.span if part is Part.SPAN else OUTSIDE, part)
    if after.left:
        return after, output
    after = _behind_marker(state)
    begun, event = _step(after, _longer_than_one(matches), rules, tries)
    if begun == State(after.rule, after.span, after.in_header):
        return after, output
    if begun.passing is Passing.END:
        return State(after.rule, left=begun.left, passing=Passing.END_IN_NEXT), output
    if event.starts_turn or event.ended != OUTSIDE:
        return begun, event if output.ended == OUTSIDE else event._replace(ended=output.ended, end_length=output.end_length)
    closed = after.span if begun.span == OUTSIDE else OUTSIDE  # by an end marker that is left in place
    return begun._replace(closed=closed), output._replace(opens=event.opens)


def _behind_marker(state: State) -> State:
    """Return the state behind the last token of the marker that this state passes over."""
    if state.passing in (Passing.END, Passing.END_IN_NEXT):
        return State()
    return State(state.rule, closed=state.span) if state.passing is Passing.SPAN_END else state._replace(left=0, passing=None)


def _longer_than_one(matches: _Found) -> _Found:
    """Keep only the matches of two tokens and more: those that can begin in the last token of another marker."""
    # A document does not start inside a marker.
    return {trie: match for trie, match in matches.items() if match.length > 1 and trie != DOCUMENT_STARTS}


def _step_outside(matches: _Found) -> tuple[State, Output]:
    return (OPENED, Output(starts_turn=True)) if STARTS in matches else (State(), Output())


def _pass_over(state: State, left: int, passing: Passing) -> State:
    return state._replace(left=left, passing=passing) if left else state

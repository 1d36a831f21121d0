"""Turns the rules into one finite-state machine, as tables, which the fast kernels run.

It takes two table look-ups per token:

1. `Matcher` reads the tokens from a position on, and finds the markers of every kind that match there. Only a few dozen different
   `Matches` are possible, so these are numbered.
2. `Automaton` goes from left to right over the numbers of the matches. Its state says where in a turn the scan is. Marker tokens still to
   be passed over are states too, so each token is one step, and steps can be composed, as a GPU needs.

The order of the rules is that of `rolemask.masking.turns.event_in_turn`, which fills the tables case by case.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from rolemask.masking.turns import Event, Here, Part, event_in_turn
from rolemask.matching.compiler import OUTSIDE, Rules
from rolemask.matching.trie import Match, TokenTrie


class Matches(NamedTuple):
    """The markers that match at a position: the longest match of each trie, or None."""

    starts: Match | None
    special_starts: Match | None
    document_starts: Match | None
    ends: tuple[Match | None, ...]  # per rule
    header_ends: tuple[Match | None, ...]  # per rule
    own_starts: tuple[Match | None, ...]  # per rule
    spans: tuple[Match | None, ...]  # per role of a turn

    def longer_than_one(self) -> "Matches":
        """Keep only the matches of two tokens and more: those that can begin in the last token of another marker."""

        def keep(match: Match | None) -> Match | None:
            return match if match is not None and match.length > 1 else None

        return Matches(
            keep(self.starts),
            keep(self.special_starts),
            None,  # a document does not start inside a marker
            tuple(map(keep, self.ends)),
            tuple(map(keep, self.header_ends)),
            tuple(map(keep, self.own_starts)),
            tuple(map(keep, self.spans)),
        )


@dataclass(frozen=True)
class Matcher:
    """The tries of a rule set, run side by side.

    Attributes:
        token_class: token id -> class; tokens that every marker treats alike share one. An id that is missing has class 0.
        steps: [state][class] -> state; state 0 is the start.
        matches_in: state -> index into `matches`.
        matches: The matches that are possible; index 0 is no match.
        depth: How many tokens the matcher reads at most.
    """

    token_class: dict[int, int]
    steps: list[list[int]]
    matches_in: list[int]
    matches: list[Matches]
    depth: int


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
    """`step[matches][state]` is the state after the token, `output[matches][state]` an index into `outputs`; state 0 is outside."""

    matcher: Matcher
    states: list[State]
    outputs: list[Output]
    step: list[list[int]]
    output: list[list[int]]


_automata: dict[int, Automaton] = {}


def automaton_of(rules: Rules) -> Automaton:
    """Return the automaton of `rules`, which is built once and kept as long as they live."""
    key = id(rules)  # rules hold mappings, so they have no hash
    if key not in _automata:
        _automata[key] = build_automaton(rules)
        weakref.finalize(rules, _automata.pop, key, None)
    return _automata[key]


def build_matcher(rules: Rules) -> Matcher:
    """Combine the tries of `rules` into one matcher."""
    empty = TokenTrie()
    tries = [rules.starts, rules.special_starts, rules.document_starts]
    tries += [rule.ends for rule in rules.rules]
    tries += [rule.header_ends or empty for rule in rules.rules]
    tries += [rule.own_starts for rule in rules.rules]
    tries += [rules.spans.get(role, empty) for role in range(len(rules.roles))]
    classes, members = _token_classes(tries)

    def matches_of(best: tuple[Match | None, ...]) -> Matches:
        count = len(rules.rules)
        ends, header_ends, own_starts = (best[3 + kind * count : 3 + (kind + 1) * count] for kind in range(3))
        return Matches(best[0], best[1], best[2], ends, header_ends, own_starts, best[3 + 3 * count :])

    begin = _Path((0,) * len(tries), (None,) * len(tries), 0)
    numbers = {begin.key: 0}
    queue = [begin]
    steps: list[list[int]] = []
    for path in queue:  # grows during the loop
        row = []
        for id_ in members:
            after = path.step(id_, tries)
            if after.key not in numbers:
                numbers[after.key] = len(queue)
                queue.append(after)
            row.append(numbers[after.key])
        steps.append(row)
    matches: dict[Matches, int] = {matches_of(begin.best): 0}
    matches_in = [matches.setdefault(matches_of(path.best), len(matches)) for path in queue]
    return Matcher(classes, steps, matches_in, list(matches), depth=max(path.length for path in queue))


class _Path(NamedTuple):
    """The state of each trie (-1: it cannot match any more), its longest match so far, and how many tokens were read."""

    at: tuple[int, ...]
    best: tuple[Match | None, ...]
    length: int

    @property
    def key(self) -> tuple[object, ...]:
        # One state of a trie can be reached by different numbers of tokens, and the length of a match counts tokens.
        return self.at, self.best, self.length if max(self.at) >= 0 else None

    def step(self, id_: int | None, tries: Sequence[TokenTrie]) -> "_Path":
        """Read a token; None stands for every token that is in no trie."""
        at = tuple(
            trie.edges[state].get(id_, -1) if id_ is not None and state >= 0 else -1 for trie, state in zip(tries, self.at, strict=True)
        )
        if max(at) < 0:
            return _Path(at, self.best, self.length)
        length = self.length + 1
        best = tuple(
            Match(trie.accept[state], length) if state >= 0 and trie.accept[state] >= 0 else before
            for trie, state, before in zip(tries, at, self.best, strict=True)
        )
        return _Path(at, best, length)


def _token_classes(tries: Sequence[TokenTrie]) -> tuple[dict[int, int], list[int | None]]:
    """Return token id -> class, and one member of each class; tokens with the same edges everywhere share a class."""
    edges: dict[int, list[tuple[int, int, int]]] = {}
    for number, trie in enumerate(tries):
        for state, out in enumerate(trie.edges):
            for id_, after in out.items():
                edges.setdefault(id_, []).append((number, state, after))
    numbers: dict[tuple[tuple[int, int, int], ...], int] = {}
    classes: dict[int, int] = {}
    members: list[int | None] = [None]
    for id_, found in edges.items():
        key = tuple(found)
        if key not in numbers:
            numbers[key] = len(members)
            members.append(id_)
        classes[id_] = numbers[key]
    return classes, members


def build_automaton(rules: Rules) -> Automaton:
    """Tabulate the scan of `rules`."""
    matcher = build_matcher(rules)
    states: dict[State, int] = {State(): 0}
    outputs: dict[Output, int] = {Output(): 0}
    cells: dict[tuple[int, int], tuple[int, int]] = {}
    queue = [State()]
    for state in queue:  # grows during the loop
        for index, matches in enumerate(matcher.matches):
            after, output = _step(state, matches, rules)
            if after not in states:
                states[after] = len(queue)
                queue.append(after)
            cells[index, states[state]] = states[after], outputs.setdefault(output, len(outputs))
    size = range(len(queue))
    return Automaton(
        matcher,
        queue,
        list(outputs),
        [[cells[index, state][0] for state in size] for index in range(len(matcher.matches))],
        [[cells[index, state][1] for state in size] for index in range(len(matcher.matches))],
    )


def _step(state: State, matches: Matches, rules: Rules) -> tuple[State, Output]:
    """Take one token."""
    if state.left:
        return _step_over(state, matches, rules)
    if state.rule == OUTSIDE:
        return _step_outside(matches, rules)
    return _step_in_turn(state, matches, rules)


def _step_in_turn(state: State, matches: Matches, rules: Rules) -> tuple[State, Output]:
    rule = rules.rules[state.rule]
    span = None if state.span == OUTSIDE else rules.rules[state.span]
    here = Here(
        header_end=matches.header_ends[state.rule],
        turn_end=matches.ends[state.rule],
        turn_start=matches.starts,
        own_start=matches.own_starts[state.rule],
        special_start=matches.special_starts,
        document_start=matches.document_starts,
        span_end=None if span is None else matches.ends[state.span],
        span_start=matches.spans[rule.role],
    )
    event, length = event_in_turn(here, rule, span, in_header=state.in_header)
    if event is Event.HEADER_ENDS:
        return _pass_over(State(state.rule), length - 1, Passing.HEADER), Output(state.rule, part=Part.HEADER)
    if event is Event.TURN_ENDS:
        if rule.rewind or not length:
            after, output = _step_outside(matches, rules)
        else:
            after, output = _pass_over(State(), length - 1, Passing.END), Output()
        return after, output._replace(ended=state.rule, end_length=length)
    if event is Event.TURN_IS_CUT:
        return _step_outside(matches, rules)
    if event is Event.TURN_IS_REOPENED:
        after, output = _step_outside(matches, rules)
        return after, output._replace(reopens=True)
    if event is Event.SPAN_ENDS:
        if rules.rules[state.span].rewind:  # the token is read again, without the span
            return _step_in_turn(state._replace(span=OUTSIDE, closed=state.span), matches, rules)
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


def _step_over(state: State, matches: Matches, rules: Rules) -> tuple[State, Output]:
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
    after = State(state.rule, closed=state.span) if state.passing is Passing.SPAN_END else after._replace(passing=None)
    begun, event = _step(after, matches.longer_than_one(), rules)
    if begun == State(after.rule, after.span, after.in_header):
        return after, output
    if begun.passing is Passing.END:
        return State(after.rule, left=begun.left, passing=Passing.END_IN_NEXT), output
    if event.starts_turn or event.ended != OUTSIDE:
        return begun, event if output.ended == OUTSIDE else event._replace(ended=output.ended, end_length=output.end_length)
    closed = after.span if begun.span == OUTSIDE else OUTSIDE  # by an end marker that is left in place
    return begun._replace(closed=closed), output._replace(opens=event.opens)


def _step_outside(matches: Matches, rules: Rules) -> tuple[State, Output]:
    if matches.starts is None:
        return State(), Output()
    index, opened = rules.openings[matches.starts.value]
    inside = State(index, opened, in_header=rules.rules[index].header_ends is not None)
    after = _pass_over(inside, matches.starts.length - 1, Passing.HEADER)
    return after, Output(index, part=Part.HEADER, starts_turn=True, opens=opened)


def _pass_over(state: State, left: int, passing: Passing) -> State:
    return state._replace(left=left, passing=passing) if left else state

"""One step of the scan: the state before a token and the matches there -> the state after it, and what is found.

`rolemask.masking.automaton` asks for each step once, and tabulates them.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from rolemask.masking.matcher import DOCUMENT_STARTS, NO_TRIE, SPECIAL_STARTS, STARTS, Tries
from rolemask.masking.turns import Event, Here, Part, event_in_turn
from rolemask.matching.compiler import OUTSIDE, Rules
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
    terminates: bool = False  # a turn ends here as it should: with an end marker, or at the next start, if that is its end


def tries_read(state: State, rules: Rules, tries: Tries) -> list[int]:
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


def opening_of(start: Match | None, rules: Rules) -> tuple[State, Output] | None:
    """Return the step at a start marker, outside any turn."""
    if start is None:
        return None
    index, opened = rules.openings[start.value]
    inside = State(index, opened, in_header=rules.rules[index].header_ends is not None)
    return _pass_over(inside, start.length - 1, Passing.HEADER), Output(index, part=Part.HEADER, starts_turn=True, opens=opened)


def opened_by(opening: Output, form: Output) -> Output:
    """Return the output of a step that starts a turn, and may end another: `form` is the same for a turn that is not known yet."""
    return opening._replace(ended=form.ended, end_length=form.end_length, reopens=form.reopens, terminates=form.terminates)


Found = Mapping[int, Match]
"""The matches at a token, by the number of the trie. Of starts it only counts whether they match, and whether with more than one token."""


def take_step(state: State, matches: Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
    """Take one token."""
    if state.left:
        return _step_over(state, matches, rules, tries)
    if state.rule == OUTSIDE:
        return _step_outside(matches)
    return _step_in_turn(state, matches, rules, tries)


def _step_in_turn(state: State, matches: Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
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
        output = output._replace(terminates=True)
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


def _step_over(state: State, matches: Found, rules: Rules, tries: Tries) -> tuple[State, Output]:
    """Pass over one token of a marker that was found before; in its last token, another marker may begin."""
    after = state._replace(left=state.left - 1)
    if state.passing is Passing.END:
        output = Output()  # the step at which the end marker began covers all its tokens
    elif state.passing is Passing.END_IN_NEXT:
        after, output = State(left=after.left, passing=Passing.END), Output(ended=state.rule, end_length=state.left, terminates=True)
    else:
        assert state.passing is not None
        part = _PART_PASSED[state.passing]
        output = Output(state.rule, state.span if part is Part.SPAN else OUTSIDE, part)
    if after.left:
        return after, output
    after = _behind_marker(state)
    begun, event = take_step(after, _longer_than_one(matches), rules, tries)
    if begun == State(after.rule, after.span, after.in_header):
        return after, output
    if begun.passing is Passing.END:
        return State(after.rule, left=begun.left, passing=Passing.END_IN_NEXT), output
    if event.starts_turn or event.ended != OUTSIDE:
        return begun, event if output.ended == OUTSIDE else event._replace(
            ended=output.ended, end_length=output.end_length, terminates=True
        )
    closed = after.span if begun.span == OUTSIDE else OUTSIDE  # by an end marker that is left in place
    return begun._replace(closed=closed), output._replace(opens=event.opens)


def _behind_marker(state: State) -> State:
    """Return the state behind the last token of the marker that this state passes over."""
    if state.passing in (Passing.END, Passing.END_IN_NEXT):
        return State()
    return State(state.rule, closed=state.span) if state.passing is Passing.SPAN_END else state._replace(left=0, passing=None)


def _longer_than_one(matches: Found) -> Found:
    """Keep only the matches of two tokens and more: those that can begin in the last token of another marker."""
    # A document does not start inside a marker.
    return {trie: match for trie, match in matches.items() if match.length > 1 and trie != DOCUMENT_STARTS}


def _step_outside(matches: Found) -> tuple[State, Output]:
    return (OPENED, Output(starts_turn=True)) if STARTS in matches else (State(), Output())


def _pass_over(state: State, left: int, passing: Passing) -> State:
    return state._replace(left=left, passing=passing) if left else state

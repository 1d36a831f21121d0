"""Finds the turns of one sequence: the first half of the definition, as plain Python over a list of ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import NamedTuple

from rolemask.matching.compiler import OUTSIDE, Rule, Rules
from rolemask.matching.trie import Match, TokenTrie

UNATTENDED = -1
"""Replaces the id of a token whose attention is 0: it matches no marker."""


class Part(str, Enum):
    """The part of a turn that a token belongs to."""

    OUTSIDE = "outside"
    HEADER = "header"
    CONTENT = "content"
    SPAN = "span"
    END = "end marker"

    def __str__(self) -> str:
        return self.value


@dataclass
class Span:
    """A stretch inside a turn: start marker [start, content), content [content, end), end marker [end, stop).

    The tokens from `own` on have the span's role. `own` is `start`, or `content` where the start marker belongs to the turn.
    """

    rule: int
    start: int
    content: int
    end: int
    stop: int
    own: int


@dataclass
class Turn:
    """Header [start, content), content [content, end), end marker [end, stop); `end == stop` where none was found."""

    rule: int
    start: int
    content: int
    end: int
    stop: int
    terminated: bool
    spans: list[Span] = field(default_factory=list)

    def moved(self, by: int) -> "Turn":
        """Return the turn `by` tokens further on."""
        spans = [Span(span.rule, *(at + by for at in (span.start, span.content, span.end, span.stop, span.own))) for span in self.spans]
        return Turn(self.rule, self.start + by, self.content + by, self.end + by, self.stop + by, self.terminated, spans)


class Event(Enum):
    """What happens at a token inside a turn."""

    HEADER_ENDS = auto()
    TURN_ENDS = auto()
    TURN_IS_CUT = auto()  # the next turn or document starts before the end marker, or the end stands in a span that is not the model's
    TURN_IS_REOPENED = auto()  # by its own start, which says that it was none (`Rule.unanswered`)
    SPAN_ENDS = auto()
    SPAN_STARTS = auto()
    NOTHING = auto()


class Here(NamedTuple):
    """The markers that match at a token inside a turn."""

    header_end: Match | None
    turn_end: Match | None
    turn_start: Match | None  # matters only to a turn that ends at the next start
    own_start: Match | None  # of a turn with `unanswered`: nobody answered
    special_start: Match | None  # a turn start that begins with a special token
    document_start: Match | None
    span_end: Match | None  # of the span that is open
    span_start: Match | None


def event_in_turn(here: Here, turn: Rule, span: Rule | None, *, in_header: bool) -> tuple[Event, int]:
    """Return what happens at a token inside a turn, and the length of its marker: the rules of the scan, in their order.

    `span` is the open span, None between spans. The automaton asks this function too, so the order stands here alone.
    """
    if in_header and here.header_end:
        return Event.HEADER_ENDS, here.header_end.length
    end_length = _turn_end_length(here, turn)
    span_end_length = here.span_end.length if here.span_end and span is not None and not span.rewind else 0
    # gpt-oss ends its reasoning with a marker that begins like the end of a turn, and goes on: the longer marker wins.
    if end_length is not None and span_end_length <= end_length:
        # Inside a tool's result that is still open, it is not the model that ends the turn.
        is_others = span is not None and span.has_end and not span.follows_turn and here.span_end is None
        return (Event.TURN_IS_CUT, 0) if is_others else (Event.TURN_ENDS, end_length)
    if here.own_start:
        return Event.TURN_IS_REOPENED, 0
    if here.special_start or here.document_start:
        return Event.TURN_IS_CUT, 0
    if here.span_end:
        return Event.SPAN_ENDS, here.span_end.length
    if here.span_start and span is None and not in_header:
        return Event.SPAN_STARTS, here.span_start.length
    return Event.NOTHING, 0


def _turn_end_length(here: Here, turn: Rule) -> int | None:
    """Return how many tokens the end marker has, None where the turn goes on."""
    if here.turn_end:
        return here.turn_end.length
    if turn.ends_at_next_start and here.turn_start and not here.own_start:
        # Generation stops at one special token; the rest of the header, and all of a header of text, belongs to the next turn.
        return 1 if turn.header_is_stop and here.special_start and not here.document_start else 0
    return None


def scan(ids: Sequence[int], rules: Rules) -> list[Turn]:
    """Find the turns of one sequence, from left to right."""
    turns = []
    at = taken = 0
    while at < len(ids):
        opening = match_beyond(taken, rules.starts, ids, at)
        if opening is None:
            at += 1
            continue
        reader = _TurnReader(ids, at, opening, rules)
        turns.append(reader.read())
        at, taken = reader.at, reader.taken
    return turns


def match_beyond(taken: int, trie: TokenTrie | None, ids: Sequence[int], at: int) -> Match | None:
    """Return the match at `at` if it ends after `taken`, where the marker before it ended."""
    found = None if trie is None else trie.match(ids, at)
    return found if found is not None and at + found.length > taken else None


class _TurnReader:
    """Reads one turn, token by token.

    `at` is the token to look at next, `taken` is where the last marker ended. Usually they are equal. But a tokenizer may join the end of
    one text marker and the beginning of the next into one token (``><``), so the last token of a longer marker is looked at again. It
    belongs to the first marker, unless a turn starts in it.
    """

    def __init__(self, ids: Sequence[int], start: int, opening: Match, rules: Rules) -> None:
        index, opened = rules.openings[opening.value]
        self.ids = ids
        self.rules = rules
        self.rule = rules.rules[index]
        self.turn = Turn(index, start, start + opening.length, len(ids), len(ids), terminated=not self.rule.has_end)
        self.in_header = self.rule.header_ends is not None
        self.span: Span | None = None
        self.is_over = False
        self.at = start
        self._pass_over(opening.length)
        if opened != OUTSIDE:
            self._open_span(Span(opened, self.taken, self.taken, len(ids), len(ids), own=self.taken))

    def read(self) -> Turn:
        """Return the turn; the scan goes on with the reader's `at` and `taken`."""
        while not self.is_over and self.at < len(self.ids):
            self._take_step()
        turn = self.turn
        turn.content = turn.end if self.in_header else min(turn.content, turn.end)
        for span in turn.spans[-1:]:  # a span ends with its turn
            span.content, span.end, span.stop = (min(at, turn.end) for at in (span.content, span.end, span.stop))
        return turn

    def _take_step(self) -> None:
        here = self._matches_here()
        span_rule = None if self.span is None else self.rules.rules[self.span.rule]
        event, length = event_in_turn(here, self.rule, span_rule, in_header=self.in_header)
        if event is Event.HEADER_ENDS:
            self._end_header(length)
        elif event is Event.TURN_ENDS:
            self._end_turn(length)
        elif event is Event.TURN_IS_CUT:
            self._cut_turn()
        elif event is Event.TURN_IS_REOPENED:
            self._cut_turn()
            self.turn = replace(self.turn, rule=self.rule.unanswered, terminated=True, spans=[])
        elif self.span is not None and event is Event.SPAN_ENDS:
            self._end_span(self.span, length)
        elif here.span_start is not None and event is Event.SPAN_STARTS:
            self._start_span(here.span_start)
        else:
            self.at += 1

    def _matches_here(self) -> Here:
        def match(trie: TokenTrie | None) -> Match | None:
            return match_beyond(self.taken, trie, self.ids, self.at)

        return Here(
            header_end=match(self.rule.header_ends),
            turn_end=match(self.rule.ends),
            turn_start=match(self.rules.starts) if self.rule.ends_at_next_start else None,
            own_start=match(self.rule.own_starts),
            special_start=match(self.rules.special_starts),
            # A marker that was found keeps its tokens: a document starts after it, not in its last token.
            document_start=self.rules.document_starts.match(self.ids, self.at) if self.at >= self.taken else None,
            span_end=None if self.span is None else match(self.rules.rules[self.span.rule].ends),
            span_start=match(self.rules.spans.get(self.rule.role)),
        )

    def _end_header(self, length: int) -> None:
        self._pass_over(length)
        self.in_header = False
        self.turn.content = self.taken

    def _end_turn(self, length: int) -> None:
        self.turn.end = self.at if self.rule.rewind else max(self.at, self.taken)
        self.turn.stop = self.at + length
        self.turn.terminated = True
        self.is_over = True
        if not self.rule.rewind:
            self._pass_over(length)

    def _cut_turn(self) -> None:
        next_starts = match_beyond(self.taken, self.rules.starts, self.ids, self.at)
        self.turn.end = self.turn.stop = self.at if next_starts else max(self.at, self.taken)
        self.is_over = True

    def _end_span(self, span: Span, length: int) -> None:
        span.end = span.stop = max(self.at, self.taken)
        if not self.rules.rules[span.rule].rewind:
            self._pass_over(length)
            span.stop = self.taken
        self.span = None

    def _start_span(self, start: Match) -> None:
        own = max(self._own_from(start), self.taken)
        content = self.at + start.length
        self._open_span(Span(start.value, max(self.at, self.taken), content, len(self.ids), len(self.ids), own))
        self._pass_over(start.length)

    def _own_from(self, start: Match) -> int:
        """Return the first token that has the span's role.

        With `start_owner: turn` the turn opens a span by its start marker. Of several spans in a row it opens only the first.
        """
        spans = self.turn.spans
        follows_its_like = bool(spans) and spans[-1].rule == start.value and spans[-1].stop >= self.at
        return self.at + start.length if self.rules.rules[start.value].start_is_turns and not follows_its_like else self.at

    def _open_span(self, span: Span) -> None:
        self.span = span
        self.turn.spans.append(span)

    def _pass_over(self, length: int) -> None:
        self.taken = self.at + length
        self.at = self.taken - 1 if length > 1 else self.taken

"""The turns of a sequence, found by a loop that shares nothing with `rolemask.masking.turns`: the order of the rules, written a second time."""

from collections.abc import Sequence

from rolemask.masking.turns import Span, Turn
from rolemask.matching.compiler import OUTSIDE, Rule, Rules
from rolemask.matching.trie import TokenTrie


def scan(ids: Sequence[int], rules: Rules) -> list[Turn]:
    """Find the turns of one sequence, from left to right."""
    turns = []
    at = taken = 0
    while at < len(ids):
        found = match_beyond(taken, rules.starts, ids, at)
        if found is None:
            at += 1
            continue
        turn, at, taken = _read_turn(ids, at, *rules.openings[found[0]], found[1], rules)
        turns.append(turn)
    return turns


def match_beyond(taken: int, trie: TokenTrie, ids: Sequence[int], at: int) -> tuple[int, int] | None:
    """Return the match at `at` if it ends after `taken`, where the marker before it ended."""
    found = trie.match(ids, at)
    return found if found is not None and at + found[1] > taken else None


def after(at: int, length: int) -> tuple[int, int]:
    """Return where to read on after a marker, and where it ended: the last token of several is read again."""
    stop = at + length
    return (stop - 1 if length > 1 else stop), stop


def _read_turn(ids: Sequence[int], start: int, index: int, opened: int, length: int, rules: Rules) -> tuple[Turn, int, int]:
    """Read a turn whose header begins at `start`; return it, where to read on, and where its last marker ended."""
    rule = rules.rules[index]
    turn = Turn(index, start, start + length, len(ids), len(ids), terminated=not rule.has_end)
    in_header = rule.header_ends is not None
    span: Span | None = None
    if opened != OUTSIDE:
        span = Span(opened, turn.content, turn.content, len(ids), len(ids), own=turn.content)
        turn.spans.append(span)
    spans = rules.spans.get(rule.role)
    at, taken = after(start, length)
    go_on = len(ids), len(ids)
    while at < len(ids):
        if in_header and rule.header_ends is not None and (found := match_beyond(taken, rule.header_ends, ids, at)):
            at, taken = after(at, found[1])
            in_header = False
            turn.content = taken
            continue
        closing = None if span is None else match_beyond(taken, rules.rules[span.rule].ends, ids, at)
        end_length = _end_length(ids, at, taken, rule, rules)
        # The longer marker wins.
        if end_length is not None and closing_length(closing, span, rules) <= end_length:
            inner = None if span is None else rules.rules[span.rule]
            if inner is not None and inner.has_end and not inner.follows_turn and closing is None:
                turn.end = turn.stop = at if match_beyond(taken, rules.starts, ids, at) else max(at, taken)
                turn.terminated = not rule.has_end
                go_on = at, taken
                break
            turn.end, turn.stop, turn.terminated = (at if rule.rewind else max(at, taken)), at + end_length, True
            go_on = (at, taken) if rule.rewind else after(at, end_length)
            break
        if match_beyond(taken, rule.own_starts, ids, at):
            turn = Turn(rule.unanswered, start, turn.content, at, at, terminated=True)
            go_on = at, taken
            break
        begins_document = at >= taken and rules.document_starts.match(ids, at)
        if match_beyond(taken, rules.special_starts, ids, at) or begins_document:
            turn.end = turn.stop = at
            turn.terminated = not rule.has_end
            go_on = at, taken
            break
        if span is not None and closing is not None:
            span.end = span.stop = max(at, taken)
            if not rules.rules[span.rule].rewind:
                at, taken = after(at, closing[1])
                span.stop = taken
            span = None
            continue
        if span is None and not in_header and spans is not None and (found := match_beyond(taken, spans, ids, at)):
            own = max(own_from(at, *found, turn, rules), taken)
            span = Span(found[0], max(at, taken), at + found[1], len(ids), len(ids), own)
            turn.spans.append(span)
            at, taken = after(at, found[1])
            continue
        at += 1
    turn.content = turn.end if in_header else min(turn.content, turn.end)
    for last in turn.spans[-1:]:
        last.content, last.end, last.stop = (min(at, turn.end) for at in (last.content, last.end, last.stop))
    return turn, *go_on


def closing_length(closing: tuple[int, int] | None, span: Span | None, rules: Rules) -> int:
    """Return the length of the end marker of the open span, 0 where there is none or it is left in place."""
    return 0 if closing is None or span is None or rules.rules[span.rule].rewind else closing[1]


def own_from(at: int, index: int, length: int, turn: Turn, rules: Rules) -> int:
    """Return the first token that has the role of a span that starts at `at`. Of several in a row, the turn opens the first."""
    follows_its_like = bool(turn.spans) and turn.spans[-1].rule == index and turn.spans[-1].stop >= at
    return at + length if rules.rules[index].start_is_turns and not follows_its_like else at


def _end_length(ids: Sequence[int], at: int, taken: int, rule: Rule, rules: Rules) -> int | None:
    """Return the length of the longest end marker of `rule` at `at`; None where the turn goes on."""
    found = match_beyond(taken, rule.ends, ids, at)
    if found is not None:
        return found[1]
    if rule.ends_at_next_start and match_beyond(taken, rules.starts, ids, at) and not match_beyond(taken, rule.own_starts, ids, at):
        begins_document = at >= taken and rules.document_starts.match(ids, at)
        return 1 if rule.header_is_stop and match_beyond(taken, rules.special_starts, ids, at) and not begins_document else 0
    return None

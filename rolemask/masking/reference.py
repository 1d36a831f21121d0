"""The definition: which tokens belong to which turn, and which are trained. Plain, slow, lists in and lists out.

Every faster path must agree with this module bit for bit; `rolemask check` and `rolemask explain` use it as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rolemask.errors import InputError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import Policy
from rolemask.matching.compiler import OUTSIDE, Rule, Rules
from rolemask.matching.trie import TokenTrie

NOTHING = -1
"""The id that stands for a token which is not attended to: it matches no marker."""


@dataclass
class Span:
    """A stretch inside a turn: start marker [start, content), content [content, end), end marker [end, stop).

    From `own` on it is the span's: from its start marker, or from its content where the start marker is the turn's.
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


@dataclass
class Masked:
    """What the definition says of one sequence: per token its label and role id, and the turns. `trained` is per turn."""

    labels: list[int]
    roles: list[int]
    turns: list[Turn]
    trained: list[bool]


def mask(
    ids: Sequence[int],
    rules: Rules,
    policy: Policy,
    attention: Sequence[int] | None = None,
    *,
    starts: Sequence[int] | None = None,
    train_turns: Sequence[bool] | None = None,
) -> Masked:
    """Label one row, which may hold several documents: each is masked as if it stood alone.

    Args:
        ids: Token ids; negative ones (some processors put them for media) are never trained.
        rules: The compiled marker set.
        policy: What to train.
        attention: 0 for each token that is not attended to; such tokens are never trained and match no marker. Without it, the pad
            token is not trained, except where it really is the end marker of a trained turn.
        starts: Nonzero for the first token of each document. The label of the first token of every document but the first is -100, since
            it would be predicted from another document.
        train_turns: A flag for each turn of the row of which something would be trained; a turn whose flag is false, or missing, is not.
            Whether the numbers agree is for the caller to check (`check_train_turns`).
    """
    flags = None if train_turns is None else iter(train_turns)
    row = Masked([], [], [], [])
    for start, stop in documents(len(ids), starts):
        attended = None if attention is None else attention[start:stop]
        document = _mask_document(ids[start:stop], rules, policy, attended, flags)
        if start:
            document.labels[0] = IGNORE_INDEX
        row.labels += document.labels
        row.roles += document.roles
        row.turns += [turn.moved(start) for turn in document.turns]
        row.trained += document.trained
    return row


def documents(size: int, starts: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return [start, stop) of each document of a row."""
    borders = [0, *(at for at in range(1, size) if starts is not None and starts[at]), size]
    return list(pairwise(borders))


def _mask_document(
    ids: Sequence[int], rules: Rules, policy: Policy, attention: Sequence[int] | None, flags: Iterator[bool] | None
) -> Masked:
    attended = [True] * len(ids) if attention is None else [bool(value) for value in attention]
    turns = scan([id_ if seen else NOTHING for id_, seen in zip(ids, attended, strict=True)], rules)
    chosen = choose_turns(turns, rules, policy, flags)

    trained = [policy.train_on_inputs] * len(ids)
    roles = [OUTSIDE] * len(ids)
    # Turns do not overlap, but for end markers that are left in place to start the next turn: these come second.
    for turn, is_chosen in zip(turns, chosen, strict=True):
        rule = rules.rules[turn.rule]
        is_trained = is_chosen and rules.roles[rule.role] in policy.roles_to_train
        for at in range(turn.start, turn.end):
            trained[at] |= is_trained and (at >= turn.content or rule.include_start)
            roles[at] = rule.role
        for span in turn.spans:
            inner = rules.rules[span.rule]
            for at in range(span.own, span.stop):
                trained[at] = policy.train_on_inputs or (is_chosen and span_is_trained(inner, rules, policy))
                roles[at] = inner.role
    ends = [False] * len(ids)  # the tokens that some role has to emit to end its turn
    is_free = [role == OUTSIDE for role in roles]
    for index, turn in enumerate(turns):
        rule = rules.rules[turn.rule]
        end_trained = end_is_trained(index, turns, chosen, rules, policy)
        for at in range(turn.end, turn.stop):
            trained[at] |= end_trained
            ends[at] |= rule.include_end
            if rule.include_end or (is_free[at] and not ends[at]):
                roles[at] = rule.role

    for at, id_ in enumerate(ids):
        is_pad = attention is None and id_ == rules.pad_id and not ends[at]
        if id_ < 0 or id_ in rules.media or is_pad or not attended[at]:
            trained[at] = False
    labels = [id_ if is_trained else IGNORE_INDEX for id_, is_trained in zip(ids, trained, strict=True)]
    return Masked(labels, roles, turns, chosen)


def _next(at: int) -> int:
    return at


def scan(ids: Sequence[int], rules: Rules, next_from: Callable[[int], int] = _next) -> list[Turn]:
    """Find the turns of one sequence, from left to right.

    `next_from` tells the first token, from one on, at which a marker may begin: where that is known, the others need no look.
    """
    turns = []
    at = taken = 0
    while (at := next_from(at)) < len(ids):
        found = match_beyond(taken, rules.starts, ids, at)
        if found is None:
            at += 1
            continue
        turn, at, taken = _read_turn(ids, at, *rules.openings[found[0]], found[1], rules, next_from)
        turns.append(turn)
    return turns


def match_beyond(taken: int, trie: TokenTrie, ids: Sequence[int], at: int) -> tuple[int, int] | None:
    """Return what matches at `at`, if it goes on behind `taken`, up to which the tokens are those of the marker before."""
    found = trie.match(ids, at)
    return found if found is not None and at + found[1] > taken else None


def behind(at: int, length: int) -> tuple[int, int]:
    """Return where to read on behind a marker, and where it ended.

    A tokenizer may join the end of one marker of text and the beginning of the next into one token (``><``), so the last token of several
    is read again. It stays the first marker's, unless a turn starts in it.
    """
    stop = at + length
    return (stop - 1 if length > 1 else stop), stop


def _read_turn(
    ids: Sequence[int], start: int, index: int, opened: int, length: int, rules: Rules, next_from: Callable[[int], int]
) -> tuple[Turn, int, int]:
    """Read a turn whose header begins at `start`; return it, where to read on, and up to where the tokens are taken."""
    rule = rules.rules[index]
    turn = Turn(index, start, start + length, len(ids), len(ids), terminated=not rule.has_end)
    in_header = rule.header_ends is not None
    span: Span | None = None
    if opened != OUTSIDE:
        span = Span(opened, turn.content, turn.content, len(ids), len(ids), own=turn.content)
        turn.spans.append(span)
    spans = rules.spans.get(rule.role)
    at, taken = behind(start, length)
    go_on = len(ids), len(ids)
    while (at := next_from(at)) < len(ids):
        if in_header and rule.header_ends is not None and (found := match_beyond(taken, rule.header_ends, ids, at)):
            at, taken = behind(at, found[1])
            in_header = False
            turn.content = taken
            continue
        closing = None if span is None else match_beyond(taken, rules.rules[span.rule].ends, ids, at)
        end_length = _end_length(ids, at, taken, rule, rules)
        # gpt-oss closes its reasoning with what ends a turn, and goes on: the longer marker says which it is.
        if end_length is not None and closing_length(closing, span, rules) <= end_length:
            turn.end, turn.stop, turn.terminated = (at if rule.rewind else max(at, taken)), at + end_length, True
            go_on = (at, taken) if rule.rewind else behind(at, end_length)
            break
        if match_beyond(taken, rules.special_starts, ids, at):
            turn.end = turn.stop = at
            turn.terminated = not rule.has_end
            go_on = at, taken
            break
        if span is not None and closing is not None:
            span.end = span.stop = max(at, taken)
            if not rules.rules[span.rule].rewind:
                at, taken = behind(at, closing[1])
                span.stop = taken
            span = None
            continue
        if span is None and not in_header and spans is not None and (found := match_beyond(taken, spans, ids, at)):
            own = max(own_from(at, *found, turn, rules), taken)
            span = Span(found[0], max(at, taken), at + found[1], len(ids), len(ids), own)
            turn.spans.append(span)
            at, taken = behind(at, found[1])
            continue
        at += 1
    turn.content = turn.end if in_header else min(turn.content, turn.end)
    for last in turn.spans[-1:]:
        last.content, last.end, last.stop = (min(at, turn.end) for at in (last.content, last.end, last.stop))
    return turn, *go_on


def closing_length(closing: tuple[int, int] | None, span: Span | None, rules: Rules) -> int:
    """Return how many tokens the end of the open span takes, 0 where none stands here or where it is left in place."""
    return 0 if closing is None or span is None or rules.rules[span.rule].rewind else closing[1]


def own_from(at: int, index: int, length: int, turn: Turn, rules: Rules) -> int:
    """Return from where on a span that starts at `at` is its own.

    A turn that opens a span (`start_owner: turn`) does so once: of several that follow one another without a word of the turn's in
    between, it opened the first.
    """
    follows_its_like = bool(turn.spans) and turn.spans[-1].rule == index and turn.spans[-1].stop >= at
    return at + length if rules.rules[index].start_is_turns and not follows_its_like else at


def _end_length(ids: Sequence[int], at: int, taken: int, rule: Rule, rules: Rules) -> int | None:
    """Return how many tokens of an end marker of `rule` stand at `at`, the longest of its alternatives; None where the turn goes on."""
    found = match_beyond(taken, rule.ends, ids, at)
    if found is not None:
        return found[1]
    if rule.ends_at_next_start and match_beyond(taken, rules.starts, ids, at):
        # What generation stops at is one special token; the rest of the header is the next turn's, and a header of text is all its own.
        return 1 if match_beyond(taken, rules.special_starts, ids, at) else 0
    return None


def span_is_trained(rule: Rule, rules: Rules, policy: Policy) -> bool:
    """Whether a span of a trained turn is trained: by its own role, or with its turn where the set says so."""
    named = rules.roles[rule.role] in policy.roles_to_train
    return named or (rule.follows_turn and rules.roles[rule.within] in policy.roles_to_train)


def may_be_trained(turn: Turn, rules: Rules, policy: Policy) -> bool:
    """Whether the role of a turn, or of a span in it, is trained."""
    return rules.roles[rules.rules[turn.rule].role] in policy.roles_to_train or any(
        span_is_trained(rules.rules[span.rule], rules, policy) for span in turn.spans
    )


def choose_turns(turns: Sequence[Turn], rules: Rules, policy: Policy, flags: Iterator[bool] | None = None) -> list[bool]:
    """Return, per turn of a document, whether anything in it is trained; takes a flag for each turn of which anything may be."""
    chosen = [may_be_trained(turn, rules, policy) and bool(flags is None or next(flags, False)) for turn in turns]
    if policy.turns == "last":
        last = max((index for index, is_chosen in enumerate(chosen) if is_chosen), default=None)
        chosen = [index == last for index in range(len(turns))]
    return chosen


def check_train_turns(flags: Sequence[bool], count: int, policy: Policy, row: int = 0) -> None:
    """Raise InputError unless there is one flag for each of the `count` turns of which anything may be trained."""
    if len(flags) != count:
        raise InputError(
            f"train_turns has {len(flags)} flags for row {row}, where {count} turns of {', '.join(policy.roles_to_train) or 'no role'} "
            "were found. `Masker.explain` shows them"
        )


def end_is_trained(index: int, turns: Sequence[Turn], trained_turns: Sequence[bool], rules: Rules, policy: Policy) -> bool:
    """Whether the end marker of turn `index` is trained."""

    def may_be(turn: Turn) -> bool:
        return turn.stop > turn.end and rules.rules[turn.rule].include_end

    def is_trained(at: int) -> bool:
        return trained_turns[at] and rules.roles[rules.rules[turns[at].rule].role] in policy.roles_to_train

    if not may_be(turns[index]) or policy.train_on_eos == "none":
        return False
    if policy.train_on_eos == "all":
        return True
    if policy.train_on_eos == "turn":
        return is_trained(index)
    return index == max((at for at, turn in enumerate(turns) if may_be(turn) and is_trained(at)), default=None)

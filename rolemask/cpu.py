"""The path for arrays without numba: NumPy finds the tokens at which a marker can begin, and only those are looked at one by one."""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rolemask.compiler import OUTSIDE, Rules
from rolemask.policy import Policy
from rolemask.scan import (
    NOTHING,
    Span,
    Turn,
    choose_turns,
    closing_length,
    documents,
    end_is_trained,
    may_be_trained,
    own_from,
    span_is_trained,
)
from rolemask.spec import IGNORE_INDEX
from rolemask.trie import TokenTrie

Ids = NDArray[np.integer[Any]]


class CpuMasker:
    """Masks arrays of shape (B, T); agrees with `rolemask.scan.mask` bit for bit."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self.rules = rules
        self.policy = policy
        tries = [rules.starts, *rules.spans.values()]
        tries += [trie for rule in rules.rules for trie in (rule.ends, rule.header_ends) if trie is not None]
        self._can_begin = _id_table({id_ for trie in tries for id_ in trie.edges[0]})
        self._is_media = _id_table(rules.media)

    def mask(
        self,
        ids: Ids,
        attention: NDArray[np.bool_] | None = None,
        *,
        starts: NDArray[np.bool_] | None = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
    ) -> tuple[Ids, NDArray[np.int8], list[int]]:
        """Return labels (B, T) of the dtype of `ids`, roles (B, T) int8, and per row the number of turns of which anything may be trained.

        `train_turns` has a flag for each of these turns; whether the numbers agree is checked elsewhere. Roles come at no cost here, so
        `with_roles` changes nothing.
        """
        seen = ids if attention is None else np.where(attention, ids, NOTHING)
        trained = np.full(ids.shape, self.policy.train_on_inputs)
        roles = np.full(ids.shape, OUTSIDE, dtype=np.int8)
        ends = np.zeros(ids.shape, dtype=bool)
        begins = _look_up(self._can_begin, seen)
        counts = [0] * len(ids)
        for index in range(len(ids)):
            flags = None if train_turns is None else iter(train_turns[index])
            for start, stop in documents(ids.shape[1], None if starts is None else starts[index].tolist()):
                part = (index, slice(start, stop))
                found = list(_find_turns(seen[part], np.flatnonzero(begins[part]).tolist(), self.rules))
                self._paint(found, flags, trained[part], roles[part], ends[part])
                counts[index] += sum(may_be_trained(turn, self.rules, self.policy) for turn in found)
        trained &= ~_look_up(self._is_media, ids) & (ids >= 0)
        if attention is not None:
            trained &= attention
        elif self.rules.pad_id is not None:
            trained &= (ids != self.rules.pad_id) | ends
        if starts is not None:
            trained[:, 1:] &= ~starts[:, 1:]
        return np.where(trained, ids, ids.dtype.type(IGNORE_INDEX)), roles, counts

    def _paint(
        self,
        turns: list[Turn],
        flags: Iterator[bool] | None,
        trained: NDArray[np.bool_],
        roles: NDArray[np.int8],
        ends: NDArray[np.bool_],
    ) -> None:
        rules, policy = self.rules, self.policy
        chosen = choose_turns(turns, rules, policy, flags)
        for turn, is_chosen in zip(turns, chosen, strict=True):
            rule = rules.rules[turn.rule]
            is_trained = is_chosen and rules.roles[rule.role] in policy.roles_to_train
            trained[turn.start : turn.content] |= is_trained and rule.include_start
            trained[turn.content : turn.end] |= is_trained
            roles[turn.start : turn.end] = rule.role
            for span in turn.spans:
                inner = rules.rules[span.rule]
                within = slice(span.own, span.stop)
                trained[within] = policy.train_on_inputs or (is_chosen and span_is_trained(inner, rules, policy))
                roles[within] = inner.role
        is_free = roles == OUTSIDE
        for index, turn in enumerate(turns):
            rule = rules.rules[turn.rule]
            end = slice(turn.end, turn.stop)
            trained[end] |= end_is_trained(index, turns, chosen, rules, policy)
            ends[end] |= rule.include_end
            roles[end][rule.include_end | (is_free[end] & ~ends[end])] = rule.role


def _id_table(ids: Collection[int]) -> NDArray[np.bool_]:
    """Return a table that is True at `ids`; its last entry stands for every id beyond, and is False."""
    table = np.zeros(max(ids, default=-1) + 2, dtype=bool)
    table[list(ids)] = True
    return table


def _look_up(table: NDArray[np.bool_], ids: Ids) -> NDArray[np.bool_]:
    """Return table[id], False for ids outside the table."""
    last = len(table) - 1  # always False; negative ids land there too
    found: NDArray[np.bool_] = table[np.where((ids < 0) | (ids > last), last, ids)]
    return found


class _Row:
    """One row, read only where a marker can begin: `ids` as Python integers, `positions` in ascending order."""

    def __init__(self, ids: list[int], positions: Sequence[int]) -> None:
        self.ids = ids
        self.positions = positions

    def from_(self, at: int) -> Iterator[int]:
        """Yield the positions from `at` on."""
        for index in range(bisect_left(self.positions, at), len(self.positions)):
            yield self.positions[index]

    def match(self, trie: TokenTrie, at: int) -> tuple[int, int] | None:
        return trie.match(self.ids, at)


def _find_turns(ids: Ids, positions: list[int], rules: Rules) -> Iterator[Turn]:
    row = _Row(ids.tolist(), positions)
    at = 0
    while True:
        found = next(((here, *match) for here in row.from_(at) if (match := row.match(rules.starts, here))), None)
        if found is None:
            return
        start, opening, length = found
        turn = _read_turn(row, start, *rules.openings[opening], length, rules)
        yield turn
        at = turn.end if rules.rules[turn.rule].rewind else turn.stop


def _read_turn(row: _Row, start: int, index: int, opened: int, length: int, rules: Rules) -> Turn:
    rule = rules.rules[index]
    size = len(row.ids)
    turn = Turn(index, start, start + length, size, size, terminated=not rule.has_end)
    span_starts = rules.spans.get(rule.role, TokenTrie())
    header_open = rule.header_ends is not None
    span: Span | None = None
    if opened != OUTSIDE:
        span = Span(opened, turn.content, turn.content, size, size, own=turn.content)
        turn.spans.append(span)
    skip_to = turn.content
    for at in row.from_(turn.content):
        if at < skip_to:
            continue
        if header_open and rule.header_ends is not None and (found := row.match(rule.header_ends, at)):
            turn.content = skip_to = at + found[1]
            header_open = False
            continue
        found = row.match(rule.ends, at)
        if found is None and rule.ends_at_next_start and row.match(rules.starts, at):
            found = 0, int(row.match(rules.special_starts, at) is not None)
        closing = None if span is None else row.match(rules.rules[span.rule].ends, at)
        if found is not None and closing_length(closing, span, rules) <= found[1]:
            turn.end, turn.stop, turn.terminated = at, at + found[1], True
            break
        if row.match(rules.special_starts, at):
            turn.end = turn.stop = at
            break
        if span is not None and closing is not None:
            span.end, span.stop = at, at if rules.rules[span.rule].rewind else at + closing[1]
            skip_to, closed_here = span.stop, span.stop == at
            span = None
            if not closed_here:
                continue
        if span is None and not header_open and (found := row.match(span_starts, at)):
            span = Span(found[0], at, at + found[1], size, size, own_from(at, *found, turn, rules))
            turn.spans.append(span)
            skip_to = span.content
    if header_open:
        turn.content = turn.end
    if span is not None:
        span.end = span.stop = turn.end
    return turn

"""The path for arrays without numba: NumPy finds the tokens at which a marker can begin, and only those are looked at one by one."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import Policy
from rolemask.masking.reference import NOTHING, Turn, choose_turns, documents, end_is_trained, may_be_trained, scan, span_is_trained
from rolemask.matching.compiler import OUTSIDE, Rules

Ids = NDArray[np.integer[Any]]


class NumpyKernel:
    """Masks arrays of shape (B, T); agrees with `rolemask.masking.reference.mask` bit for bit."""

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
                found = scan(seen[part].tolist(), self.rules, _next_of(np.flatnonzero(begins[part]).tolist(), stop - start))
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


def _next_of(positions: Sequence[int], size: int) -> Callable[[int], int]:
    """Return a function that tells the first of the ascending `positions` from a token on, `size` where there is none."""

    def next_from(at: int) -> int:
        index = bisect_left(positions, at)
        return positions[index] if index < len(positions) else size

    return next_from

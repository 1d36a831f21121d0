"""The array kernel without numba: NumPy finds the tokens where a marker can begin, and Python looks at these only."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import Policy
from rolemask.masking.reference import choose_turns, documents, end_tokens_of, masked_roles, may_be_trained, stretches
from rolemask.masking.turns import UNATTENDED, scan
from rolemask.matching.compiler import OUTSIDE, Rules

Ids = NDArray[np.integer[Any]]


class NumpyKernel:
    """Masks arrays of shape (B, T); agrees with `rolemask.masking.reference.mask` bit for bit."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self.rules = rules
        self.policy = policy
        tries = [rules.starts, rules.document_starts, *rules.spans.values()]
        tries += [trie for rule in rules.rules for trie in (rule.ends, rule.header_ends) if trie is not None]
        self._can_begin = _id_table({id_ for trie in tries for id_ in trie.first_ids})
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
        """Return labels (B, T) of the dtype of `ids`, roles (B, T) int8, and the number of trainable turns of each row.

        `train_turns` has one flag per trainable turn; the caller checks their number. The roles cost nothing here, so they are returned
        without `with_roles` too.
        """
        seen = ids if attention is None else np.where(attention, ids, UNATTENDED)
        trained = np.full(ids.shape, self.policy.train_on_inputs)
        roles = np.full(ids.shape, OUTSIDE, dtype=np.int8)
        emitted = np.zeros(ids.shape, dtype=bool)
        begins = _look_up(self._can_begin, seen)
        counts = [0] * len(ids)
        for index in range(len(ids)):
            flags = None if train_turns is None else iter(train_turns[index])
            for start, stop in documents(ids.shape[1], None if starts is None else starts[index].tolist()):
                part = (index, slice(start, stop))
                turns = scan(seen[part].tolist(), self.rules, _next_of(np.flatnonzero(begins[part]).tolist(), stop - start))
                chosen = choose_turns(turns, self.rules, self.policy, flags)
                counts[index] += sum(may_be_trained(turn, self.rules, self.policy) for turn in turns)
                for stretch in stretches(turns, chosen, self.rules, self.policy):
                    trained[part][stretch.start : stretch.stop] = stretch.trained
                    roles[part][stretch.start : stretch.stop] = stretch.role
                for at, token in end_tokens_of(turns, chosen, self.rules, self.policy, roles[part]).items():
                    trained[part][at] |= token.trained
                    roles[part][at] = token.role
                    emitted[part][at] = token.emitted
        trained &= ~_look_up(self._is_media, ids) & (ids >= 0)
        trained &= ~np.array(masked_roles(self.rules, self.policy))[roles]
        if attention is not None:
            trained &= attention
        elif self.rules.pad_id is not None:
            trained &= (ids != self.rules.pad_id) | emitted
        if starts is not None:
            trained[:, 1:] &= ~starts[:, 1:]
        return np.where(trained, ids, ids.dtype.type(IGNORE_INDEX)), roles, counts


def _id_table(ids: Collection[int]) -> NDArray[np.bool_]:
    """Return a table that is True at `ids`; its last entry, False, stands for every greater id."""
    table = np.zeros(max(ids, default=-1) + 2, dtype=bool)
    table[list(ids)] = True
    return table


def _look_up(table: NDArray[np.bool_], ids: Ids) -> NDArray[np.bool_]:
    """Return table[id], False for ids outside the table."""
    last = len(table) - 1
    found: NDArray[np.bool_] = table[np.where((ids < 0) | (ids > last), last, ids)]
    return found


def _next_of(positions: Sequence[int], size: int) -> Callable[[int], int]:
    """Return a function from a token to the first of the ascending `positions` that is not before it, `size` if there is none."""

    def next_from(at: int) -> int:
        index = bisect_left(positions, at)
        return positions[index] if index < len(positions) else size

    return next_from

"""Finds where the documents of a packed row begin, from positions, lengths, cumulated lengths or a numbered attention mask."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from rolemask.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_T = TypeVar("_T", "NDArray[np.integer[Any]]", "Tensor")


def starts_from_lengths(lengths: Sequence[int], size: int, name: str) -> list[bool]:
    """Return True at the first token of each document; the rest of the row, if any (padding), is one more document.

    Raises:
        InputError: A length is negative, or they sum to more than `size`.
    """
    if any(length < 0 for length in lengths):
        raise InputError(f"{name} has a negative length: {list(lengths)}")
    if sum(lengths) > size:
        given = f"cu_seqlens ends at {sum(lengths)}" if name == "cu_seqlens" else f"{name} {list(lengths)} sums to {sum(lengths)}"
        raise InputError(f"{given}, but the row has {size} tokens")
    starts = [False] * (size + 1)
    for border in accumulate(lengths, initial=0):
        starts[border] = True
    return starts[:size]


def lengths_from_cumulated(cu_seqlens: Sequence[int]) -> list[int]:
    """Turn ``[0, 3, 7]`` into ``[3, 4]``.

    Raises:
        InputError: It does not begin with 0, or descends.
    """
    lengths = [stop - start for start, stop in pairwise(cu_seqlens)]
    if not cu_seqlens or cu_seqlens[0] != 0 or any(length < 0 for length in lengths):
        raise InputError(f"cu_seqlens is {list(cu_seqlens)}, expected ascending numbers from 0")
    return lengths


def starts_from_positions(position_ids: Sequence[int]) -> list[bool]:
    """Return True at each token whose position is not greater than the one before."""
    return [at == 0 or position_ids[at] <= position_ids[at - 1] for at in range(len(position_ids))]


def starts_from_numbers(attention: Sequence[int]) -> list[bool]:
    """Return True where an attention mask changes from one number to another, as in Axolotl's packed rows: 1, 1, 2, 2, 2, 0."""
    return [at > 0 and 0 not in (attention[at], attention[at - 1]) and attention[at] != attention[at - 1] for at in range(len(attention))]


def changes_of_number(attention: _T) -> _T:
    """Like `starts_from_numbers`, for an array or tensor (B, T), without the first token of each row: (B, T - 1)."""
    before, after = attention[:, :-1], attention[:, 1:]
    changes: _T = (before != after) & (before != 0) & (after != 0)
    return changes


def lengths_per_row(rows: int, cu_seqlens: Any, seq_lens: Any) -> tuple[list[list[int]], str] | None:
    """Return the lengths of the documents of each row, and the name of the argument they come from; None if neither is given.

    Raises:
        InputError: There is more than one row for `cu_seqlens`, or `seq_lens` has another number of rows.
    """
    if cu_seqlens is not None:
        borders = _plain(cu_seqlens)
        if rows != 1 or any(isinstance(border, list) for border in borders):
            raise InputError(f"cu_seqlens is for one row of tokens, but input_ids has {rows} rows. Pass seq_lens or position_ids instead")
        return [lengths_from_cumulated(borders)], "cu_seqlens"
    if seq_lens is not None:
        lengths = _plain(seq_lens)
        lengths = lengths if lengths and isinstance(lengths[0], list) else [lengths]
        if len(lengths) != rows:
            raise InputError(f"seq_lens has {len(lengths)} rows, but input_ids has {rows}")
        return lengths, "seq_lens"
    return None


def starts_from_positions_on_device(position_ids: "Tensor") -> "Tensor":
    """Like `starts_from_positions`, for a tensor (B, T): bool (B, T)."""
    import torch

    starts = torch.ones_like(position_ids, dtype=torch.bool)
    starts[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    return starts


def starts_from_numbers_on_device(attention: "Tensor", starts: "Tensor | None") -> "Tensor":
    """Like `starts_from_numbers`, for a tensor (B, T), or-ed with `starts`: bool (B, T)."""
    import torch

    found = torch.zeros_like(attention, dtype=torch.bool)
    found[:, 1:] = changes_of_number(attention)
    return found if starts is None else starts | found


def starts_on_device(ids: "Tensor", cu_seqlens: Any, seq_lens: Any) -> "Tensor":
    """Like `starts_from_lengths`, for a tensor of ids (B, T): bool (B, T). Checks no values: lengths beyond the row are cut at its end.

    Args:
        ids: (B, T).
        cu_seqlens: (n + 1,) cumulated lengths of one row, or None.
        seq_lens: (B, n) lengths, or (n,) of one row.

    Raises:
        InputError: The number of rows is not that of `ids`.
    """
    import torch

    rows, size = ids.shape
    given = torch.as_tensor(seq_lens if cu_seqlens is None else cu_seqlens, device=ids.device)
    given = given[None] if given.ndim == 1 else given
    if len(given) != rows:
        raise InputError(f"{'seq_lens' if cu_seqlens is None else 'cu_seqlens'} has {len(given)} rows, but input_ids has {rows}")
    borders = given.cumsum(1) if cu_seqlens is None else given
    starts = torch.zeros(rows, size + 1, dtype=torch.bool, device=ids.device)
    starts[:, 0] = True
    return starts.scatter_(1, borders.long().clamp(0, size), True)[:, :size]


def _plain(values: Any) -> list[Any]:
    """Return nested lists of a tensor, an array or sequences."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_plain(value) if isinstance(value, list | tuple) or hasattr(value, "tolist") else value for value in values]

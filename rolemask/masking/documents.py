"""Where the documents of a packed row begin, from whatever the framework at hand knows: positions, cumulated lengths, or lengths."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from rolemask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def starts_from_lengths(lengths: Sequence[int], size: int, name: str) -> list[bool]:
    """Return True at the first token of each document; what is left of the row behind the last one (padding) counts as another.

    Raises:
        InputError: A negative length, or more tokens than the row has.
    """
    if any(length < 0 for length in lengths) or sum(lengths) > size:
        raise InputError(f"{name} tells of documents of {list(lengths)} tokens, expected lengths of 0 or more, {size} in all at most")
    starts = [False] * (size + 1)
    for border in accumulate(lengths, initial=0):
        starts[border] = True
    return starts[:size]


def lengths_from_cumulated(cu_seqlens: Sequence[int]) -> list[int]:
    """Turn ``[0, 3, 7]`` into ``[3, 4]``.

    Raises:
        InputError: It does not begin with 0, or goes down.
    """
    lengths = [stop - start for start, stop in pairwise(cu_seqlens)]
    if not cu_seqlens or cu_seqlens[0] != 0 or any(length < 0 for length in lengths):
        raise InputError(f"cu_seqlens is {list(cu_seqlens)}, expected ascending borders from 0")
    return lengths


def starts_from_positions(position_ids: Sequence[int]) -> list[bool]:
    """Return True wherever the position does not go up."""
    return [at == 0 or position_ids[at] <= position_ids[at - 1] for at in range(len(position_ids))]


def starts_from_numbers(attention: Sequence[int]) -> list[bool]:
    """Return True where an attention mask goes from one number to another: Axolotl's packed batches number their documents 1, 2, 3..."""
    return [at > 0 and 0 not in (attention[at], attention[at - 1]) and attention[at] != attention[at - 1] for at in range(len(attention))]


def changes_of_number(attention: Any) -> Any:
    """Do as `starts_from_numbers` does for all but the first token of each row: (B, T) array or tensor -> (B, T - 1)."""
    before, after = attention[:, :-1], attention[:, 1:]
    return (before != after) & (before != 0) & (after != 0)


def lengths_per_row(rows: int, cu_seqlens: Any, seq_lens: Any) -> tuple[list[list[int]], str] | None:
    """Return the lengths of the documents of each row and the name of the argument they come from, or None where neither is given.

    Raises:
        InputError: `cu_seqlens` with more than one row, or `seq_lens` with another number of rows.
    """
    if cu_seqlens is not None:
        borders = _plain(cu_seqlens)
        if rows != 1 or any(isinstance(border, list) for border in borders):
            raise InputError(f"cu_seqlens is for one row of tokens, and input_ids has {rows} rows. Pass seq_lens, or position_ids")
        return [lengths_from_cumulated(borders)], "cu_seqlens"
    if seq_lens is not None:
        lengths = _plain(seq_lens)
        lengths = lengths if lengths and isinstance(lengths[0], list) else [lengths]
        if len(lengths) != rows:
            raise InputError(f"seq_lens has {len(lengths)} rows, expected those of input_ids, {rows}")
        return lengths, "seq_lens"
    return None


def starts_from_positions_on_device(position_ids: "Tensor") -> "Tensor":
    """Do as `starts_from_positions` does, for (B, T) positions: bool (B, T)."""
    import torch

    starts = torch.ones_like(position_ids, dtype=torch.bool)
    starts[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    return starts


def starts_from_numbers_on_device(attention: "Tensor", starts: "Tensor | None") -> "Tensor":
    """Do as `starts_from_numbers` does, for a (B, T) mask, and keep the `starts` that there are: bool (B, T)."""
    import torch

    found = torch.zeros_like(attention, dtype=torch.bool)
    found[:, 1:] = changes_of_number(attention)
    return found if starts is None else starts | found


def starts_on_device(ids: "Tensor", cu_seqlens: Any, seq_lens: Any) -> "Tensor":
    """Do as `starts_from_lengths` does, for the (B, T) ids of a device: bool (B, T). Borders beyond a row are cut to its end.

    Args:
        ids: (B, T).
        cu_seqlens: (n + 1,) borders of one row, or None.
        seq_lens: (B, n) lengths, or (n,) of one row.

    Raises:
        InputError: Another number of rows.
    """
    import torch

    rows, size = ids.shape
    told = torch.as_tensor(seq_lens if cu_seqlens is None else cu_seqlens, device=ids.device)
    told = told[None] if told.ndim == 1 else told
    if len(told) != rows:
        raise InputError(f"{'seq_lens' if cu_seqlens is None else 'cu_seqlens'} is for {len(told)} rows, and input_ids has {rows}")
    borders = told.cumsum(1) if cu_seqlens is None else told
    starts = torch.zeros(rows, size + 1, dtype=torch.bool, device=ids.device)
    starts[:, 0] = True
    return starts.scatter_(1, borders.long().clamp(0, size), True)[:, :size]


def _plain(values: Any) -> list[Any]:
    """Return nested lists of a tensor, an array or sequences."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_plain(value) if isinstance(value, list | tuple) or hasattr(value, "tolist") else value for value in values]

"""Finds where the documents of a packed row begin: from positions, lengths, cumulated lengths or numbers (a mask, `seq_idx`)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from rolemask.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def starts_from_lengths(lengths: Sequence[int], size: int, name: str) -> list[bool]:
    """Return True at the first token of each document; the rest of the row, if any (padding), is one more document.

    Raises:
        InputError: A length is negative, or they sum to more than `size`.
    """
    check_lengths(lengths, size, name)
    starts = [False] * (size + 1)
    for border in accumulate(lengths, initial=0):
        starts[border] = True
    return starts[:size]


def check_lengths(lengths: Sequence[int], size: int, name: str) -> None:
    """Raise InputError if a length is negative, or they sum to more than `size`."""
    if min(lengths, default=0) < 0:
        raise InputError(f"{name} has a negative length: {list(lengths)}")
    if sum(lengths) > size:
        given = f"{name} ends at {sum(lengths)}" if name.startswith("cu_") else f"{name} {list(lengths)} sums to {sum(lengths)}"
        raise InputError(f"{given}, but the row has {size} tokens")


def lengths_from_cumulated(borders: Sequence[int], name: str = "cu_seqlens") -> list[int]:
    """Turn ``[0, 3, 7]`` into ``[3, 4]``.

    Raises:
        InputError: It does not begin with 0, or descends.
    """
    lengths = [stop - start for start, stop in pairwise(borders)]
    if not borders or borders[0] != 0 or any(length < 0 for length in lengths):
        raise InputError(f"{name} is {list(borders)}, expected ascending numbers from 0")
    return lengths


def starts_from_positions(axes: Sequence[Sequence[int]]) -> list[bool]:
    """Return True at the first token of each document of a row whose positions have one axis, three or four.

    One axis: a document begins where the position does not go up. Three (the multimodal rotary embedding, where the tokens of an image
    share positions): where all three are at their least value of the row. Of four, the first is that of the text, and counts alone.
    """
    if len(axes) == 3:
        least = [min(axis, default=0) for axis in axes]
        return [at == 0 or all(axis[at] == low for axis, low in zip(axes, least, strict=True)) for at in range(len(axes[0]))]
    positions = axes[0]
    return [at == 0 or positions[at] <= positions[at - 1] for at in range(len(positions))]


def starts_from_numbers(attention: Sequence[int]) -> list[bool]:
    """Return True where an attention mask changes from one number to another, as in Axolotl's packed rows: 1, 1, 2, 2, 2, 0."""
    return [at > 0 and 0 not in (attention[at], attention[at - 1]) and attention[at] != attention[at - 1] for at in range(len(attention))]


def changes_of_number(attention: "NDArray[Any]", offsets: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    """Like `starts_from_numbers`, for rows end to end: bool (N,)."""
    starts = attention.astype(bool)
    starts[1:] &= (attention[1:] != attention[:-1]) & (attention[:-1] != 0)
    starts[_first_tokens(offsets)] = False
    return starts


def starts_from_index(numbers: Sequence[int]) -> list[bool]:
    """Return True at each token that has another number than the one before, as in Transformers' `seq_idx`: 0, 0, 0, 1, 1."""
    return [at == 0 or numbers[at] != numbers[at - 1] for at in range(len(numbers))]


def starts_of_index(numbers: "NDArray[Any]", offsets: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    """Like `starts_from_index`, for rows end to end: bool (N,)."""
    starts = numbers.astype(bool)
    starts[1:] = numbers[1:] != numbers[:-1]
    starts[_first_tokens(offsets)] = True
    return starts


def starts_of_positions(axes: "NDArray[Any]", offsets: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    """Like `starts_from_positions`, for rows end to end, (axes, N): bool (N,)."""
    import numpy as np

    first = _first_tokens(offsets)
    starts: NDArray[np.bool_]
    if len(axes) == 3 and axes.shape[1]:
        least = np.repeat(np.minimum.reduceat(axes, first, axis=1), np.diff([*first, axes.shape[1]]), axis=1)
        starts = (axes == least).all(0)
    else:
        starts = axes[0].astype(bool)
        starts[1:] = axes[0][1:] <= axes[0][:-1]
    starts[first] = True
    return starts


def starts_of_lengths(lengths: Sequence[Sequence[int]], offsets: "NDArray[np.int64]", name: str) -> "NDArray[np.bool_]":
    """Like `starts_from_lengths`, for the lengths of each row, and rows end to end: bool (N,).

    Raises:
        InputError: See `starts_from_lengths`.
    """
    import numpy as np

    borders = offsets.tolist()
    starts = np.zeros(borders[-1] + 1, dtype=bool)
    for of_row, begin, end in zip(lengths, borders, borders[1:], strict=False):
        check_lengths(of_row, end - begin, name)
        starts[list(accumulate(of_row, initial=begin))] = True
        starts[end] = False
    return starts[:-1]


def _first_tokens(offsets: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Return the first token of each row that has one."""
    return offsets[:-1][offsets[:-1] < offsets[1:]]


def starts_of_positions_on_device(axes: "Tensor") -> "Tensor":
    """Like `starts_from_positions`, for a tensor (axes, B, T): bool (B, T)."""
    import torch

    if len(axes) == 3 and axes.shape[2]:
        starts = (axes == axes.amin(-1, keepdim=True)).all(0)
    else:
        starts = torch.ones_like(axes[0], dtype=torch.bool)
        starts[:, 1:] = axes[0][:, 1:] <= axes[0][:, :-1]
    starts[:, :1] = True
    return starts


def lengths_per_row(value: Any, rows: int, name: str) -> list[list[int]]:
    """Return the lengths of the documents of each row, from lengths or, if `name` begins with ``cu_``, from cumulated lengths.

    Raises:
        InputError: They are not numbers, one list per row; or see `lengths_from_cumulated`.
    """
    given = as_nested(value)
    given = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    if not all(isinstance(row, list) and all(type(number) is int for number in row) for row in given):
        raise InputError(f"{name} is {value!r}, expected whole numbers, one list of them per row of input_ids")
    is_cumulated = name.startswith("cu_")
    if len(given) != rows:
        if is_cumulated:
            raise InputError(
                f"{name} is for one row of tokens, but input_ids has {rows} rows. Pass a list of borders per row, seq_lens or position_ids"
            )
        raise InputError(f"{name} has {len(given)} rows, but input_ids has {rows}")
    return [lengths_from_cumulated(row, name) for row in given] if is_cumulated else given


def starts_from_numbers_on_device(attention: "Tensor", starts: "Tensor | None") -> "Tensor":
    """Like `starts_from_numbers`, for a tensor (B, T), or-ed with `starts`: bool (B, T)."""
    import torch

    before, after = attention[:, :-1], attention[:, 1:]
    found = torch.zeros_like(attention, dtype=torch.bool)
    found[:, 1:] = (before != after) & (before != 0) & (after != 0)
    return found if starts is None else starts | found


def starts_on_device(ids: "Tensor", cu_seqlens: Any, seq_lens: Any) -> "Tensor":
    """Like `starts_from_lengths`, for a tensor of ids (B, T): bool (B, T). Checks no values: lengths beyond the row are cut at its end.

    Args:
        ids: (B, T).
        cu_seqlens: (B, n + 1) cumulated lengths, or (n + 1,) of one row, or None.
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


def as_nested(values: Any) -> Any:
    """Return nested lists of a tensor, an array, a column of Arrow, pandas or polars, or sequences; anything else comes back as it is."""
    if isinstance(values, list | tuple):
        return list(values) if values and isinstance(values[0], int) else [as_nested(value) for value in values]
    for method in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, method):
            made = getattr(values, method)()
            return as_nested(made) if isinstance(made, list) else made
    return values


def depth(value: Any) -> int:
    """Return how many axes nested columns, lists, arrays or tensors have, as far as the first value of each tells."""
    if hasattr(value, "ndim") and value.dtype != object:
        return int(value.ndim)
    if hasattr(value, "to_pylist"):
        value = value[:1].to_pylist()
    return 1 + depth(next(iter(value), None)) if hasattr(value, "__iter__") else 0

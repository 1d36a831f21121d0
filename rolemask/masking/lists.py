"""Batches of Python lists: what the definition takes, and what `read_batch` makes of lists where NumPy is not installed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rolemask.errors import InputError
from rolemask.masking.columns import is_row, no_integer, no_row
from rolemask.masking.documents import (
    as_nested,
    depth,
    lengths_per_row,
    starts_from_index,
    starts_from_lengths,
    starts_from_numbers,
    starts_from_positions,
)

AXES = (3, 4)
"""The numbers of axes that the positions of a token have in a multimodal model."""


class Row(NamedTuple):
    """One row of a batch: the arguments of `rolemask.masking.reference.mask`."""

    ids: list[int]
    attention: list[int] | None
    starts: list[bool] | None
    train_turns: list[bool] | None


@dataclass
class ListBatch:
    """Rows of Python integers, of any lengths. With `flat`, the user passed one row, not a list of rows."""

    ids: list[list[int]]
    attention: list[list[int]] | None
    starts: list[list[bool]] | None
    train_turns: list[list[bool]] | None
    flat: bool

    def row(self, index: int) -> Row:
        """Return one row and what belongs to it."""
        return Row(
            self.ids[index],
            None if self.attention is None else self.attention[index],
            None if self.starts is None else self.starts[index],
            None if self.train_turns is None else self.train_turns[index],
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def lengths(self) -> list[int]:
        """Return the length of each row."""
        return [len(ids) for ids in self.ids]

    def restore(self, rows: Any) -> Any:
        """Return results, one per row, in the user's form."""
        return rows[0] if self.flat else rows

    restore_labels = restore


def read_lists(input_ids: Sequence[Any], attention_mask: Any) -> ListBatch:
    """Read a list of ints or of lists of ints, and its mask.

    Raises:
        InputError: A wrong type or length.
    """
    flat = not any(map(is_row, input_ids))
    rows = [_int_row(row, index) for index, row in enumerate([input_ids] if flat else input_ids)]
    batch = ListBatch(rows, None, None, None, flat)
    if attention_mask is not None:
        batch.attention = _like_rows("attention_mask", attention_mask, batch)
        if any(number > 1 for row in batch.attention for number in row):
            batch.starts = [starts_from_numbers(row) for row in batch.attention]
    return batch


def find_starts_in_lists(batch: ListBatch, name: str, value: Any) -> list[list[bool]]:
    """Return where the documents of a batch begin, row by row. The arguments and errors are those of `find_starts`."""
    if name == "position_ids":
        by_axis = [_like_rows("position_ids", axis, batch) for axis in axes_of(as_nested(value), flat=batch.flat)]
        return [starts_from_positions(row) for row in zip(*by_axis, strict=True)]
    if name == "seq_idx":
        return [starts_from_index(row) for row in _like_rows(name, value, batch)]
    lengths = lengths_per_row(value, len(batch.ids), name)
    return [starts_from_lengths(row, len(ids), name) for row, ids in zip(lengths, batch.ids, strict=True)]


def axes_of(positions: Any, *, flat: bool) -> list[Any]:
    """Return the positions of each axis. With `flat`, they are those of one row.

    Raises:
        InputError: Another number of axes than one, three or four.
    """
    axes = list(positions) if depth(positions) > (1 if flat else 2) else [positions]
    if len(axes) not in (1, *AXES):
        raise InputError(f"position_ids has {len(axes)} axes per token, expected one, three or four")
    return axes


def _like_rows(name: str, value: Any, batch: ListBatch) -> list[list[int]]:
    nested = as_nested(value)
    values = [nested] if batch.flat else nested
    lengths = [len(row) if isinstance(row, list) else 0 for row in values] if isinstance(values, list) else []
    if lengths != batch.lengths():
        raise InputError(f"{name} has rows of lengths {lengths}, expected those of input_ids, {batch.lengths()}")
    checked: list[list[int]] = values
    return checked


def _int_row(row: Any, index: int) -> list[int]:
    if not is_row(row):
        raise no_row("input_ids", row, index)
    for at, id_ in enumerate(row):
        if not isinstance(id_, int) or isinstance(id_, bool):
            raise no_integer(row, index, at)
    return list(row)

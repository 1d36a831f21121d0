"""Reads the batches that users pass, and returns results in the same form."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from rolemask.errors import InputError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.columns import Column, any_in_rows, is_row
from rolemask.masking.documents import (
    changes_of_number,
    lengths_per_row,
    starts_from_numbers_on_device,
    starts_of_index,
    starts_of_lengths,
    starts_of_positions,
    starts_of_positions_on_device,
    starts_on_device,
)
from rolemask.masking.formats import read_column
from rolemask.masking.lists import AXES, ListBatch, axes_of, find_starts_in_lists, read_lists

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass
class ArrayBatch:
    """Rows of ids in one array, end to end.

    Attributes:
        column: The ids (N,), where each row begins, and the way back to the user's form.
        attention: (N,), whether a token is attended to, or None.
        starts: (N,), whether a document begins, or None where each row is one.
        train_turns: One flag per trainable turn, per row, or None.
    """

    column: Column
    attention: "NDArray[np.bool_] | None" = None
    starts: "NDArray[np.bool_] | None" = None
    train_turns: list[list[bool]] | None = None

    @property
    def flat(self) -> bool:
        """Whether the user passed one row, not a batch of rows."""
        return self.column.flat

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.column.offsets) - 1

    def lengths(self) -> list[int]:
        """Return the length of each row."""
        return self.column.lengths()

    def restore(self, values: "NDArray[Any]") -> Any:
        """Return results (N,) in the user's form."""
        return self.column.restore(values)

    def restore_labels(self, labels: "NDArray[Any]") -> Any:
        """Return labels (N,) in the user's form: ids of the batch or -100."""
        return self.column.restore_labels(labels)

    def split(self, values: "NDArray[Any]") -> "list[NDArray[Any]]":
        """Return values (N,) per row."""
        import numpy as np

        return np.split(values, self.column.offsets[1:-1]) if len(self) else []


@dataclass
class TensorBatch:
    """A tensor (B, T) that stays on its device; `starts` is true where a document begins."""

    ids: "Tensor"
    attention: "Tensor | None"
    starts: "Tensor | None"
    flat: bool

    def restore(self, tensor: "Tensor") -> "Tensor":
        """Return results (B, T) in the user's shape."""
        return tensor[0] if self.flat else tensor


def as_lists(batch: ListBatch | ArrayBatch) -> ListBatch:
    """Return the same rows as lists."""
    if isinstance(batch, ListBatch):
        return batch

    def lists(values: "NDArray[Any] | None") -> Any:
        return None if values is None else [row.tolist() for row in batch.split(values)]

    return ListBatch(lists(batch.column.values), lists(batch.attention), lists(batch.starts), batch.train_turns, batch.flat)


@cache
def has_numpy() -> bool:
    """Whether NumPy is installed. Without it, lists are masked more slowly."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def read_batch(
    input_ids: Any,
    attention_mask: Any = None,
    *,
    position_ids: Any = None,
    cu_seqlens: Any = None,
    seq_lens: Any = None,
    train_turns: Any = None,
) -> ListBatch | ArrayBatch:
    """Read `input_ids` and the arguments that belong to it.

    Args:
        input_ids: A column of integers in any form that `read_column` takes.
        attention_mask: Of the same rows; nonzero where a token is attended to. A document begins where one number changes to another.
        position_ids: Of the same rows, or those of a multimodal model, (3, B, T) or (4, B, T); see `starts_from_positions`.
        cu_seqlens: Cumulated lengths, from 0, of the documents of a single row, or per row.
        seq_lens: The lengths of the documents, per row; zeros are ignored.
        train_turns: One flag per trainable turn, per row.

    Returns:
        A ListBatch for lists where NumPy is not installed, an ArrayBatch for all else.

    Raises:
        InputError: A wrong type, shape or dtype; or more than one of `position_ids`, `cu_seqlens` and `seq_lens`.
    """
    given = _only_one(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    batch: ListBatch | ArrayBatch
    if not has_numpy() and is_row(input_ids):
        batch = read_lists(input_ids, attention_mask)
    else:
        batch = ArrayBatch(read_column("input_ids", input_ids))
        if attention_mask is not None:
            _add_attention(batch, attention_mask)
    for name, value in given.items():
        add_starts(batch, find_starts(batch, name, value))
    if train_turns is not None:
        rows = [train_turns] if batch.flat else list(train_turns)
        if len(rows) != len(batch) or not all(map(is_row, rows)):
            raise InputError(f"train_turns has {len(rows)} rows, expected a list of flags for each of the {len(batch)} rows of input_ids")
        batch.train_turns = [[bool(flag) for flag in row] for row in rows]
    return batch


def rows_that_train(batch: ListBatch | ArrayBatch, labels: Any) -> "Sequence[bool] | NDArray[np.bool_]":
    """Return, per row, whether it has a label."""
    if isinstance(batch, ArrayBatch):
        return any_in_rows(labels != IGNORE_INDEX, batch.column.offsets)
    return [any(label != IGNORE_INDEX for label in row) for row in labels]


def find_starts(batch: ListBatch | ArrayBatch, name: str, value: Any) -> Any:
    """Return where the documents of a batch begin: an array of bool (N,) for an ArrayBatch, lists for a ListBatch.

    Args:
        batch: The batch; its own `starts` are not looked at.
        name: What `value` is called, which says what it is: `position_ids`; `seq_idx`, a number per token, another one for another
            document; cumulated lengths, if it begins with ``cu_``; or else lengths.
        value: Positions, numbers or lengths.

    Raises:
        InputError: A wrong shape, or lengths that the rows do not have.
    """
    if isinstance(batch, ListBatch):
        return find_starts_in_lists(batch, name, value)
    offsets = batch.column.offsets
    if name == "position_ids":
        return starts_of_positions(_read_positions(batch, value), offsets)
    if name == "seq_idx":
        return starts_of_index(like_rows(batch, name, value), offsets)
    return starts_of_lengths(lengths_per_row(value, len(batch), name), offsets, name)


def add_starts(batch: ListBatch | ArrayBatch, starts: Any) -> None:
    """Let documents begin where `starts`, from `find_starts`, says so, too."""
    if batch.starts is None:
        batch.starts = starts
    elif isinstance(batch, ArrayBatch):
        batch.starts = batch.starts | starts
    else:
        batch.starts = [[one or other for one, other in zip(*rows, strict=True)] for rows in zip(batch.starts, starts, strict=True)]


def like_rows(batch: ArrayBatch, name: str, value: Any) -> "NDArray[Any]":
    """Return the values (N,) of a column that has a value per token.

    Raises:
        InputError: It has other rows than the ids.
    """
    ids, found = batch.column, getattr(value, "shape", None)
    if ids.shape is not None and isinstance(found, tuple):  # of two tensors or arrays, the shapes must be equal, and not only the rows
        check_shape(name, tuple(found), ids.shape)
    column = read_column(name, value)
    if column.offsets.shape != ids.offsets.shape or (column.offsets != ids.offsets).any():
        raise InputError(f"{name} has rows of lengths {column.lengths()}, expected those of input_ids, {ids.lengths()}")
    return column.values


def check_shape(name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise InputError if a tensor or array has another shape than that of the ids."""
    if len(found) > 2:
        raise InputError(
            f"{name} has the shape {found}; expected the 2-D one of the tokenizer or collator, {shape}, "
            f"not the {len(found)}-D one that a model makes"
        )
    if found != shape:
        raise InputError(f"{name} has the shape {found}, expected that of input_ids, {shape}")


def read_tensor(
    input_ids: "Tensor",
    attention_mask: Any = None,
    *,
    position_ids: Any = None,
    cu_seqlens: Any = None,
    seq_lens: Any = None,
) -> TensorBatch:
    """Like `read_batch`, on the device: checks shapes, not values, which would synchronise.

    Raises:
        InputError: A wrong shape or dtype; or more than one of `position_ids`, `cu_seqlens` and `seq_lens`.
    """
    _only_one(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    import torch

    if input_ids.dtype not in (torch.int32, torch.int64):
        raise InputError(f"input_ids has the dtype {input_ids.dtype}, expected int32 or int64")
    if input_ids.ndim not in (1, 2):
        raise InputError(f"input_ids has the shape {tuple(input_ids.shape)}, expected (batch, tokens) or (tokens,)")
    flat = input_ids.ndim == 1
    ids = input_ids[None] if flat else input_ids
    starts = None
    if position_ids is not None:
        positions = torch.as_tensor(position_ids, device=ids.device)
        _check_position_shape(tuple(positions.shape), tuple(input_ids.shape))
        starts = starts_of_positions_on_device(_axes_first(positions, input_ids.ndim, flat))
    elif cu_seqlens is not None or seq_lens is not None:
        starts = starts_on_device(ids, cu_seqlens, seq_lens)
    attention = None
    if attention_mask is not None:
        attention = torch.as_tensor(attention_mask, device=ids.device)
        check_shape("attention_mask", tuple(attention.shape), tuple(input_ids.shape))
        attention = attention[None] if flat else attention
        if attention.dtype != torch.bool:
            starts = starts_from_numbers_on_device(attention, starts)
    return TensorBatch(ids, attention, starts, flat)


def _only_one(**arguments: Any) -> dict[str, Any]:
    """Return the one argument that is not None, if there is one."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if len(given) > 1:
        raise InputError(f"pass only one of {', '.join(arguments)}; got {' and '.join(given)}")
    return given


def _add_attention(batch: ArrayBatch, attention_mask: Any) -> None:
    attention = like_rows(batch, "attention_mask", attention_mask)
    batch.attention = attention if attention.dtype == bool else attention != 0
    if attention.dtype != bool and attention.max(initial=0) > 1:
        batch.starts = changes_of_number(attention, batch.column.offsets)


def _read_positions(batch: ArrayBatch, value: Any) -> "NDArray[Any]":
    """Return positions (axes, N)."""
    import numpy as np

    if batch.column.shape is not None and hasattr(value, "shape"):
        _check_position_shape(tuple(value.shape), batch.column.shape)
    return np.stack([like_rows(batch, "position_ids", axis) for axis in axes_of(value, flat=batch.flat)])


def _axes_first(positions: Any, ndim: int, flat: bool) -> Any:
    """Return positions of the shape (axes, B, T), given those of `ndim` dimensions, or of one more: the axes."""
    positions = positions if positions.ndim > ndim else positions[None]
    return positions[:, None] if flat else positions


def _check_position_shape(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if found != shape and found not in [(axes, *shape) for axes in AXES]:
        raise InputError(f"position_ids has the shape {found}, expected that of input_ids, {shape}, or three or four of them: (3, B, T)")

"""Reads the batches that users pass, and returns results in the same form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rolemask.errors import InputError, require
from rolemask.masking.documents import (
    changes_of_number,
    lengths_per_row,
    starts_from_lengths,
    starts_from_numbers,
    starts_from_numbers_on_device,
    starts_from_positions,
    starts_from_positions_on_device,
    starts_on_device,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


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

    def restore(self, rows: Any) -> Any:
        """Return results, one per row, in the user's form."""
        return rows[0] if self.flat else rows


@dataclass
class ArrayBatch:
    """An array (B, T), made from a NumPy array or a torch tensor on any device; `starts` is True where a document begins."""

    ids: "NDArray[np.integer[Any]]"
    attention: "NDArray[np.bool_] | None"
    starts: "NDArray[np.bool_] | None"
    train_turns: list[list[bool]] | None
    flat: bool
    to_user: Callable[["NDArray[Any]"], Any]

    def restore(self, array: "NDArray[Any]") -> Any:
        """Return results, an array of B rows, in the user's form: same kind, shape and device."""
        return self.to_user(array[0] if self.flat else array)


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
    attention = None if batch.attention is None else batch.attention.tolist()
    starts = None if batch.starts is None else batch.starts.tolist()
    return ListBatch(batch.ids.tolist(), attention, starts, batch.train_turns, batch.flat)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__)


def is_array(value: Any) -> bool:
    """Whether `value` is a NumPy array, without importing NumPy."""
    return any(kind.__module__ == "numpy" and kind.__name__ == "ndarray" for kind in type(value).__mro__)


def have_one_shape(some: Any, others: Any) -> bool:
    """Whether two tensors or arrays have the same shape, or two lists have rows of the same lengths."""
    if hasattr(some, "shape") or hasattr(others, "shape"):
        return getattr(some, "shape", None) == getattr(others, "shape", None)
    return [len(row) if _is_row(row) else -1 for row in some] == [len(row) if _is_row(row) else -1 for row in others]


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
        input_ids: int32 or int64 tensor or array (B, T) or (T,), any device and strides; or a list of ints, or of lists of ints.
        attention_mask: The same shape; nonzero where a token is attended to. A document begins where one number changes to another.
        position_ids: The same shape; a document begins where the position does not increase.
        cu_seqlens: Cumulated lengths, from 0, of the documents of a single row.
        seq_lens: The lengths of the documents, per row; zeros are ignored.
        train_turns: One flag per trainable turn, per row.

    Raises:
        InputError: A wrong type, shape or dtype; or more than one of `position_ids`, `cu_seqlens` and `seq_lens`.
    """
    _check_one_of(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    if is_tensor(input_ids) or is_array(input_ids):
        batch: ListBatch | ArrayBatch = _array_batch(input_ids, attention_mask, position_ids)
    elif isinstance(input_ids, Sequence) and not isinstance(input_ids, str | bytes):
        batch = _list_batch(input_ids, attention_mask, position_ids)
    else:
        raise InputError(
            f"input_ids is a {type(input_ids).__name__}, expected a tensor, an array or a list of token ids. From a batch of Transformers, "
            'pass batch["input_ids"]'
        )
    if (given := lengths_per_row(len(batch.ids), cu_seqlens, seq_lens)) is not None:
        lengths, name = given
        starts = [starts_from_lengths(row, len(ids), name) for row, ids in zip(lengths, batch.ids, strict=True)]
        if isinstance(batch, ArrayBatch):
            new_starts = to_array(starts).reshape(batch.ids.shape)
            batch.starts = new_starts if batch.starts is None else batch.starts | new_starts
        else:
            batch.starts = _either(batch.starts, starts)
    if train_turns is not None:
        rows = [train_turns] if batch.flat else list(train_turns)
        if len(rows) != len(batch.ids) or not all(_is_row(row) for row in rows):
            raise InputError(
                f"train_turns has {len(rows)} rows, expected a list of flags for each of the {len(batch.ids)} rows of input_ids"
            )
        batch.train_turns = [[bool(flag) for flag in row] for row in rows]
    return batch


def read_tensor(
    input_ids: "Tensor", attention_mask: Any = None, *, position_ids: Any = None, cu_seqlens: Any = None, seq_lens: Any = None
) -> TensorBatch:
    """Like `read_batch`, on the device: checks shapes, not values, which would synchronise.

    Raises:
        InputError: A wrong shape or dtype; or more than one of `position_ids`, `cu_seqlens` and `seq_lens`.
    """
    _check_one_of(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    _check_ids(input_ids)
    flat = input_ids.ndim == 1

    def like_ids(name: str, value: Any) -> "Tensor | None":
        if value is None:
            return None
        _check_shape(name, value, tuple(input_ids.shape))
        tensor: Tensor = value[None] if flat else value
        return tensor

    ids = input_ids[None] if flat else input_ids
    positions = like_ids("position_ids", position_ids)
    if positions is not None:
        starts = starts_from_positions_on_device(positions)
    elif cu_seqlens is not None or seq_lens is not None:
        starts = starts_on_device(ids, cu_seqlens, seq_lens)
    else:
        starts = None
    attention = like_ids("attention_mask", attention_mask)
    if attention is not None and "bool" not in str(attention.dtype):
        starts = starts_from_numbers_on_device(attention, starts)
    return TensorBatch(ids, attention, starts, flat)


def _check_one_of(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(f"pass only one of {', '.join(given)}; got {' and '.join(names)}")


def _check_ids(input_ids: Any) -> None:
    if str(input_ids.dtype).removeprefix("torch.") not in ("int32", "int64"):
        raise InputError(f"input_ids has the dtype {input_ids.dtype}, expected int32 or int64")
    if input_ids.ndim not in (1, 2):
        raise InputError(f"input_ids has the shape {tuple(input_ids.shape)}, expected (batch, tokens) or (tokens,)")


def _array_batch(input_ids: Any, attention_mask: Any, position_ids: Any) -> ArrayBatch:
    _check_ids(input_ids)
    flat = input_ids.ndim == 1
    ids = to_array(input_ids)
    attention = None if attention_mask is None else _of_shape("attention_mask", attention_mask, ids.shape)
    positions = None if position_ids is None else _of_shape("position_ids", position_ids, ids.shape)
    if flat:
        ids, attention, positions = (
            ids[None],
            None if attention is None else attention[None],
            None if positions is None else positions[None],
        )
    starts = None
    if positions is not None:
        starts = positions.astype(bool)
        starts[:, :1] = True
        starts[:, 1:] = positions[:, 1:] <= positions[:, :-1]
    if attention is not None and attention.max(initial=0) > 1:
        starts = attention.astype(bool) & False if starts is None else starts
        starts[:, 1:] |= changes_of_number(attention)
    return ArrayBatch(ids, None if attention is None else attention != 0, starts, None, flat, _restorer(input_ids))


def _of_shape(name: str, value: Any, shape: tuple[int, ...]) -> "NDArray[Any]":
    array = to_array(value)
    _check_shape(name, array, shape)
    return array


def _check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape)
    if len(found) > 2:
        raise InputError(
            f"{name} has the shape {found}; expected the 2-D one of the tokenizer or collator, {shape}, "
            f"not the {len(found)}-D one that a model makes"
        )
    if found != shape:
        raise InputError(f"{name} has the shape {found}, expected that of input_ids, {shape}")


def _restorer(input_ids: Any) -> Callable[[Any], Any]:
    if not is_tensor(input_ids):
        return lambda array: array
    torch = require("torch", extra="torch", needed_for="masking a tensor")
    device = input_ids.device
    return lambda array: torch.from_numpy(array).to(device)


def to_array(value: Any) -> "NDArray[Any]":
    """Return a tensor (copied to the host), an array or lists as a NumPy array."""
    numpy = require("numpy", extra="torch", needed_for="masking an array or a tensor")
    array: NDArray[Any] = value.detach().cpu().numpy() if is_tensor(value) else numpy.asarray(value)
    return array


def _list_batch(input_ids: Sequence[Any], attention_mask: Any, position_ids: Any) -> ListBatch:
    if any(is_tensor(row) or is_array(row) for row in input_ids):
        raise InputError("input_ids is a list of tensors or arrays, expected one tensor of shape (batch, tokens), or a list of lists")
    flat = not any(_is_row(row) for row in input_ids)
    rows = [_int_row([*input_ids], 0)] if flat else [_int_row(row, index) for index, row in enumerate(input_ids)]
    attention = _like_rows("attention_mask", attention_mask, rows, flat)
    positions = _like_rows("position_ids", position_ids, rows, flat)
    starts = None if positions is None else [starts_from_positions(row) for row in positions]
    if attention is not None and any(number > 1 for row in attention for number in row):
        starts = _either(starts, [starts_from_numbers(row) for row in attention])
    return ListBatch(rows, attention, starts, None, flat)


def _either(some: list[list[bool]] | None, others: list[list[bool]]) -> list[list[bool]]:
    if some is None:
        return others
    return [[one or other for one, other in zip(*rows, strict=True)] for rows in zip(some, others, strict=True)]


def _like_rows(name: str, value: Any, rows: list[list[int]], flat: bool) -> list[list[int]] | None:
    if value is None:
        return None
    if is_tensor(value) or is_array(value):
        value = value.tolist()
    values = [list(value)] if flat else [list(row) if _is_row(row) else [] for row in value]
    if [len(row) for row in values] != [len(row) for row in rows]:
        lengths = [len(row) for row in values], [len(row) for row in rows]
        raise InputError(f"{name} has rows of lengths {lengths[0]}, expected those of input_ids, {lengths[1]}")
    return values


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _int_row(row: Any, index: int) -> list[int]:
    if not _is_row(row):
        raise InputError(f"row {index} of input_ids is {row!r}, expected a list of token ids like the other rows")
    for at, id_ in enumerate(row):
        if not isinstance(id_, int) or isinstance(id_, bool):
            raise InputError(f"token {at} of row {index} of input_ids is {id_!r}, a {type(id_).__name__}, expected an integer")
    return list(row)

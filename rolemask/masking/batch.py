"""Reads the batches that users pass, and returns results in the same form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rolemask.errors import InputError, require
from rolemask.masking.documents import (
    as_nested,
    changes_of_number,
    lengths_per_row,
    starts_from_index,
    starts_from_lengths,
    starts_from_numbers,
    starts_from_numbers_on_device,
    starts_from_positions,
    starts_of_index,
    starts_of_positions,
    starts_of_positions_on_device,
    starts_on_device,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


_AXES = (3, 4)  # of the positions of a token in a multimodal model


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
        position_ids: The same shape, or that of a multimodal model, (3, B, T) or (4, B, T); see `starts_from_positions`.
        cu_seqlens: Cumulated lengths, from 0, of the documents of a single row, or per row.
        seq_lens: The lengths of the documents, per row; zeros are ignored.
        train_turns: One flag per trainable turn, per row.

    Raises:
        InputError: A wrong type, shape or dtype; or more than one of `position_ids`, `cu_seqlens` and `seq_lens`.
    """
    _check_one_of(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    if is_tensor(input_ids) or is_array(input_ids):
        batch: ListBatch | ArrayBatch = _array_batch(input_ids, attention_mask)
    elif isinstance(input_ids, Sequence) and not isinstance(input_ids, str | bytes):
        batch = _list_batch(input_ids, attention_mask)
    else:
        raise InputError(
            f"input_ids is a {type(input_ids).__name__}, expected a tensor, an array or a list of token ids. From a batch of Transformers, "
            'pass batch["input_ids"]'
        )
    for name, value in (("position_ids", position_ids), ("cu_seqlens", cu_seqlens), ("seq_lens", seq_lens)):
        if value is not None:
            add_starts(batch, find_starts(batch, name, value))
    if train_turns is not None:
        rows = [train_turns] if batch.flat else list(train_turns)
        if len(rows) != len(batch.ids) or not all(_is_row(row) for row in rows):
            raise InputError(
                f"train_turns has {len(rows)} rows, expected a list of flags for each of the {len(batch.ids)} rows of input_ids"
            )
        batch.train_turns = [[bool(flag) for flag in row] for row in rows]
    return batch


def find_starts(batch: ListBatch | ArrayBatch, name: str, value: Any) -> Any:
    """Return where the documents of a batch begin: an array of bool (B, T) for an ArrayBatch, lists for a ListBatch.

    Args:
        batch: The batch; its own `starts` are not looked at.
        name: What `value` is called, which says what it is: `position_ids`; `seq_idx`, a number per token, another one for another
            document; cumulated lengths, if it begins with ``cu_``; or else lengths.
        value: Positions, numbers or lengths.

    Raises:
        InputError: A wrong shape, or lengths that the rows do not have.
    """
    if name == "position_ids":
        return _starts_of_positions(batch, value)
    if name == "seq_idx":
        if isinstance(batch, ListBatch):
            return [starts_from_index(row) for row in _like_rows(name, value, batch.ids, batch.flat)]
        return starts_of_index(_of_shape(name, value, batch))
    lengths = lengths_per_row(value, len(batch.ids), name)
    starts = [starts_from_lengths(row, len(ids), name) for row, ids in zip(lengths, batch.ids, strict=True)]
    return to_array(starts).reshape(batch.ids.shape) if isinstance(batch, ArrayBatch) else starts


def add_starts(batch: ListBatch | ArrayBatch, starts: Any) -> None:
    """Let documents begin where `starts`, from `find_starts`, says so, too."""
    if batch.starts is None:
        batch.starts = starts
    elif isinstance(batch, ArrayBatch):
        batch.starts = batch.starts | starts
    else:
        batch.starts = [[one or other for one, other in zip(*rows, strict=True)] for rows in zip(batch.starts, starts, strict=True)]


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
    _check_one_of(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens)
    _check_ids(input_ids)
    import torch

    flat = input_ids.ndim == 1
    ids = input_ids[None] if flat else input_ids
    starts = None
    if position_ids is not None:
        positions = torch.as_tensor(position_ids, device=ids.device)
        _check_position_shape(positions, tuple(input_ids.shape))
        starts = starts_of_positions_on_device(_axes_first(positions, input_ids.ndim, flat))
    elif cu_seqlens is not None or seq_lens is not None:
        starts = starts_on_device(ids, cu_seqlens, seq_lens)
    attention = None
    if attention_mask is not None:
        attention = torch.as_tensor(attention_mask, device=ids.device)
        _check_shape("attention_mask", attention, tuple(input_ids.shape))
        attention = attention[None] if flat else attention
        if "bool" not in str(attention.dtype):
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


def _array_batch(input_ids: Any, attention_mask: Any) -> ArrayBatch:
    _check_ids(input_ids)
    flat = input_ids.ndim == 1
    ids = to_array(input_ids)
    batch = ArrayBatch(ids[None] if flat else ids, None, None, None, flat, _restorer(input_ids))
    if attention_mask is not None:
        attention = _of_shape("attention_mask", attention_mask, batch)
        batch.attention = attention != 0
        if attention.max(initial=0) > 1:
            batch.starts = attention.astype(bool) & False
            batch.starts[:, 1:] = changes_of_number(attention)
    return batch


def _starts_of_positions(batch: ListBatch | ArrayBatch, value: Any) -> Any:
    if isinstance(batch, ArrayBatch):
        positions = to_array(value)
        shape = batch.ids.shape[1:] if batch.flat else batch.ids.shape
        _check_position_shape(positions, shape)
        return starts_of_positions(_axes_first(positions, len(shape), batch.flat))
    nested = as_nested(value)
    axes = nested if _depth(nested) > (1 if batch.flat else 2) else [nested]
    if len(axes) not in (1, *_AXES):
        raise InputError(f"position_ids has {len(axes)} axes per token, expected one, three or four")
    by_axis = [_like_rows("position_ids", axis, batch.ids, batch.flat) for axis in axes]
    return [starts_from_positions(row) for row in zip(*by_axis, strict=True)]


def _axes_first(positions: Any, ndim: int, flat: bool) -> Any:
    """Return positions of the shape (axes, B, T), given those of `ndim` dimensions, or of one more: the axes."""
    positions = positions if positions.ndim > ndim else positions[None]
    return positions[:, None] if flat else positions


def _depth(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    return 1 + _depth(value[0]) if value else 1


def _of_shape(name: str, value: Any, batch: ArrayBatch) -> "NDArray[Any]":
    """Return an array (B, T), after a look at its shape."""
    array = to_array(value)
    _check_shape(name, array, batch.ids.shape[1:] if batch.flat else batch.ids.shape)
    return array[None] if batch.flat else array


def _check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape)
    if len(found) > 2:
        raise InputError(
            f"{name} has the shape {found}; expected the 2-D one of the tokenizer or collator, {shape}, "
            f"not the {len(found)}-D one that a model makes"
        )
    if found != shape:
        raise InputError(f"{name} has the shape {found}, expected that of input_ids, {shape}")


def _check_position_shape(value: Any, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape)
    if found != shape and found not in [(axes, *shape) for axes in _AXES]:
        raise InputError(f"position_ids has the shape {found}, expected that of input_ids, {shape}, or three or four of them: (3, B, T)")


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


def _list_batch(input_ids: Sequence[Any], attention_mask: Any) -> ListBatch:
    if any(is_tensor(row) or is_array(row) for row in input_ids):
        raise InputError("input_ids is a list of tensors or arrays, expected one tensor of shape (batch, tokens), or a list of lists")
    flat = not any(_is_row(row) for row in input_ids)
    rows = [_int_row([*input_ids], 0)] if flat else [_int_row(row, index) for index, row in enumerate(input_ids)]
    batch = ListBatch(rows, None, None, None, flat)
    if attention_mask is not None:
        batch.attention = _like_rows("attention_mask", attention_mask, rows, flat)
        if any(number > 1 for row in batch.attention for number in row):
            batch.starts = [starts_from_numbers(row) for row in batch.attention]
    return batch


def _like_rows(name: str, value: Any, rows: list[list[int]], flat: bool) -> list[list[int]]:
    nested = as_nested(value)
    values = [nested] if flat else nested
    lengths = [len(row) if isinstance(row, list) else 0 for row in values] if isinstance(values, list) else []
    if lengths != [len(row) for row in rows]:
        raise InputError(f"{name} has rows of lengths {lengths}, expected those of input_ids, {[len(row) for row in rows]}")
    checked: list[list[int]] = values
    return checked


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _int_row(row: Any, index: int) -> list[int]:
    if not _is_row(row):
        raise InputError(f"row {index} of input_ids is {row!r}, expected a list of token ids like the other rows")
    for at, id_ in enumerate(row):
        if not isinstance(id_, int) or isinstance(id_, bool):
            raise InputError(f"token {at} of row {index} of input_ids is {id_!r}, a {type(id_).__name__}, expected an integer")
    return list(row)

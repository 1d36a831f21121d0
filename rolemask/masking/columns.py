"""Reads tensors, arrays and lists of rows into one array, and gives results back in the same form. No Python code runs per token."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeGuard

from rolemask.errors import InputError, require
from rolemask.markers.spec import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_INTEGERS = ("int32", "int64")


@dataclass(slots=True)
class Column:
    """Rows of values, end to end.

    Attributes:
        values: (N,), the values of all rows.
        offsets: (B + 1,) int64, where each row begins, and where the last one ends.
        shape: What a tensor or array has, None for anything else.
        flat: Whether the user passed one row, not a batch of rows.
        restore: From values (N,) to what the user passed: the same kind, shape and device.
        restore_labels: The same for labels, which are the values themselves or -100.
    """

    values: "NDArray[Any]"
    offsets: "NDArray[np.int64]"
    shape: tuple[int, ...] | None
    flat: bool
    restore: Callable[["NDArray[Any]"], Any]
    restore_labels: Callable[["NDArray[Any]"], Any]

    def lengths(self) -> list[int]:
        """Return the length of each row."""
        lengths: list[int] = (self.offsets[1:] - self.offsets[:-1]).tolist()
        return lengths


def count_in_rows(flags: "NDArray[np.bool_]", offsets: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Return how many of the flags (N,) are set in each row: (B,)."""
    import numpy as np

    before = np.zeros(len(flags) + 1, dtype=np.int64)
    np.cumsum(flags, out=before[1:])
    counts: NDArray[np.int64] = before[offsets[1:]] - before[offsets[:-1]]
    return counts


def any_in_rows(flags: "NDArray[np.bool_]", offsets: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    """Return whether any of the flags (N,) is set in each row: (B,)."""
    import numpy as np

    found = np.zeros(len(offsets) - 1, dtype=np.bool_)
    has_tokens = offsets[1:] > offsets[:-1]
    found[has_tokens] = np.logical_or.reduceat(flags, offsets[:-1][has_tokens])
    return found


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    return _is_of(value, "torch", "Tensor")


def is_array(value: object) -> bool:
    """Whether `value` is a NumPy array, without importing NumPy."""
    return _is_of(value, "numpy", "ndarray")


def _is_of(value: object, module: str, name: str) -> bool:
    kind = type(value)
    if kind.__name__ == name and kind.__module__ == module:
        return True
    return any(base.__name__ == name and base.__module__ == module for base in kind.__mro__)


def is_row(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a sequence of values."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def to_array(value: Any) -> "NDArray[Any]":
    """Return a tensor (copied to the host), an array or lists as a NumPy array."""
    array_: NDArray[Any] = value.numpy(force=True) if is_tensor(value) else _numpy().asarray(value)
    return array_


@cache
def _numpy() -> Any:
    return require("numpy", extra="torch", needed_for="masking tensors and arrays")


def from_array(name: str, value: Any) -> Column:
    """Read a tensor or array (B, T) or (T,). The errors are those of `read_column`."""
    np = _numpy()
    check_dtype(name, value.dtype)
    array_ = to_array(value)
    shape, flat = array_.shape, array_.ndim == 1
    if not (flat or array_.ndim == 2):
        raise InputError(f"{name} has the shape {shape}, expected (batch, tokens) or (tokens,)")
    rows, size = (1, shape[0]) if flat else shape
    back = _back_to_tensor(value) if is_tensor(value) else _as_it_is

    def restore(values: "NDArray[Any]") -> Any:
        return back(values.reshape(shape))

    offsets = np.array([0, size]) if rows == 1 else np.arange(rows + 1) * size
    return Column(array_.reshape(-1), offsets, shape, flat, restore, restore)


def _back_to_tensor(tensor: "Tensor") -> Callable[["NDArray[Any]"], Any]:
    import torch

    return torch.from_numpy if tensor.is_cpu else lambda values: torch.from_numpy(values).to(tensor.device)


def _as_it_is(value: Any) -> Any:
    """Return the value."""
    return value


def check_dtype(name: str, dtype: object) -> None:
    """Raise InputError if ids have a dtype that is not int32 or int64."""
    if name == "input_ids" and not _is_fit_for_ids(dtype):
        raise InputError(f"{name} has the dtype {dtype}, expected int32 or int64")


@cache
def _is_fit_for_ids(dtype: object) -> bool:
    return str(dtype).removeprefix("torch.") in _INTEGERS


def has_rows(values: Sequence[Any]) -> bool:
    """Whether a list holds rows, not numbers."""
    if values and type(values[0]) is int:  # a row, or a mistake that is found where its values are read
        return False
    for kind in set(map(type, values)):
        one = next(value for value in values if type(value) is kind)
        if is_row(one) or getattr(one, "ndim", 0) > 0:
            return True
    return False


def from_one_row(name: str, row: Sequence[Any]) -> Column:
    """Read a list of integers. The errors are those of `read_column`."""
    import numpy as np

    values = _of_list(name, row, 0)

    def restore(found: "NDArray[Any]") -> list[Any]:
        made: list[Any] = found.tolist()
        return made

    def restore_labels(labels: "NDArray[Any]") -> list[Any]:
        return next(_labels_of_lists([row], labels))

    return Column(values, np.array([0, len(values)]), None, True, restore, restore_labels if _is_plain(row) else restore)


def from_rows(name: str, rows: Sequence[Any], container: Callable[[list[Any]], Any]) -> Column:
    """Read rows that are lists, arrays or tensors. `container` makes what the user passed of a list of rows. Errors: see `read_column`."""
    import numpy as np

    parts = [_of_row(name, row, index) for index, row in enumerate(rows)]
    offsets = np.fromiter(accumulate(map(len, parts), initial=0), np.int64, len(parts) + 1)
    values = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    backs = [_back_to_row(row) for row in rows]

    def restore(found: "NDArray[Any]") -> Any:
        return container([back(row) for back, row in zip(backs, np.split(found, offsets[1:-1]), strict=True)] if rows else [])

    def restore_labels(labels: "NDArray[Any]") -> Any:
        if all(map(_is_plain, rows)):
            return container(list(_labels_of_lists(rows, labels)))
        own = [row.astype(part.dtype) for row, part in zip(np.split(labels, offsets[1:-1]), parts, strict=True)]
        return container([back(row) for back, row in zip(backs, own, strict=True)])

    return Column(values, offsets, None, False, restore, restore_labels)


def _of_row(name: str, row: Any, index: int) -> "NDArray[Any]":
    if is_tensor(row) or is_array(row):
        check_dtype(f"row {index} of {name}" if name != "input_ids" else name, row.dtype)
        values = to_array(row)
        if values.ndim != 1:
            raise InputError(f"row {index} of {name} has the shape {values.shape}, expected (tokens,)")
        return values
    if not is_row(row):
        raise no_row(name, row, index)
    return _of_list(name, row, index)


def _of_list(name: str, row: Sequence[Any], index: int) -> "NDArray[Any]":
    """Return the integers of a list: (T,) int64; of a column other than the ids also what else NumPy makes of it."""
    import numpy as np

    # An array takes anything with an index, flags too; whoever passes a mask instead of ids passes nothing but flags.
    if name == "input_ids" and row and not _is_integer(row[0]):
        raise no_integer(row, index, 0)
    try:
        return np.frombuffer(array("q", row), np.int64)
    except OverflowError:
        at = next(at for at, number in enumerate(row) if not -(2**63) <= number < 2**63)
        raise InputError(f"token {at} of row {index} of {name} is {row[at]}, which is no 64-bit integer") from None
    except TypeError:
        if name != "input_ids":
            return np.asarray(row)
        raise no_integer(row, index, next(at for at, number in enumerate(row) if not _is_integer(number))) from None


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def no_integer(row: Sequence[Any], index: int, at: int) -> InputError:
    """Return the error for a token of `input_ids` that is no integer."""
    return InputError(f"token {at} of row {index} of input_ids is {row[at]!r}, a {type(row[at]).__name__}, expected an integer")


def no_row(name: str, row: object, index: int) -> InputError:
    """Return the error for a row that is no list, array or tensor."""
    return InputError(f"row {index} of {name} is {row!r}, expected a list of integers like the other rows")


def _is_plain(row: object) -> bool:
    """Whether a row is a list of Python's own integers, as far as its first value tells."""
    return isinstance(row, list) and type(row[0] if row else 0) is int


def _back_to_row(row: Any) -> Callable[["NDArray[Any]"], Any]:
    if is_tensor(row):
        back = _back_to_tensor(row)
        return lambda values: back(values.copy())
    return (lambda values: values.copy()) if is_array(row) else (lambda values: values.tolist())


def _labels_of_lists(rows: Sequence[Sequence[int]], labels: "NDArray[Any]") -> Iterator[list[Any]]:
    """Yield the labels of each row: slices of its own list, and -100 between them. That is faster than to make every integer again."""
    trained = labels != IGNORE_INDEX
    changes = iter([*(trained[1:] != trained[:-1]).nonzero()[0].tolist(), len(labels)])  # the last tokens of stretches of one kind
    stop, is_trained = -1, not trained[:1].any()
    begin = 0  # of the row
    for row in rows:
        made, end = [IGNORE_INDEX] * len(row), begin + len(row)
        at = begin
        while at < end:
            if at > stop:
                stop, is_trained = next(changes), not is_trained
            until = min(stop + 1, end)
            if is_trained:
                made[at - begin : until - begin] = row[at - begin : until - begin]
            at = until
        begin = end
        yield made


def object_array(rows: list[Any]) -> "NDArray[Any]":
    """Return an array of dtype object of these rows."""
    import numpy as np

    made = np.empty(len(rows), dtype=object)
    made[:] = rows
    return made

"""Reads a column of rows, whatever holds it: what `columns` reads, or what Arrow, pandas and polars make.

Their modules are there if a user has made such a column, so they are imported here where they are used. An Arrow array is read where it
lies.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rolemask.errors import InputError
from rolemask.masking.columns import (
    Column,
    check_dtype,
    from_array,
    from_one_row,
    from_rows,
    has_rows,
    is_array,
    is_row,
    is_tensor,
    object_array,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_column(name: str, value: Any) -> Column:
    """Read the column `name`.

    The values of ``input_ids`` are checked: integers, int32 or int64 where they have a dtype. Those of other columns are what they are.

    Raises:
        InputError: Nothing that holds rows of numbers, a row or value that is missing, or a wrong dtype; the message names the place.
    """
    if is_tensor(value) or (is_array(value) and value.dtype != object):
        return from_array(name, value)
    if is_row(value):
        return from_rows(name, value, list) if has_rows(value) else from_one_row(name, value)
    if is_array(value):
        return from_rows(name, list(value), object_array)
    kind = _kind(value)
    if kind.startswith("pyarrow.") and kind.endswith("Array"):
        return _from_arrow(name, value)
    if kind == "polars.Series":
        return _from_polars(name, value)
    if kind == "pandas.Series":
        return _from_pandas(name, value)
    raise InputError(
        f"{name} is a {type(value).__name__}, expected a tensor, an array or a list of token ids. From a batch of Transformers, "
        f'pass batch["{name}"]'
    )


def columns_of(batch: Any) -> Mapping[str, Any]:
    """Return the columns of a batch: a mapping, an Arrow table, or a frame of pandas or polars.

    Raises:
        InputError: It is none of them.
    """
    if isinstance(batch, Mapping):
        return batch
    kind = _kind(batch)
    if kind == "pyarrow.Table":
        return dict(zip(batch.column_names, batch.columns, strict=True))
    if kind in ("pandas.DataFrame", "polars.DataFrame"):
        return {name: batch[name] for name in batch.columns}
    raise InputError(f"the batch is a {type(batch).__name__}, expected a mapping, an Arrow table or a frame, with the column 'input_ids'")


def with_labels(batch: Any, labels: Any) -> Any:
    """Return an Arrow table or a frame with these labels, in place of those that it has; for a mapping, nothing but the labels."""
    kind = _kind(batch)
    if kind == "pyarrow.Table":
        at = batch.schema.get_field_index("labels")
        return batch.append_column("labels", labels) if at < 0 else batch.set_column(at, "labels", labels)
    if kind == "pandas.DataFrame":
        return batch.assign(labels=labels)
    if kind == "polars.DataFrame":
        return batch.with_columns(labels.alias("labels"))
    return {"labels": labels}


def _kind(value: object) -> str:
    """Return the package and the name of the type of a value."""
    kind = type(value)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _from_arrow(name: str, value: Any) -> Column:
    import numpy as np
    import pyarrow as pa

    is_chunked = isinstance(value, pa.ChunkedArray)
    rows = value.combine_chunks() if is_chunked else value
    if isinstance(rows, pa.ChunkedArray):  # of older releases
        rows = pa.concat_arrays(rows.chunks) if rows.num_chunks else pa.array([], value.type)
    if rows.null_count:
        raise InputError(f"row {rows.is_null().to_pylist().index(True)} of {name} is missing (null)")
    flat = not any(is_list(rows.type) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    values = rows if flat else rows.flatten()
    if values.null_count:
        raise InputError(f"{name} has a missing value (null), token {values.is_null().to_pylist().index(True)} counted through all rows")
    found = values.to_numpy(zero_copy_only=False)
    check_dtype(name, found.dtype)
    lengths = [len(rows)] if flat else rows.value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def restore(made: "NDArray[Any]") -> Any:
        new: Any = pa.array(made)
        if pa.types.is_fixed_size_list(rows.type):
            new = pa.FixedSizeListArray.from_arrays(new, rows.type.list_size)
        elif not flat:
            of_lists = pa.LargeListArray if pa.types.is_large_list(rows.type) else pa.ListArray
            new = of_lists.from_arrays(pa.array(offsets, pa.int64() if of_lists is pa.LargeListArray else pa.int32()), new)
        return pa.chunked_array([new]) if is_chunked else new

    return Column(found, offsets, None, flat, restore, restore)


def _from_polars(name: str, series: Any) -> Column:
    return _wrapped(_from_arrow(name, series.to_arrow()), lambda made: type(series)(series.name, made))


def _from_pandas(name: str, series: Any) -> Column:
    if hasattr(series.dtype, "pyarrow_dtype"):
        column = _wrapped(_from_arrow(name, series.array.__arrow_array__()), type(series.array))
    elif series.dtype == object:
        column = from_rows(name, list(series), object_array)
    else:
        column = from_array(name, series.to_numpy())
    return _wrapped(column, lambda made: type(series)(made, index=series.index, name=series.name))


def _wrapped(column: Column, wrap: Callable[[Any], Any]) -> Column:
    """Return a column that a tool wraps in an object of its own, which has no shape of a tensor or array."""
    restore, restore_labels = column.restore, column.restore_labels
    return replace(
        column, shape=None, restore=lambda values: wrap(restore(values)), restore_labels=lambda labels: wrap(restore_labels(labels))
    )

"""Leaves out what the labels and masks that came with the data leave out."""

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from rolemask.errors import InputError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.batch import ArrayBatch
from rolemask.masking.columns import any_in_rows, count_in_rows, is_array, no_row
from rolemask.masking.documents import as_nested
from rolemask.masking.formats import read_column
from rolemask.masking.lists import ListBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT_OUT = {"labels": IGNORE_INDEX, "completion_mask": 0, "assistant_masks": 0}
"""The columns with a value per token, and the value of a token that is left out."""
CALLERS_KEYS = (*LEFT_OUT, "train_turns")
"""The columns with which a caller says what is trained."""


def callers(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a batch has of `CALLERS_KEYS`. A column of None is none: frameworks write it where a collator makes no labels."""
    columns = {key: given[key] for key in CALLERS_KEYS if given.get(key) is not None}
    return {key: value for key, value in columns.items() if not isinstance(value, list) or any(row is not None for row in value)}


def refine(batch: ListBatch | ArrayBatch, labels: Any, given: Mapping[str, Any]) -> Any:
    """Return the labels of a batch, with -100 too where a column of `given` leaves a token out.

    Args:
        batch: The rows.
        labels: Their labels: an array for an ArrayBatch, lists for a ListBatch.
        given: Columns of `LEFT_OUT`, of the shape of the ids, or shorter by what the attention mask says is padding.

    Raises:
        InputError: A column fits neither; or `assistant_masks` is 0 in all of a row of which something would be trained.
    """
    refined = labels
    for key, left_out in LEFT_OUT.items():
        if key not in given:
            continue
        values: Any
        if isinstance(batch, ArrayBatch):
            import numpy

            values = _per_token(batch, key, given[key])
            refined = numpy.where(values != left_out, refined, refined.dtype.type(IGNORE_INDEX))
        else:
            values = _lists_per_token(batch, key, given[key])
            refined = [
                [label if value != left_out else IGNORE_INDEX for label, value in zip(*row, strict=True)]
                for row in zip(refined, values, strict=True)
            ]
        if key == "assistant_masks":
            _check_not_empty(batch, values, labels)
    return refined


def is_same(labels: Any, refined: Any) -> bool:
    """Whether two arrays, or two lists of rows, of one shape are equal."""
    return bool((labels == refined).all()) if is_array(labels) else bool(labels == refined)


def count_left_out(labels: Any, refined: Any, end_labels: Any) -> Counter[tuple[bool, bool]]:
    """Count the tokens with a label, by whether they are part of an end marker, and whether `refined` keeps them."""
    columns = [chain(*column) if isinstance(column, list) else column.tolist() for column in (labels, refined, end_labels)]
    return Counter(
        (is_end != IGNORE_INDEX, kept != IGNORE_INDEX) for label, kept, is_end in zip(*columns, strict=True) if label != IGNORE_INDEX
    )


def mask_lists(labels: list[Any], masked: list[Any]) -> None:
    """Set `labels`, a list of ints or of lists of ints, to -100 where `masked` is, in place.

    Raises:
        InputError: They have not the same rows.
    """
    is_flat = not any(isinstance(row, list) for row in masked)
    rows, expected = ([labels], [masked]) if is_flat else (labels, masked)
    lengths = [len(row) if isinstance(row, list) else row for row in rows]
    if lengths != [len(row) for row in expected]:
        raise InputError(f"labels has rows of lengths {lengths}, expected those of input_ids, {[len(row) for row in expected]}")
    for row, of_row in zip(rows, expected, strict=True):
        row[:] = [label if new != IGNORE_INDEX else IGNORE_INDEX for label, new in zip(row, of_row, strict=True)]


def _per_token(batch: ArrayBatch, key: str, column: Any) -> "NDArray[Any]":
    """Return the values of a column, one per token: (N,)."""
    import numpy as np

    found, offsets = read_column(key, column), batch.column.offsets
    if found.flat != batch.flat:
        raise InputError(f"{key} is {'one row' if found.flat else 'a batch of rows'} of values, and input_ids is not")
    if len(found.offsets) != len(offsets):
        raise InputError(f"{key} has another number of rows than input_ids, which has {len(batch)}")
    if (found.offsets == offsets).all():
        return found.values
    # What a row has too few of are the values of its padding.
    attended = np.zeros(len(batch.column.values), dtype=bool) if batch.attention is None else batch.attention.copy()
    sizes, given, expected = batch.column.lengths(), found.lengths(), count_in_rows(attended, offsets).tolist()
    for row, size in enumerate(sizes):
        if given[row] == size:
            attended[offsets[row] : offsets[row + 1]] = True
        elif given[row] != expected[row]:
            raise misfit(key, given[row], f"row {row}", size)
    fitted = np.full(len(attended), LEFT_OUT[key])
    fitted[attended] = found.values
    return fitted


def _lists_per_token(batch: ListBatch, key: str, column: Any) -> list[list[int]]:
    """Return the values of a column, one per token."""
    nested = [as_nested(column)] if batch.flat else as_nested(column)
    if not isinstance(nested, list) or len(nested) != len(batch.ids):
        raise InputError(f"{key} has another number of rows than input_ids, which has {len(batch.ids)}")
    return [_fitted(batch, key, row, values) for row, values in enumerate(nested)]


def _fitted(batch: ListBatch, key: str, row: int, values: Any) -> list[int]:
    """Return the values of a row, one per token."""
    size = len(batch.ids[row])
    if not isinstance(values, list):
        raise no_row(key, values, row)
    if len(values) == size:
        return values
    attended = [] if batch.attention is None else [at for at in range(size) if batch.attention[row][at]]
    if len(attended) != len(values):
        raise misfit(key, len(values), f"row {row}", size)
    fitted = [LEFT_OUT[key]] * size
    for at, value in zip(attended, values, strict=True):
        fitted[at] = value
    return fitted


def misfit(key: str, length: int, place: str, size: int) -> InputError:
    """Return the error for a column that was made before its tokens were padded, cut or expanded."""
    return InputError(
        f"{key} has {length} values for the {size} tokens of {place}, and nothing says which tokens they belong to. "
        "Pad, cut and expand it together with input_ids, pass the attention_mask of the padding, "
        'or pass labels="replace" to ignore it'
    )


def _check_not_empty(batch: ListBatch | ArrayBatch, values: Any, labels: Any) -> None:
    """Raise InputError if `assistant_masks` masks a row as a whole where tokens would be trained."""
    masked: Any
    trained: Any
    if isinstance(batch, ArrayBatch):
        masked = ~any_in_rows(values != 0, batch.column.offsets)
        trained = count_in_rows(labels != IGNORE_INDEX, batch.column.offsets)
    else:
        masked, trained = [not any(row) for row in values], [sum(label != IGNORE_INDEX for label in row) for row in labels]
    for row, count in enumerate(trained):
        if masked[row] and count:
            raise InputError(
                f"assistant_masks of row {row} is 0 everywhere, where {count} tokens would be trained: Transformers makes such masks of "
                'a chat template without {% generation %}. Remove the column, or pass labels="replace"'
            )

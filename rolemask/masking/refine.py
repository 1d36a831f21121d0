"""Leaves out what the labels and masks that came with the data leave out."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rolemask.errors import InputError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.batch import ArrayBatch, ListBatch, is_array, is_tensor, to_array
from rolemask.masking.documents import as_nested

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
        values = _per_token(batch, key, given[key])
        if key == "assistant_masks":
            _check_not_empty(labels, values)
        if isinstance(batch, ArrayBatch):
            refined = refined.copy()
            refined[to_array(values).reshape(refined.shape) == left_out] = IGNORE_INDEX
        else:
            refined = [
                [label if value != left_out else IGNORE_INDEX for label, value in zip(*row, strict=True)]
                for row in zip(refined, values, strict=True)
            ]
    return refined


def is_same(labels: Any, refined: Any) -> bool:
    """Whether two arrays, or two lists of rows, of one shape are equal."""
    return bool((labels == refined).all()) if is_array(labels) else bool(labels == refined)


def count_left_out(labels: Any, refined: Any, end_labels: Any) -> Counter[tuple[bool, bool]]:
    """Count the tokens with a label, by whether they are part of an end marker, and whether `refined` keeps them."""
    return Counter(
        (is_end != IGNORE_INDEX, kept != IGNORE_INDEX)
        for rows in zip(as_nested(labels), as_nested(refined), as_nested(end_labels), strict=True)
        for label, kept, is_end in zip(*rows, strict=True)
        if label != IGNORE_INDEX
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


def _per_token(batch: ListBatch | ArrayBatch, key: str, column: Any) -> Any:
    """Return a column as an array or lists of the shape of the ids."""
    if isinstance(batch, ArrayBatch) and (is_tensor(column) or is_array(column)):
        array = to_array(column)
        if array.shape == (batch.ids.shape[1:] if batch.flat else batch.ids.shape):
            return array[None] if batch.flat else array
    nested = [as_nested(column)] if batch.flat else as_nested(column)
    if not isinstance(nested, list) or len(nested) != len(batch.ids):
        raise InputError(f"{key} has another number of rows than input_ids, which has {len(batch.ids)}")
    return [_fitted(batch, key, row, values) for row, values in enumerate(nested)]


def _fitted(batch: ListBatch | ArrayBatch, key: str, row: int, values: Any) -> list[int]:
    """Return the values of a row, one per token."""
    size = len(batch.ids[row])
    if not isinstance(values, list):
        raise InputError(f'{key} of row {row} is {values!r}, expected a value per token. Remove it, or pass labels="replace"')
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


def _check_not_empty(labels: Any, masks: Any) -> None:
    for row, (row_labels, mask) in enumerate(zip(labels, masks, strict=True)):
        if any(as_nested(mask)):
            continue
        if trained := sum(label != IGNORE_INDEX for label in as_nested(row_labels)):
            raise InputError(
                f"assistant_masks of row {row} is 0 everywhere, where {trained} tokens would be trained: Transformers makes such masks of "
                'a chat template without {% generation %}. Remove the column, or pass labels="replace"'
            )

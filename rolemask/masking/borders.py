"""Finds the borders between documents in the batches of frameworks, under every name that they use.

The names, and what they mean: `docs/training.md`, "Packed and padding-free batches".
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rolemask.errors import InputError
from rolemask.masking.batch import ArrayBatch, add_starts, as_lists, find_starts
from rolemask.masking.documents import as_nested, depth, lengths_per_row
from rolemask.masking.lists import ListBatch
from rolemask.masking.refine import is_same

LENGTH_KEYS = ("seq_lens", "seq_lengths")
BORDER_KEYS = ("position_ids", *LENGTH_KEYS, "cu_seqlens", "cu_seq_lens_q", "seq_idx")
"""The keys of a batch that say where its documents begin. No other key does, but an attention mask that numbers them."""
_QUIET_KEYS = ("attention_mask", "position_ids")
"""They are there without packing too: a row in which they show no border says nothing, and can't disagree."""
_MEDIA_PREFIXES = ("pixel_values", "image_", "video_", "grid_thw", "input_features", "audio_")


def has_borders(given: Mapping[str, Any]) -> bool:
    """Whether a batch has a key that may say where its documents begin."""
    return any(given.get(key) is not None for key in BORDER_KEYS)


def add_borders(batch: ListBatch | ArrayBatch, given: Mapping[str, Any], pad_id: int | None) -> None:
    """Let documents begin in `batch` where the keys of `given` say so.

    Args:
        batch: The rows, with the borders of a numbered attention mask.
        given: The batch as the framework made it.
        pad_id: Without an attention mask, a run of it at either end of a row is padding, where keys need not agree.

    Raises:
        InputError: A key has another shape than `batch`, or two keys disagree.
    """
    found = {} if batch.starts is None else {"attention_mask": batch.starts}
    covered = batch.lengths()
    for key in BORDER_KEYS:
        value = given.get(key)
        if value is None or (key == "cu_seqlens" and _is_of_media(given, value, batch)):
            continue
        if key == "position_ids":
            value = _axes_first(value, batch)
        found[key] = find_starts(batch, key, value)
        if key in LENGTH_KEYS:
            sums = map(sum, lengths_per_row(value, len(batch), key))
            covered = [min(pair) for pair in zip(covered, sums, strict=True)]
    _check_agreement(batch, found, pad_id, covered)
    for starts in found.values():
        add_starts(batch, starts)


def _is_of_media(given: Mapping[str, Any], cu_seqlens: Any, batch: ListBatch | ArrayBatch) -> bool:
    """Whether `cu_seqlens` counts patches of images: beside media, one list of numbers that doesn't end where the one row does."""
    nested = as_nested(cu_seqlens)
    if not any(key.startswith(_MEDIA_PREFIXES) for key in given) or not isinstance(nested, list):
        return False
    return not any(isinstance(row, list) for row in nested) and nested[-1:] != batch.lengths()


def _axes_first(positions: Any, batch: ListBatch | ArrayBatch) -> Any:
    """Return positions of several axes as (axes, B, T): in a column of a dataset, each row has its own, (B, axes, T)."""
    if batch.flat or hasattr(positions, "ndim") or depth(positions) != 3:
        return positions
    nested = as_nested(positions)
    if len(nested) == len(batch) and all(map(_has_axes, nested, batch.lengths())):
        return [list(axis) for axis in zip(*nested, strict=False)]
    return nested


def _has_axes(row: Any, size: int) -> bool:
    is_nested = isinstance(row, list) and row != [] and isinstance(row[0], list)
    return is_nested and all(isinstance(axis, list) and len(axis) == size for axis in row)


def _check_agreement(batch: ListBatch | ArrayBatch, found: Mapping[str, Any], pad_id: int | None, covered: Sequence[int]) -> None:
    """Raise InputError where one key begins a document and another doesn't."""
    starts = list(found.values())
    if all(is_same(starts[0], others) for others in starts[1:]):
        return
    rows = as_lists(batch)
    by_key = {key: _per_row(batch, starts) for key, starts in found.items()}
    for row in range(len(rows.ids)):
        starts_of = {key: starts[row] for key, starts in by_key.items()}
        first = next(iter(starts_of.values()))
        if all(starts == first for starts in starts_of.values()):
            continue
        inside = _places_between_tokens(rows, row, pad_id, covered[row])
        borders = {key: [at for at in inside if starts[at]] for key, starts in starts_of.items()}
        telling = {key: places for key, places in borders.items() if places or key not in _QUIET_KEYS}
        for (one, places), (other, others) in pairwise(telling.items()):
            if places != others:
                at = min({*places} ^ {*others})
                begins, not_ = (one, other) if at in places else (other, one)
                raise InputError(
                    f"{one} and {other} disagree: by {begins}, a document begins at token {at} of row {row}, and by {not_} none does. "
                    "Remove the one that is wrong"
                )


def _per_row(batch: ListBatch | ArrayBatch, starts: Any) -> Sequence[list[bool]]:
    return [row.tolist() for row in batch.split(starts)] if isinstance(batch, ArrayBatch) else starts


def _places_between_tokens(rows: ListBatch, row: int, pad_id: int | None, covered: int) -> list[int]:
    """Return the tokens of a row that follow another one: neither is padding. That is also one id over and over behind all lengths."""
    ids = rows.ids[row]
    if rows.attention is not None:
        return [at for at in range(1, len(ids)) if rows.attention[row][at] and rows.attention[row][at - 1]]
    ids = ids[:covered] if len(set(ids[covered:])) == 1 else ids
    tokens = [at for at, id_ in enumerate(ids) if id_ != pad_id]
    return list(range(tokens[0] + 1, tokens[-1] + 1)) if tokens else []

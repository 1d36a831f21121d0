"""Finds the tokens of a collator's features in the batch that it made of them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rolemask.errors import InputError
from rolemask.masking.batch import as_lists, read_batch
from rolemask.masking.borders import LENGTH_KEYS, add_borders, has_borders
from rolemask.masking.documents import as_nested
from rolemask.masking.lists import ListBatch
from rolemask.masking.refine import CALLERS_KEYS, LEFT_OUT, callers, misfit


class Place(NamedTuple):
    """Where the tokens of a feature stand in the batch."""

    row: int
    start: int
    size: int


def place_columns(features: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], pad_id: int | None) -> dict[str, Any]:
    """Return what the features say about their tokens, for the tokens of the batch, under the names that `Masker.map_batch` reads.

    Args:
        features: What a collator got. A feature without `input_ids` has as many tokens as its columns have values.
        batch: What it returned, with `input_ids`: a row per feature, padded on either side, or one row of all features.
        pad_id: See `add_borders`.

    Returns:
        The columns of `CALLERS_KEYS` that the features have; and `seq_lengths`, if the features hold several documents each, or are
        themselves the documents of a row of which the batch doesn't say so.

    Raises:
        InputError: A feature has such a column, and its tokens are not found; or lacks a column that others have.
    """
    keys = [key for key in CALLERS_KEYS if any(key in callers(feature) for feature in features)]
    if not (keys or any(map(has_borders, features)) or len(batch["input_ids"]) == 1 < len(features)):
        return {}
    rows = as_lists(read_batch(batch["input_ids"], batch.get("attention_mask")))
    is_told = has_borders(batch) or rows.starts is not None
    documents = [_documents(feature, pad_id, only_lengths=is_told) for feature in features]
    is_packed = any(len(lengths) > 1 for lengths in documents)
    is_flattened = not is_told and len(rows.ids) == 1 < len(features)
    if not (keys or is_packed or is_flattened):
        return {}
    columns = {key: [as_nested(feature.get(key)) for feature in features] for key in keys}
    for key, values in columns.items():
        for index, value in enumerate(values):
            if not isinstance(value, list):
                raise InputError(f"feature {index} has {key}={value!r}, expected a list: give every feature one, or none")
    placed: dict[str, Any] = {}
    places = _find_places([_tokens(feature) for feature in features], [_size(feature, keys) for feature in features], rows)
    for key, values in columns.items():
        placed[key] = rows.restore(_flags(values, rows) if key == "train_turns" else _spread(key, values, places, rows))
    found = [place for place in places if place is not None]
    if len(found) == len(features) and (is_packed or is_flattened):
        placed["seq_lengths"] = rows.restore(_lengths(documents, found, rows))
    elif is_packed and not is_told:
        raise InputError(
            f"feature {places.index(None)} packs documents, or stands beside one that does, and its tokens are not those of the batch, "
            "which doesn't say where documents begin: let the collator return position_ids or seq_lens"
        )
    return placed


def _documents(feature: Mapping[str, Any], pad_id: int | None, *, only_lengths: bool) -> list[int]:
    """Return the lengths of the documents of a feature."""
    tokens = _tokens(feature)
    borders = {key: value for key, value in feature.items() if key in LENGTH_KEYS} if only_lengths else feature
    if tokens is None or not has_borders(borders):
        return [len(tokens or ())]
    row = read_batch(tokens)
    add_borders(row, borders, pad_id)
    starts = [at for at, is_start in enumerate(as_lists(row).row(0).starts or ()) if is_start or at == 0]
    return [stop - start for start, stop in pairwise([*starts, len(tokens)])]


def _tokens(feature: Mapping[str, Any]) -> list[int] | None:
    tokens: list[int] | None = as_nested(feature.get("input_ids"))
    return tokens


def _size(feature: Mapping[str, Any], keys: Sequence[str]) -> int:
    """Return the number of tokens of a feature, by its columns if it has no `input_ids`."""
    columns = [feature.get("input_ids"), *(feature.get(key) for key in keys if key in LEFT_OUT)]
    return next((len(column) for column in columns if column is not None), 0)


def _find_places(features: Sequence[list[int] | None], sizes: Sequence[int], rows: ListBatch) -> list[Place | None]:
    """Return the place of each feature, None where it cannot be told."""
    if len(features) == len(rows.ids):
        return [_find_in_row(feature, size, rows, row) for row, (feature, size) in enumerate(zip(features, sizes, strict=True))]
    together = [token for feature in features for token in feature or ()]
    if len(rows.ids) != 1 or len(together) != sum(sizes) or rows.ids[0][: len(together)] != together:
        return [None] * len(features)
    return [Place(0, sum(sizes[:index]), size) for index, size in enumerate(sizes)]


def _find_in_row(tokens: list[int] | None, size: int, rows: ListBatch, row: int) -> Place | None:
    """Return the one place of a row where a feature's tokens stand, or else its attended tokens, if they are as many."""
    ids, attention = rows.ids[row], None if rows.attention is None else rows.attention[row]
    ends = [start for start in dict.fromkeys((0, len(ids) - size)) if start >= 0]
    found = [start for start in ends if ids[start : start + size] == tokens]
    if len(found) != 1 and attention is not None:
        found = [start for start in ends if all(attention[start : start + size]) and sum(map(bool, attention)) == size]
    return Place(row, found[0], size) if len(found) == 1 or (found and size == 0) else None


def _spread(key: str, columns: Sequence[list[int]], places: Sequence[Place | None], rows: ListBatch) -> list[list[int]]:
    spread = [[LEFT_OUT[key]] * len(ids) for ids in rows.ids]
    for index, (values, place) in enumerate(zip(columns, places, strict=True)):
        if place is None or place.size != len(values):
            size = len(rows.ids[min(index, len(rows.ids) - 1)])
            raise misfit(key, len(values), f"feature {index} in the batch", size)
        spread[place.row][place.start : place.start + place.size] = values
    return spread


def _flags(columns: Sequence[list[bool]], rows: ListBatch) -> list[list[bool]]:
    """Return the flags per row: the turns of features that stand in one row follow one another."""
    return list(columns) if len(columns) == len(rows.ids) else [[flag for flags in columns for flag in flags]]


def _lengths(documents: Sequence[list[int]], places: Sequence[Place], rows: ListBatch) -> list[list[int]]:
    """Return the lengths of the documents of each row; what stands before the first feature, padding, has one too."""
    lengths: list[list[int]] = [[] for _ids in rows.ids]
    for place, of_feature in zip(places, documents, strict=True):
        lengths[place.row] += [place.start - sum(lengths[place.row]), *of_feature]
    return lengths

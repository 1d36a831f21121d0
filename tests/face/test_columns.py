"""Columns of rows in every form that tools make them in: the labels are those of the lists, and come back in the same form."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import rolemask
from rolemask.errors import InputError

_ = -100
MARKERS = rolemask.MarkerSet.from_role_boundaries(
    [
        {"role": "user", "start": {"ids": [1]}, "end": {"ids": [9]}},
        {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}},
    ]
)
MASKER = MARKERS.compile(on_empty="ignore")
ROWS = [[1, 5, 9, 2, 6, 9], [2, 7], [], [1, 5, 5, 9, 2, 2**40, 9]]
LABELS = [[_, _, _, _, 6, 9], [_, 7], [], [_, _, _, _, _, 2**40, 9]]


def object_array(rows: list[Any]) -> np.ndarray:
    made = np.empty(len(rows), dtype=object)
    made[:] = rows
    return made


def chunked(rows: list[list[int]]) -> pa.ChunkedArray:
    kind = pa.list_(pa.int64())
    return pa.chunked_array([pa.array(rows[:1], kind), pa.array([], kind), pa.array(rows[1:], kind)])


def of_arrow(column: Any) -> list[list[int]]:
    return column.to_pylist()


def by_row(column: Any) -> list[list[int]]:
    return [[int(value) for value in row] for row in column]


KINDS: dict[str, tuple[Callable[[list[list[int]]], Any], Callable[[Any], list[list[int]]]]] = {
    "lists": (list, list),
    "tuples": (lambda rows: tuple(map(tuple, rows)), by_row),
    "lists of np.int64": (lambda rows: [list(map(np.int64, row)) for row in rows], by_row),
    "arrays": (lambda rows: [np.array(row, dtype=np.int64) for row in rows], by_row),
    "tensors": (lambda rows: [torch.tensor(row, dtype=torch.int64) for row in rows], by_row),
    "an array of arrays": (lambda rows: object_array([np.array(row, dtype=np.int64) for row in rows]), by_row),
    "an array of lists": (object_array, by_row),
    "arrow": (lambda rows: pa.array(rows, pa.list_(pa.int64())), of_arrow),
    "a slice of arrow": (lambda rows: pa.array([[2, 3], *rows, [4]], pa.list_(pa.int64()))[1:-1], of_arrow),
    "large arrow": (lambda rows: pa.array(rows, pa.large_list(pa.int64())), of_arrow),
    "chunked arrow": (chunked, of_arrow),
    "pandas": (lambda rows: pd.Series(rows, index=[f"row {at}" for at in range(len(rows))], name="input_ids", dtype=object), by_row),
    "pandas on arrow": (lambda rows: pd.Series(rows, dtype=pd.ArrowDtype(pa.list_(pa.int64()))), by_row),
    "polars": (lambda rows: pl.Series("input_ids", rows, dtype=pl.List(pl.Int64)), by_row),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_labelled_and_comes_back(kind: str) -> None:
    make, read = KINDS[kind]
    column = make(ROWS)
    labels = MASKER(column)
    assert read(labels) == LABELS
    expected_type = list if kind == "tuples" else type(column)
    assert type(labels) is expected_type
    if kind not in ("lists", "tuples"):
        elements = zip(column, labels, strict=True)
        assert all(type(row) is type(own) for row, own in elements)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 2, 5, 9]), max_size=8), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_forms_agree(rows: list[list[int]], random: Any) -> None:
    """With a mask, roles, weights and the borders of documents too: each in a form of its own."""
    seen = [[random.choice([0, 1]) for _id in row] for row in rows]
    positions = [[random.choice([0, at]) for at in range(len(row))] for row in rows]
    expected = MASKER(rows, seen, position_ids=positions)
    roles = MASKER.role_ids(rows, seen, position_ids=positions)
    weights = MASKER.weights(rows, seen, role_weights={"assistant": 0.5}, position_ids=positions)
    for make, read in KINDS.values():
        mask, places = (random.choice([make for make, _read in KINDS.values()])(column) for column in (seen, positions))
        assert read(MASKER(make(rows), mask, position_ids=places)) == expected
        assert read(MASKER.role_ids(make(rows), mask, position_ids=places)) == roles
        found = MASKER.weights(make(rows), mask, role_weights={"assistant": 0.5}, position_ids=places)
        assert [[float(value) for value in row] for row in (found.to_pylist() if hasattr(found, "to_pylist") else found)] == weights


@pytest.mark.parametrize("kind", ["arrow", "numpy", "torch", "pandas", "polars", None])
@pytest.mark.parametrize("keys", [("input_ids",), ("input_ids", "attention_mask", "labels", "seq_lens")])
def test_datasets_of_every_format_are_mapped(kind: str | None, keys: tuple[str, ...]) -> None:
    columns = {
        "input_ids": [[1, 5, 9, 2, 6, 9], [2, 7], [1, 5, 9, 2, 6, 9]],
        "attention_mask": [[1] * 6, [1, 1], [1] * 6],
        "labels": [[_, _, _, _, 6, 9], [_, 7], [_, _, _, _, _, 9]],
        "seq_lens": [[6], [2], [3, 3]],
    }
    dataset = Dataset.from_dict({key: columns[key] for key in keys}).with_format(kind)
    mapped = dataset.map(MASKER.map_batch, batched=True, batch_size=2).with_format(None)
    expected = columns["labels"] if "labels" in keys else [*columns["labels"][:2], [_, _, _, _, 6, 9]]
    assert mapped["labels"][:] == expected
    assert set(mapped.column_names) == {*keys, "labels"}


def test_a_row_may_be_of_arrow_pandas_or_polars() -> None:
    row, labels = ROWS[0], LABELS[0]
    assert MASKER(pa.array(row)).to_pylist() == labels
    assert MASKER(pa.array(row, pa.int32())).type == pa.int32()
    assert MASKER(pd.Series(row, index=list("abcdef"))).to_dict() == dict(zip("abcdef", labels, strict=True))
    assert MASKER(pl.Series("ids", row)).to_list() == labels
    assert MASKER(list(map(np.int32, row))) == labels
    fixed = MASKER(pa.array([row, row], pa.list_(pa.int64(), 6)))
    assert (fixed.to_pylist(), fixed.type) == ([labels, labels], pa.list_(pa.int64(), 6))


def test_rows_of_several_kinds_keep_them() -> None:
    found = MASKER([ROWS[0], np.array(ROWS[1], dtype=np.int32), torch.tensor(ROWS[3])])
    assert [type(row) for row in found] == [list, np.ndarray, torch.Tensor]
    assert by_row(found) == [LABELS[0], LABELS[1], LABELS[3]]
    assert found[1].dtype == np.int32


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1, 2], None]), r"row 1 of input_ids is missing \(null\)"),
        (pa.array([[1, None]]), r"input_ids has a missing value \(null\), token 1 counted through all rows"),
        (pa.array([[1.5]]), "input_ids has the dtype float64, expected int32 or int64"),
        (pa.array(["text"]), "input_ids has the dtype object"),
        (pl.Series([[1], None]), "row 1 of input_ids is missing"),
        (pd.Series([[1], None]), "row 1 of input_ids is None"),
        (pd.Series([1.0, 2.0]), "dtype float64"),
        ([[1], np.array([[2]])], r"row 1 of input_ids has the shape \(1, 1\)"),
        ([[2**63]], "token 0 of row 0 of input_ids is 9223372036854775808, which is no 64-bit integer"),
    ],
)
def test_what_is_missing_or_no_integer_is_told(column: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MASKER(column)


def test_a_mask_of_other_rows_is_told() -> None:
    with pytest.raises(InputError, match=r"attention_mask has rows of lengths \[3\], expected those of input_ids, \[2\]"):
        MASKER(pa.array([[1, 2]]), pa.array([[1, 1, 1]]))


def test_a_table_keeps_its_columns_and_their_order() -> None:
    table = pa.table({"input_ids": ROWS, "labels": ROWS, "id": [0, 1, 2, 3]})
    found = MASKER.map_batch(table, labels="replace")
    assert found.column_names == ["input_ids", "labels", "id"]
    assert found["labels"].to_pylist() == LABELS
    with pytest.raises(InputError, match="expected a mapping, an Arrow table or a frame"):
        MASKER.map_batch([1])

"""A user's file: test_typing.py checks it with mypy and pyright against the installed wheel. It is never run."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import rolemask

markers = assert_type(rolemask.load("qwen3"), rolemask.MarkerSet)
assert_type(rolemask.detect(object(), fallback="media"), rolemask.MarkerSet)
assert_type(rolemask.available(), list[str])
assert_type(rolemask.verify(markers, None, "template.jinja"), list[rolemask.Verification])
assert_type(rolemask.verify(markers)[0].ok, bool)
derived = assert_type(rolemask.derive("template.jinja"), rolemask.DerivedMarkerSet)
assert_type(derived.markers, rolemask.MarkerSet)
assert_type(rolemask.check_files(["mine.yaml"]), list[rolemask.Problem])
assert_type(rolemask.MarkerSet.from_role_boundaries([{"role": "user", "start": "USER:"}]), rolemask.MarkerSet)

masker = assert_type(
    markers.compile(
        object(),
        train_on_inputs=False,
        roles_to_train=["assistant"],
        roles_to_mask=["user"],
        train_on_eos="turn",
        turns="last",
        on_empty="error",
        self_check="off",
        backend="host",
    ),
    rolemask.Masker,
)
assert_type(rolemask.Masker(markers, None), rolemask.Masker)
assert_type(masker.role_names, tuple[str, ...])

row: list[int] = [1, 2]
rows: list[list[int]] = [[1, 2]]
array: NDArray[np.int64] = np.zeros((1, 2), dtype=np.int64)
tensor: torch.Tensor = torch.zeros(1, 2)

assert_type(masker(row), list[int])
assert_type(masker([1, 2]), list[int])
assert_type(masker(rows, attention_mask=rows), list[list[int]])
assert_type(masker(array, array, position_ids=array), NDArray[np.int64])
assert_type(masker(tensor, tensor, cu_seqlens=[0, 2]), torch.Tensor)
assert_type(masker(tensor, seq_lens=[[2]], train_turns=[[True]]), torch.Tensor)

assert_type(masker.mask_(array, array, array), NDArray[np.int64])
assert_type(masker.mask_(tensor, tensor, attention_mask=tensor), torch.Tensor)

assert_type(masker.mask_(row, row), list[int])
assert_type(masker.mask_(rows, rows), list[list[int]])

assert_type(masker.role_ids(row), list[int])
assert_type(masker.role_ids(rows, rows), list[list[int]])
assert_type(masker.role_ids(array), NDArray[np.int8])
assert_type(masker.role_ids(tensor, tensor), torch.Tensor)

assert_type(masker.weights(row, role_weights={"assistant": 1}), list[float])
assert_type(masker.weights(rows, rows, role_weights={"assistant": 1.0}), list[list[float]])
assert_type(masker.weights(array, role_weights={"assistant": 1.0}), NDArray[np.float32])
assert_type(masker.weights(tensor, tensor, role_weights={"assistant": 1.0}), torch.Tensor)

assert_type(masker.explain(row), rolemask.Explanation)
assert_type(masker.explain(row).segments, tuple[rolemask.Segment, ...])
assert_type(masker.explain(rows), list[rolemask.Explanation])
assert_type(masker.explain(tensor), rolemask.Explanation | list[rolemask.Explanation])
assert_type(masker.report(row), rolemask.RowReport)
assert_type(masker.report(rows), list[rolemask.RowReport])
assert_type(masker.report(array), rolemask.RowReport | list[rolemask.RowReport])

(labels,) = masker.map_batch({"input_ids": rows}).values()
assert_type(labels, list[int] | list[list[int]] | NDArray[np.integer[Any]] | torch.Tensor)
policy_of_labels: rolemask.Labels = "refine"
masker.map_batch({"input_ids": rows}, labels=policy_of_labels)


def collate(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([feature["input_ids"] for feature in features])}


assert_type(rolemask.RoleMaskCollator(collate, masker)([{"input_ids": row}]), dict[str, torch.Tensor])

assert_type(rolemask.RoleMaskCollator(collate, masker, labels="replace")([{"input_ids": row}]), dict[str, torch.Tensor])

# What a type checker refuses. Unused ignores are errors, so each of these lines must be one.
masker(row, attn_mask=row)  # type: ignore[call-arg]
markers.compile(role_to_train=["user"])  # type: ignore[call-arg]
markers.compile(train_on_eos="trun")  # type: ignore[arg-type]
masker("text")  # type: ignore[type-var]

"""Packed rows, padding-free batches, padding on either side, truncation anywhere."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCABULARY, Case, cases, marker_sets, streams

import rolemask
from rolemask import InputError, MarkerSet, TokenIds
from rolemask.markers.spec import Marker

MARKERS = MarkerSet(
    "toy", "Toy", (Marker("user", (TokenIds((1,)),), (TokenIds((9,)),)), Marker("assistant", (TokenIds((2,)),), (TokenIds((9,)),)))
)
A, B = [2, 60, 9], [1, 50, 9, 2, 61, 62]
_ = -100


@settings(max_examples=300, deadline=None)
@given(cases(), st.lists(streams, min_size=1, max_size=4))
def test_a_packed_row_has_the_labels_of_its_documents_masked_alone(case: Case, parts: list[list[int]]) -> None:
    masker = case.markers.compile(VOCABULARY, on_empty="ignore", **case.policy_options)
    parts = [part for part in parts if part]
    row = [id_ for part in parts for id_ in part]
    labels = [masker(part) for part in parts]
    expected = [label for index, part in enumerate(labels) for label in ([_, *part[1:]] if index else part)]
    lengths = [len(part) for part in parts]
    positions = [at for length in lengths for at in range(length)]
    borders = np.cumsum([0, *lengths]).tolist()
    assert masker(row, seq_lens=lengths) == expected
    assert masker(row, position_ids=positions) == expected
    assert masker(row, cu_seqlens=borders) == expected
    tensor = torch.tensor([row], dtype=torch.int64)
    numbers = [index for index, length in enumerate(lengths, start=1) for _at in range(length)]
    attended = [masker(part, [1] * len(part)) for part in parts]  # with a mask, the pad id is not padding
    attended_row = [label for index, part in enumerate(attended) for label in ([_, *part[1:]] if index else part)]
    assert masker(row, numbers) == attended_row
    assert masker(np.array([row], dtype=np.int64).reshape(1, -1), np.array([numbers]).reshape(1, -1))[0].tolist() == attended_row
    device = case.markers.compile(VOCABULARY, on_empty="ignore", backend="device", **case.policy_options)
    assert device(tensor, torch.tensor([numbers], dtype=torch.int64))[0].tolist() == attended_row
    for documents in (
        {"position_ids": torch.tensor([positions], dtype=torch.int64)},
        {"cu_seqlens": torch.tensor(borders, dtype=torch.int32)},
        {"seq_lens": torch.tensor([[*lengths, 0, 0]])},
    ):
        assert masker(tensor, **documents)[0].tolist() == expected
    assert masker.role_ids(row, seq_lens=lengths) == [role for part in parts for role in masker.role_ids(part)]


@settings(max_examples=300, deadline=None)
@given(marker_sets(), streams, st.integers(0, 5), st.sampled_from(["left", "right"]))
def test_padding_on_either_side_changes_nothing(markers: MarkerSet, ids: list[int], count: int, side: str) -> None:
    masker = markers.compile(VOCABULARY, on_empty="ignore", roles_to_train=[markers.roles[0]])
    pad, mask = [VOCABULARY.pad_id] * count, [0] * count
    row, attention = (pad + ids, mask + [1] * len(ids)) if side == "left" else (ids + pad, [1] * len(ids) + mask)
    alone = masker(ids, [1] * len(ids))
    labels = masker(row, attention)
    assert labels == ([_] * count + alone if side == "left" else alone + [_] * count)


def test_no_turn_crosses_a_border_and_last_is_per_document() -> None:
    assert MARKERS.compile()([*B, *A, 60], seq_lens=[6, 4]) == [_, _, _, _, 61, 62, _, 60, 9, _]
    last = MARKERS.compile(turns="last", train_on_eos="last")
    assert last([*A, *A, *A], seq_lens=[6, 3]) == [_, _, _, _, 60, 9, _, 60, 9]


def test_the_first_label_of_a_further_document_is_masked() -> None:
    assert MARKERS.compile(train_on_inputs=True)([*A, *A], seq_lens=[3, 3]) == [2, 60, 9, _, 60, 9]


def test_padding_free_batches_of_transformers_are_split_by_their_positions() -> None:
    from transformers import DataCollatorWithFlattening

    collator = rolemask.RoleMaskCollator(DataCollatorWithFlattening(), MARKERS.compile())
    batch = collator([{"input_ids": B}, {"input_ids": A}])
    assert batch["input_ids"].tolist() == [[*B, *A]]
    assert batch["labels"].tolist() == [[_, _, _, _, 61, 62, _, 60, 9]]


def test_positions_with_three_axes_do_not_split_documents() -> None:
    batch = {"input_ids": torch.tensor([A]), "position_ids": torch.zeros(3, 1, 3, dtype=torch.int64)}
    assert MARKERS.compile().map_batch(batch)["labels"].tolist() == [[_, 60, 9]]
    assert MARKERS.compile().map_batch({"input_ids": [B], "position_ids": [[[0, 1, 2]] * 3]})["labels"] == [[_, _, _, _, 61, 62]]


@pytest.mark.parametrize("stop", range(1, 14))
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_trains_no_token_that_the_whole_row_does_not(stop: int, side: str) -> None:
    """In the middle of a marker or an image too. A cut on the left may lose an answer, but never train more."""
    markers = rolemask.load("gemma3")
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    text = "<bos><start_of_turn>user\n<start_of_image><image_soft_token><image_soft_token><end_of_image>Hi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n"
    tokenizer = ToyTokenizer(markers, [text])
    masker = markers.compile(tokenizer, on_empty="ignore")
    ids = tokenizer.encode(text)
    whole = masker(ids)
    if side == "right":
        assert masker(ids[:-stop]) == whole[:-stop]
    else:
        cut = masker(ids[stop:])
        assert all(label in (_, expected) for label, expected in zip(cut, whole[stop:], strict=True))


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"seq_lens": [3, 7]}, "seq_lens [3, 7] sums to 10, but the row has 9 tokens"),
        ({"seq_lens": [4, -1]}, "seq_lens has a negative length: [4, -1]"),
        ({"seq_lens": [[3], [3]]}, "seq_lens has 2 rows, but input_ids has 1"),
        ({"cu_seqlens": [1, 3]}, "cu_seqlens is [1, 3], expected ascending numbers from 0"),
        ({"cu_seqlens": [0, 5, 3]}, "cu_seqlens is [0, 5, 3], expected ascending numbers"),
        ({"cu_seqlens": [0, 50]}, "cu_seqlens ends at 50, but the row has 9 tokens"),
        ({"position_ids": [0, 1]}, "position_ids has rows of lengths [2], expected those of input_ids, [9]"),
        ({"position_ids": [0] * 9, "seq_lens": [9]}, "pass only one of position_ids, cu_seqlens, seq_lens; got position_ids and seq_lens"),
    ],
)
def test_wrong_documents_raise(documents: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        MARKERS.compile()([*B, *A], **documents)
    assert message in str(caught.value)


def test_cumulated_lengths_need_a_single_row() -> None:
    with pytest.raises(InputError, match="cu_seqlens is for one row of tokens, but input_ids has 2 rows"):
        MARKERS.compile()(torch.tensor([A, A]), cu_seqlens=[0, 3])


def test_positions_of_another_shape_raise() -> None:
    with pytest.raises(InputError, match=r"position_ids has the shape \(3, 1, 3\); expected the 2-D one"):
        MARKERS.compile()(torch.tensor([A]), position_ids=torch.zeros(3, 1, 3))


def test_flags_choose_the_turns_to_train() -> None:
    masker = MARKERS.compile()
    row = [*A, 1, 50, 9, *A, *A]
    expected = [_, 60, 9, _, _, _, _, _, _, _, 60, 9]
    assert masker(row, train_turns=[True, False, True]) == expected
    assert masker([row, A], train_turns=[[1, 0, 1], [0]]) == [expected, [_, _, _]]
    assert masker(torch.tensor([row]), train_turns=[[True, False, True]]).tolist() == [expected]
    assert masker.explain(row, train_turns=[True, False, True]).trained == 4
    last = MARKERS.compile(turns="last")
    assert last(row, train_turns=[True, True, False]) == [_, _, _, _, _, _, _, 60, 9, _, _, _]


@pytest.mark.parametrize("kind", [lambda rows: rows, torch.tensor, np.array])
def test_a_wrong_number_of_flags_raises_and_names_the_row(kind: Any) -> None:
    rows = kind([[*A, *A], [*A, *B[:3]]])
    with pytest.raises(InputError, match="train_turns has 2 flags for row 1, where 1 turns of assistant were found"):
        MARKERS.compile()(rows, train_turns=[[True, False], [True, False]])
    with pytest.raises(InputError, match="train_turns has 1 rows, expected a list of flags for each of the 2 rows"):
        MARKERS.compile()(rows, train_turns=[[True, False]])
    with pytest.raises(InputError, match="train_turns has 2 flags for row 1"):
        MARKERS.compile().report(rows, train_turns=[[True, False], [True, False]])


REASONING = MarkerSet(
    "toy",
    "Toy",
    (*MARKERS.markers, Marker("reasoning", (TokenIds((5,)),), (TokenIds((6,)),), within="assistant", follows_turn=True)),
)


def test_each_token_has_the_weight_of_its_role() -> None:
    masker = REASONING.compile()
    row = [1, 50, 9, 2, 5, 55, 6, 60, 9]
    assert masker.weights(row, role_weights={"assistant": 1.0, "reasoning": 0.5}) == [0, 0, 0, 0, 0.5, 0.5, 0.5, 1, 1]
    assert masker.weights(row, role_weights={"assistant": 2.0}) == [0, 0, 0, 0, 2, 2, 2, 2, 2]
    assert masker.weights(row, role_weights={"assistant": 1.0, "reasoning": 0.0}) == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert masker.weights(row, role_weights={"user": 0.25}) == [0, 0.25, 0.25, 0, 0, 0, 0, 0, 0]
    tensor = masker.weights(torch.tensor([row]), role_weights={"assistant": 1.0, "reasoning": 0.5})
    assert (tensor.dtype, tensor.tolist()) == (torch.float32, [[0, 0, 0, 0, 0.5, 0.5, 0.5, 1, 1]])
    assert masker(row) == [_, _, _, _, 5, 55, 6, 60, 9]  # weights leave the masker unchanged
    with pytest.raises(rolemask.PolicyError, match="the role 'asistant'"):
        masker.weights(row, role_weights={"asistant": 1.0})
    with pytest.raises(rolemask.PolicyError, match="expected weights of 0 or more"):
        masker.weights(row, role_weights={"assistant": -1.0})

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
from rolemask.masking.documents import as_nested

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


# Two documents of two turns, and the labels with turns="last": the last answer of each.
PACK = [*A, *A, *A, *A]
BORDERS: dict[str, Any] = {
    "position_ids": [[*range(6), *range(6)]],
    "seq_lens": [[6, 6]],
    "seq_lengths": [[6, 6]],
    "cu_seqlens": [0, 6, 12],
    "cu_seq_lens_q": [0, 6, 12],
    "seq_idx": [[0] * 6 + [1] * 6],
    "attention_mask": [[1] * 6 + [2] * 6],
}
LAST = [_, _, _, _, 60, 9, _, _, _, _, 60, 9]
KINDS: dict[str, Any] = {"list": list, "array": np.array, "tensor": torch.tensor}


@pytest.mark.parametrize("backend", ["auto", "device"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", BORDERS)
def test_borders_are_read_under_every_name(key: str, kind: str, backend: Any) -> None:
    masker = MARKERS.compile(turns="last", backend=backend)
    make = KINDS[kind]
    for value in (make(BORDERS[key]), BORDERS[key]):
        assert as_nested(masker.map_batch({"input_ids": make([PACK]), key: value})["labels"]) == [LAST]
    one_row = BORDERS[key] if key.startswith("cu_") else BORDERS[key][0]
    assert as_nested(masker.map_batch({"input_ids": make(PACK), key: make(one_row)})["labels"]) == LAST
    others = {"cu_seq_lens_k": [0, 12], "max_length_q": 12, "max_seqlen": 6, "text": ["a"]}
    assert as_nested(masker.map_batch({"input_ids": make([PACK]), **others})["labels"]) == [[_] * 10 + [60, 9]]


def test_columns_of_a_dataset_hold_borders_per_row() -> None:
    masker = MARKERS.compile(turns="last")
    rows = {
        "input_ids": [PACK, A],
        "seq_lengths": [[6, 6], [3]],
        "cu_seqlens": [[0, 6, 12], [0, 3]],
        "seq_idx": [[4] * 6 + [7] * 6, [0] * 3],
    }
    assert masker.map_batch(rows)["labels"] == [LAST, [_, 60, 9]]


# The places of an image's four tokens in a document of 9 and in one of 3: text before, rows and columns, text after.
IMAGE_POSITIONS = [
    [0, 1, 2, 2, 2, 2, 4, 5, 6, 0, 1, 2],
    [0, 1, 2, 2, 3, 3, 4, 5, 6, 0, 1, 2],
    [0, 1, 2, 3, 2, 3, 4, 5, 6, 0, 1, 2],
]
WITH_IMAGE = [1, 50, 50, 50, 50, 50, *A, *A]
TWO_ANSWERS = [_] * 7 + [60, 9, _, 60, 9]


@pytest.mark.parametrize("backend", ["auto", "device"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [IMAGE_POSITIONS, [[*range(9), *range(3)], *IMAGE_POSITIONS]], ids=["three", "four"])
def test_positions_of_several_axes_begin_a_document_where_all_begin_anew(axes: list[list[int]], kind: str, backend: Any) -> None:
    masker = MARKERS.compile(turns="last", backend=backend)
    make = KINDS[kind]
    positions = [[axis, [*range(12)]] for axis in axes]
    one_document = [_] * 10 + [60, 9]
    labels = masker(make([WITH_IMAGE, WITH_IMAGE]), position_ids=make(positions))
    assert as_nested(labels) == [TWO_ANSWERS, one_document]
    assert as_nested(masker(make(WITH_IMAGE), position_ids=make(axes))) == TWO_ANSWERS
    batch = {"input_ids": make([WITH_IMAGE, WITH_IMAGE]), "position_ids": make(positions)}
    assert as_nested(masker.map_batch(batch)["labels"]) == [TWO_ANSWERS, one_document]


def test_the_rows_of_a_dataset_have_axes_of_their_own() -> None:
    masker = MARKERS.compile(turns="last")
    rows = {"input_ids": [WITH_IMAGE, A], "position_ids": [IMAGE_POSITIONS, [[0, 1, 2]] * 3]}
    assert masker.map_batch(rows)["labels"] == [TWO_ANSWERS, [_, 60, 9]]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_positions_of_three_axes_agree_on_all_paths(data: st.DataObject) -> None:
    count, size = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 8))
    numbers = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    axes = [[data.draw(numbers) for _row in range(count)] for _axis in range(data.draw(st.sampled_from([3, 4])))]
    ids = [data.draw(st.lists(st.sampled_from([1, 2, 9, 60]), min_size=size, max_size=size)) for _row in range(count)]
    host, device = (MARKERS.compile(turns="last", on_empty="ignore", backend=backend) for backend in ("host", "device"))
    labels = host(ids, position_ids=axes)
    tensor, positions = torch.tensor(ids).reshape(count, size).long(), torch.tensor(axes).reshape(len(axes), count, size)
    assert host(tensor, position_ids=positions).tolist() == labels
    assert device(tensor, position_ids=positions).tolist() == labels


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
        {"return_position_ids": False, "return_seq_idx": True},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True},
    ],
)
def test_padding_free_batches_of_transformers_train_the_last_answer_of_each_document(options: dict[str, bool]) -> None:
    from transformers import DataCollatorWithFlattening

    collator = rolemask.RoleMaskCollator(DataCollatorWithFlattening(**options), MARKERS.compile(turns="last"))
    batch = collator([{"input_ids": [*A, *A]}, {"input_ids": [*A, *A]}])
    assert batch["labels"].tolist() == [LAST]


def test_packed_datasets_and_padding_free_batches_of_trl_train_the_last_answer_of_each_document() -> None:
    from datasets import Dataset
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    masker = MARKERS.compile(turns="last")
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[*A, *A], [*A, *A]]}), 12)
    assert packed.map(masker.map_batch, batched=True)["labels"][:] == [LAST]
    collator = rolemask.RoleMaskCollator(DataCollatorForLanguageModeling(0, padding_free=True, pad_to_multiple_of=8), masker)
    assert collator([*packed])["labels"].tolist() == [[*LAST, _, _, _, _]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seq_lens": [[3, 9]], "position_ids": [[*range(6)] * 2]}, "by seq_lens, a document begins at token 3 of row 0, and by position_ids"),
        ({"seq_lengths": [[6, 6]], "cu_seqlens": [0, 6, 9, 12]}, "by cu_seqlens, a document begins at token 9 of row 0, and by seq_lengths"),
        ({"cu_seq_lens_q": [0, 12], "seq_idx": [[0] * 6 + [1] * 6]}, "cu_seq_lens_q and seq_idx disagree: by seq_idx, a document begins at token 6"),
        ({"attention_mask": [[1] * 3 + [2] * 9], "seq_lens": [[6, 6]]}, "by attention_mask, a document begins at token 3 of row 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_borders_that_disagree_raise(keys: dict[str, Any], message: str, make: Any) -> None:
    with pytest.raises(InputError) as caught:
        MARKERS.compile().map_batch({"input_ids": make([PACK]), **{key: make(value) for key, value in keys.items()}})
    assert message in str(caught.value)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_positions_of_an_unpacked_row_and_padding_disagree_with_nothing(make: Any) -> None:
    masker = MARKERS.compile(turns="last")
    ids, lengths, expected = make([PACK, [*A, *A, *[0] * 6]]), [[6, 6], [6]], [LAST, [*LAST[:6], *[_] * 6]]
    batch = {"input_ids": ids, "seq_lens": lengths, "position_ids": make([[*range(12)]] * 2)}
    assert as_nested(masker.map_batch(batch)["labels"]) == expected
    batch |= {"position_ids": make([[*range(6)] * 2, [*range(6), *[0] * 6]]), "attention_mask": make([[1] * 12, [1] * 6 + [0] * 6])}
    assert as_nested(masker.map_batch(batch)["labels"]) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seq_lengths": [[6, 7]]}, "seq_lengths [6, 7] sums to 13, but the row has 12 tokens"),
        ({"seq_lengths": [[6, 6], [12]]}, "seq_lengths has 2 rows, but input_ids has 1"),
        ({"seq_lens": [["a"]]}, "seq_lens is [['a']], expected whole numbers"),
        ({"cu_seq_lens_q": [0, 13]}, "cu_seq_lens_q ends at 13, but the row has 12 tokens"),
        ({"cu_seq_lens_q": [6, 12]}, "cu_seq_lens_q is [6, 12], expected ascending numbers from 0"),
        ({"cu_seqlens": [0, 64]}, "cu_seqlens ends at 64, but the row has 12 tokens"),
        ({"seq_idx": [[0] * 6]}, "seq_idx has rows of lengths [6], expected those of input_ids, [12]"),
        ({"position_ids": [[0] * 6]}, "position_ids has rows of lengths [6], expected those of input_ids, [12]"),
        ({"position_ids": [[[*range(12)]]] * 2}, "position_ids has 2 axes per token, expected one, three or four"),
    ],
)
def test_a_key_that_announces_packing_and_cannot_be_used_raises(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        MARKERS.compile().map_batch({"input_ids": [PACK], **keys})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"position_ids": torch.zeros(2, 1, 12)}, "position_ids has the shape (2, 1, 12), expected that of input_ids, (1, 12), or three"),
        ({"seq_idx": torch.zeros(12)}, "seq_idx has the shape (12,), expected that of input_ids, (1, 12)"),
        ({"seq_lens": torch.tensor([[6, 6], [6, 6]])}, "seq_lens has 2 rows, but input_ids has 1"),
        ({"cu_seq_lens_q": torch.tensor([0.0, 12.0])}, "expected whole numbers"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "device"])
def test_a_tensor_that_announces_packing_and_cannot_be_used_raises(keys: dict[str, Any], message: str, backend: Any) -> None:
    with pytest.raises(InputError) as caught:
        MARKERS.compile(backend=backend).map_batch({"input_ids": torch.tensor([PACK]), **keys})
    assert message in str(caught.value)


def test_the_patches_of_images_are_no_borders() -> None:
    masker = MARKERS.compile(turns="last")
    images = {"pixel_values": torch.zeros(1), "cu_seqlens": torch.tensor([0, 4, 64])}
    assert masker.map_batch({"input_ids": torch.tensor([PACK]), **images})["labels"].tolist() == [[_] * 10 + [60, 9]]
    assert masker.map_batch({"input_ids": torch.tensor([A, A]), **images})["labels"].tolist() == [[_, 60, 9]] * 2
    packed = images | {"cu_seqlens": torch.tensor([0, 6, 12])}
    assert masker.map_batch({"input_ids": torch.tensor([PACK]), **packed})["labels"].tolist() == [LAST]


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


@pytest.mark.parametrize("backend", ["auto", "device"])
def test_positions_of_another_shape_raise(backend: Any) -> None:
    with pytest.raises(InputError, match=r"position_ids has the shape \(2, 1, 3\), expected that of input_ids, \(1, 3\), or three or four"):
        MARKERS.compile(backend=backend)(torch.tensor([A]), position_ids=torch.zeros(2, 1, 3))


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

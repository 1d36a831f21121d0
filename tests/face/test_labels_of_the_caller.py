"""Labels, masks and flags that came with the data: they win, through the collators of the frameworks too."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCABULARY, Case, cases
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
)

import rolemask
from rolemask import InputError, MarkerSet, PolicyError, TokenIds
from rolemask.markers.spec import Marker
from rolemask.masking.documents import as_nested

MARKERS = MarkerSet(
    "toy", "Toy", (Marker("user", (TokenIds((1,)),), (TokenIds((9,)),)), Marker("assistant", (TokenIds((2,)),), (TokenIds((9,)),)))
)
_ = -100
ROW = [1, 50, 9, 2, 60, 61, 9, 2, 62, 9]
LABELS = [_, _, _, _, 60, 61, 9, _, 62, 9]
# Each leaves something else out.
OWN_LABELS = [1, 50, 9, 2, _, 61, 9, 2, 62, _]
COMPLETION = [0, 0, 0, 1, 1, 1, 1, 1, 0, 1]
ASSISTANT = [0, 0, 0, 0, 1, 0, 1, 0, 1, 1]
COLUMNS: dict[str, Any] = {"labels": OWN_LABELS, "completion_mask": COMPLETION, "assistant_masks": ASSISTANT, "train_turns": [False, True]}
REFINED = {
    "labels": [_, _, _, _, _, 61, 9, _, 62, _],
    "completion_mask": [_, _, _, _, 60, 61, 9, _, _, 9],
    "assistant_masks": [_, _, _, _, 60, _, 9, _, 62, 9],
    "train_turns": [_, _, _, _, _, _, _, _, 62, 9],
}
KINDS: dict[str, Any] = {"list": list, "array": np.array, "tensor": torch.tensor}


@pytest.mark.parametrize("backend", ["auto", "device"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", COLUMNS)
def test_what_a_batch_leaves_out_is_not_trained(key: str, kind: str, backend: Any) -> None:
    masker = MARKERS.compile(backend=backend)
    make = KINDS[kind]
    batch = {"input_ids": make([ROW, ROW]), key: [COLUMNS[key]] * 2}
    labels = masker.map_batch(batch)["labels"]
    assert type(labels) is type(batch["input_ids"])
    assert as_nested(labels) == [REFINED[key]] * 2
    assert getattr(labels, "dtype", None) == getattr(batch["input_ids"], "dtype", None)
    assert as_nested(masker.map_batch({"input_ids": make(ROW), key: COLUMNS[key]})["labels"]) == REFINED[key]
    assert as_nested(masker.map_batch(batch | {key: make(batch[key])})["labels"]) == [REFINED[key]] * 2
    assert as_nested(masker.map_batch(batch, labels="replace")["labels"]) == [LABELS] * 2
    if key != "train_turns":
        assert as_nested(masker.map_batch(batch, labels="refine")["labels"]) == [REFINED[key]] * 2
    assert as_nested(masker.map_batch(batch | {key: None})["labels"]) == [LABELS] * 2
    assert as_nested(masker.map_batch(batch | {key: [None, None]})["labels"]) == [LABELS] * 2


def test_all_columns_count_together() -> None:
    batch = {"input_ids": [ROW], **{key: [column] for key, column in COLUMNS.items()}}
    together = [label if all(refined[at] != _ for refined in REFINED.values()) else _ for at, label in enumerate(LABELS)]
    assert MARKERS.compile(on_empty="ignore").map_batch(batch)["labels"] == [together]


@settings(max_examples=200, deadline=None)
@given(cases(), st.data())
def test_refined_labels_are_the_own_and_the_trained_ones(case: Case, data: st.DataObject) -> None:
    masker = case.markers.compile(VOCABULARY, on_empty="ignore", **case.policy_options)
    own = [[data.draw(st.sampled_from([_, id_])) for id_ in row] for row in case.rows]
    batch = {"input_ids": case.rows, "attention_mask": case.attention}
    trained = masker(case.rows, case.attention)
    expected = [[label if mine != _ else _ for label, mine in zip(*rows, strict=True)] for rows in zip(trained, own, strict=True)]
    assert masker.map_batch(batch | {"labels": own})["labels"] == expected
    tensor = torch.tensor(case.rows, dtype=torch.int64).reshape(len(case.rows), -1)
    attention = None if case.attention is None else torch.tensor(case.attention).reshape(tensor.shape)
    tensors = {"input_ids": tensor, "attention_mask": attention, "labels": torch.tensor(own, dtype=torch.int64).reshape(tensor.shape)}
    assert as_nested(masker.map_batch(tensors)["labels"]) == expected
    assert masker.mask_([[*row] for row in own], case.rows, case.attention) == expected


def test_a_dataset_keeps_what_its_labels_leave_out() -> None:
    from datasets import Dataset

    masker = MARKERS.compile()
    dataset = Dataset.from_dict({"input_ids": [ROW, ROW[3:]], "labels": [OWN_LABELS, OWN_LABELS[3:]]})
    refined = dataset.map(masker.map_batch, batched=True)
    assert refined["labels"][:] == [REFINED["labels"], REFINED["labels"][3:]]
    assert refined.map(masker.map_batch, batched=True)["labels"][:] == refined["labels"][:]
    replaced = dataset.map(masker.map_batch, batched=True, fn_kwargs={"labels": "replace"})
    assert replaced["labels"][:] == [LABELS, LABELS[3:]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_from_before_padding_are_placed_by_the_attention_mask(side: str) -> None:
    pads = [0, 0, 0]
    ids, mask, expected = [*ROW, *pads], [1] * 10 + pads, [*REFINED["labels"], _, _, _]
    if side == "left":
        ids, mask, expected = [*pads, *ROW], [*pads, *[1] * 10], [_, _, _, *REFINED["labels"]]
    for make in KINDS.values():
        batch = {"input_ids": make([ids]), "attention_mask": make([mask]), "labels": [OWN_LABELS]}
        assert as_nested(MARKERS.compile().map_batch(batch)["labels"]) == [expected]
    with pytest.raises(InputError, match=r"labels has 10 values for the 13 tokens of row 0, and nothing says which .*labels=\"replace\""):
        MARKERS.compile().map_batch({"input_ids": [ids], "labels": [OWN_LABELS]})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [5]}, "labels is one row of values, and input_ids is not"),
        ({"labels": [OWN_LABELS] * 2}, "labels has another number of rows than input_ids, which has 1"),
        ({"completion_mask": [[1] * 11]}, "completion_mask has 11 values for the 10 tokens of row 0"),
        (
            {"assistant_masks": [[0] * 10]},
            "assistant_masks of row 0 is 0 everywhere, where 5 tokens would be trained: Transformers makes such",
        ),
        ({"train_turns": [[True]]}, "train_turns has 1 flags for row 0"),
    ],
)
@pytest.mark.parametrize("make", [list, torch.tensor])
def test_columns_that_cannot_be_used_raise(batch: dict[str, Any], message: str, make: Any) -> None:
    with pytest.raises(InputError) as caught:
        MARKERS.compile().map_batch({"input_ids": make([ROW]), **batch})
    assert message in str(caught.value)


def test_an_assistant_mask_of_zeros_is_right_where_nothing_is_trained() -> None:
    rows = {"input_ids": [ROW, ROW[:3]], "assistant_masks": [ASSISTANT, [0, 0, 0]]}
    assert MARKERS.compile(on_empty="ignore").map_batch(rows)["labels"] == [REFINED["assistant_masks"], [_, _, _]]


def test_the_word_for_labels_is_checked() -> None:
    masker = MARKERS.compile()
    with pytest.raises(PolicyError, match="labels is 'refin', expected one of 'auto', 'refine', 'replace'"):
        masker.map_batch({"input_ids": [ROW]}, labels="refin")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="labels is 'keep'"):
        rolemask.RoleMaskCollator(dict, masker, labels="keep")  # type: ignore[arg-type, type-var]
    with pytest.raises(InputError, match='labels="refine", and the batch has none of labels, completion_mask, assistant_masks'):
        masker.map_batch({"input_ids": [ROW]}, labels="refine")


def test_the_log_says_once_what_the_labels_of_the_data_take_away(caplog: pytest.LogCaptureFixture) -> None:
    masker = MARKERS.compile()
    batch = {"input_ids": [ROW], "labels": [OWN_LABELS]}
    with caplog.at_level(logging.INFO, "rolemask"):
        caplog.clear()
        masker.map_batch({"input_ids": [ROW], "labels": [ROW]})
        assert not caplog.records
        masker.map_batch(batch)
        masker.map_batch(batch)
        assert len(caplog.records) == 1
        message = caplog.records[0].getMessage()
        assert "leave out 2 of the 5 tokens that are trained in this batch, 1 of the 2 stop tokens among them" in message
        pickle.loads(pickle.dumps(masker)).map_batch(batch)
        assert len(caplog.records) == 2


def test_a_row_that_the_labels_of_the_data_empty_is_told_with_this_reason(caplog: pytest.LogCaptureFixture) -> None:
    MARKERS.compile().map_batch({"input_ids": [ROW], "labels": [[_] * 10]})
    assert "row 0 (of 0..0) trains nothing: the labels or masks that came with the data leave out its 5 tokens" in caplog.text


CHATS = [
    "<|im_start|>user\nHello there.<|im_end|>\n<|im_start|>assistant\nHello world<|im_end|>\n",
    "<|im_start|>assistant\nthere.<|im_end|>\n<|im_start|>user\nHello hello<|im_end|>\n<|im_start|>assistant\nworld hello there.<|im_end|>\n",
]


@pytest.fixture(params=["<|pad|>", "<|im_end|>"])
def tokenizer(request: pytest.FixtureRequest, small_tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_tokenizer_folder, pad_token=request.param)


def base_collators(tokenizer: Any) -> dict[str, Any]:
    from trl.trainer import sft_trainer

    pad_id = tokenizer.pad_token_id
    return {
        "padding": DataCollatorWithPadding(tokenizer),
        "padding to a length": DataCollatorWithPadding(tokenizer, padding="max_length", max_length=60),
        "language modelling": DataCollatorForLanguageModeling(tokenizer, mlm=False),
        "sequence to sequence": DataCollatorForSeq2Seq(tokenizer),
        "flattening": DataCollatorWithFlattening(),
        "flattening without borders": DataCollatorWithFlattening(return_position_ids=False),
        "trl": sft_trainer.DataCollatorForLanguageModeling(pad_id),
        "trl, padding-free": sft_trainer.DataCollatorForLanguageModeling(pad_id, padding_free=True, pad_to_multiple_of=16),
        "a function": lambda features: tokenizer.pad([{"input_ids": feature["input_ids"]} for feature in features], return_tensors="pt"),
    }


COLLATORS = [*base_collators(type("Any", (), {"pad_token_id": 0}))]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", COLLATORS)
@pytest.mark.parametrize("key", ["labels", "completion_mask", "assistant_masks", "train_turns", None])
def test_columns_of_features_follow_their_tokens_through_real_collators(tokenizer: Any, name: str, side: str, key: str | None) -> None:
    tokenizer.padding_side = side
    masker = rolemask.load("chatml").compile(tokenizer)
    features: list[dict[str, Any]] = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in map(tokenizer.encode, CHATS)]
    alone = [masker(feature["input_ids"], feature["attention_mask"]) for feature in features]
    for feature, labels in zip(features, alone, strict=True):
        # Of each answer the first token is left out, of the first feature's only the stop token stays.
        kept = [int(label != _ and before != _) for before, label in zip([_, *labels], labels, strict=False)]
        if key == "train_turns":
            feature[key] = [False, True] if feature is features[1] else [True]
        elif key == "labels":
            feature[key] = [id_ if keep else _ for id_, keep in zip(feature["input_ids"], kept, strict=True)]
        elif key is not None:
            feature[key] = kept
    expected = [masker.map_batch({name: [value] for name, value in feature.items()})["labels"][0] for feature in features]  # type: ignore[index]
    assert (expected == alone) == (key is None)
    asked = {"replace": alone, "auto": expected} if key else {"auto": alone}
    for word, labels in asked.items():
        batch = rolemask.RoleMaskCollator(base_collators(tokenizer)[name], masker, labels=word)(features)  # type: ignore[arg-type]
        trained = [row[row != _].tolist() for row in batch["labels"]]
        each = [[label for label in row if label != _] for row in labels]
        assert trained == (each if len(trained) > 1 else [each[0] + each[1]])
        assert (batch["labels"][batch["labels"] != _] == batch["input_ids"][batch["labels"] != _]).all()
        assert set(features[0]) == {"input_ids", "attention_mask", key} - {None}  # the caller's features are left alone


def test_labels_of_a_base_collator_count_when_told_to(tokenizer: Any) -> None:
    masker = rolemask.load("chatml").compile(tokenizer)
    features = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in map(tokenizer.encode, CHATS)]

    def without_the_first_row(features: list[dict[str, Any]]) -> Any:
        batch = tokenizer.pad(features, return_tensors="pt")
        batch["labels"] = batch["input_ids"].clone()
        batch["labels"][0] = _
        return batch

    auto = rolemask.RoleMaskCollator(without_the_first_row, masker)(features)["labels"]
    told = rolemask.RoleMaskCollator(without_the_first_row, masker, labels="refine")(features)["labels"]
    assert (auto[0] != _).any()
    assert (told[0] == _).all()
    assert (told[1] == auto[1]).all()
    with pytest.raises(InputError, match='labels="refine", and the batch has none of labels'):
        rolemask.RoleMaskCollator(DataCollatorWithPadding(tokenizer), masker, labels="refine")(features)


def test_masks_that_a_base_collator_made_count() -> None:
    def collate(features: list[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([ROW]), "assistant_masks": torch.tensor([ASSISTANT])}

    collator = rolemask.RoleMaskCollator(collate, MARKERS.compile())
    assert collator([{"messages": []}])["labels"].tolist() == [REFINED["assistant_masks"]]


def test_labels_from_before_media_were_expanded_raise() -> None:
    def expand(features: list[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[7, 7, *feature["input_ids"], 0] for feature in features])}

    for features in (
        [{"input_ids": ROW, "labels": OWN_LABELS}],
        [{"input_ids": ROW, "train_turns": [True, True], "completion_mask": COMPLETION}],
    ):
        with pytest.raises(InputError, match=r"has 10 values for the 13 tokens of feature 0 in the batch, and nothing says which"):
            rolemask.RoleMaskCollator(expand, MARKERS.compile())(features)
        replaced = rolemask.RoleMaskCollator(expand, MARKERS.compile(), labels="replace")(features)
        assert replaced["labels"].tolist() == [[_, _, *LABELS, _]]
    flags_only = rolemask.RoleMaskCollator(expand, MARKERS.compile())([{"input_ids": ROW, "train_turns": [False, True]}])
    assert flags_only["labels"].tolist() == [[_, _, *REFINED["train_turns"], _]]


def test_features_with_and_without_labels_raise() -> None:
    collator = rolemask.RoleMaskCollator(DataCollatorWithFlattening(), MARKERS.compile())
    with pytest.raises(InputError, match="feature 1 has completion_mask=None, expected a list: give every feature one, or none"):
        collator([{"input_ids": ROW, "completion_mask": COMPLETION}, {"input_ids": ROW}])
    with pytest.raises(InputError, match="feature 0 has labels=3, expected a list"):
        rolemask.RoleMaskCollator(lambda features: {"input_ids": [ROW]}, MARKERS.compile())([{"input_ids": ROW, "labels": 3}])


PACK, ONE_OF_EACH = [*ROW[3:], *ROW[3:]], [*[_] * 5, 62, 9, *[_] * 5, 62, 9]


@pytest.mark.parametrize("side", ["left", "right"])
def test_borders_of_features_count_where_the_collator_drops_them(tokenizer: Any, side: str) -> None:
    tokenizer.padding_side = side
    masker = MARKERS.compile(turns="last")
    features = [{"input_ids": PACK, "seq_lengths": [7, 7]}, {"input_ids": [*PACK, *ROW[3:]], "seq_lengths": [7, 7, 7]}]
    batch = rolemask.RoleMaskCollator(DataCollatorWithPadding(tokenizer), masker)(features)
    pads = [_] * 7
    assert batch["labels"].tolist() == [
        [*pads, *ONE_OF_EACH] if side == "left" else [*ONE_OF_EACH, *pads],
        [*ONE_OF_EACH, *ONE_OF_EACH[:7]],
    ]


def test_features_in_one_row_are_its_documents() -> None:
    collator = rolemask.RoleMaskCollator(DataCollatorWithFlattening(return_position_ids=False), MARKERS.compile(turns="last"))
    assert collator([{"input_ids": ROW[3:]}, {"input_ids": ROW[3:]}])["labels"].tolist() == [ONE_OF_EACH]


def test_features_that_are_not_found_in_one_row_are_no_documents() -> None:
    def join(features: list[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[7, *features[0]["input_ids"], 7, *features[1]["input_ids"]]])}

    collator = rolemask.RoleMaskCollator(join, MARKERS.compile(turns="last"))
    assert collator([{"input_ids": ROW[3:]}, {"input_ids": ROW[3:]}])["labels"].tolist() == [[*[_] * 14, 62, 9]]


def test_a_collator_that_forgets_the_borders_of_its_features_is_told() -> None:
    collator = rolemask.RoleMaskCollator(DataCollatorWithFlattening(), MARKERS.compile())
    with pytest.raises(InputError, match=r"by seq_lengths, a document begins at token 7 of row 0, and by position_ids none does"):
        collator([{"input_ids": PACK, "seq_lengths": [7, 7]}, {"input_ids": PACK, "seq_lengths": [14]}])

    def expand(features: list[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[7, 7, *feature["input_ids"], 0] for feature in features])}

    with pytest.raises(InputError, match=r"feature 0 packs documents, or stands .* its tokens are not those of the batch"):
        rolemask.RoleMaskCollator(expand, MARKERS.compile())([{"input_ids": PACK, "seq_lengths": [7, 7]}])

"""Axolotl's `role_boundaries`, as its users write them."""

from typing import Any

import pytest

import rolemask
from rolemask import MarkerSet, MarkerSetError, TokenIds
from rolemask.markers.spec import EndWord
from rolemask.matching.toy_tokenizer import ToyTokenizer

CHATML = [
    {"role": "user", "start": "<|im_start|>user\n", "end": "<|im_end|>"},
    {"role": "assistant", "start": "<|im_start|>assistant\n", "end": "<|im_end|>", "include_start": True, "include_end": False},
]


def test_they_replace_the_built_in_markers_wholesale_and_keep_the_media() -> None:
    base = rolemask.load("qwen2_vl")
    markers = MarkerSet.from_role_boundaries(CHATML, base)
    assert markers.roles == ("user", "assistant")
    assert markers.media == base.media
    tokenizer = ToyTokenizer(base)
    text = "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\nYes<|im_end|>"
    labels = markers.compile(tokenizer)(tokenizer.encode(text))
    assert bytes(label for label in labels if 0 <= label < 256).decode() == "assistant\nYes"


@pytest.mark.parametrize("unset", [None, []])
def test_unset_and_empty_fall_back_to_the_built_in_markers(unset: Any) -> None:
    base = rolemask.load("chatml")
    assert MarkerSet.from_role_boundaries(unset, base) is base
    with pytest.raises(MarkerSetError, match="no marker set to fall back to"):
        MarkerSet.from_role_boundaries(unset)


def test_the_forms_of_an_end() -> None:
    ends: list[Any] = ["</s>", "eos_token", None, {"ids": [1, 2]}]
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": f"<{i}>", "end": end} for i, end in enumerate(ends)])
    assert [marker.end for marker in markers.markers] == [("</s>",), (EndWord.EOS_TOKEN,), (), (TokenIds((1, 2)),)]
    assert MarkerSet.from_role_boundaries([{"role": "assistant", "start": "<a>"}]).markers[0].end == ()


def test_an_excluded_end_rewinds_so_that_it_can_start_the_next_turn() -> None:
    markers = MarkerSet.from_role_boundaries(
        [
            {"role": "user", "start": {"ids": [3]}, "end": {"ids": [4]}, "include_end": False},
            {"role": "assistant", "start": {"ids": [4]}, "end": {"ids": [2]}},
        ]
    )
    assert markers.compile(train_on_eos="all")([3, 50, 4, 60, 2]) == [-100, -100, -100, 60, 2]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"start": "x"}, "role_boundaries[1]: the key 'role' is missing or empty"),
        ({"role": "user"}, "role_boundaries[1]: the key 'start' is missing or empty"),
        ({"role": "user", "start": ""}, "role_boundaries[1]: the key 'start' is missing or empty"),
        ({"role": "user", "start": "x", "ends": "y"}, "role_boundaries[1]: found the unknown key 'ends' (did you mean 'end'?)"),
        ({"role": "user", "start": "x", "end": 5}, "role_boundaries[1]: 'end' is 5, expected text or {ids: [...]}"),
        ({"role": "user", "start": {"ids": [-1]}}, "role_boundaries[1]: 'start' is {'ids': [-1]}, expected text or {ids: [...]}"),
        ({"role": "user", "start": "x", "include_end": "yes"}, "role_boundaries[1]: 'include_end' is 'yes', expected true or false"),
        ("user", "role_boundaries[1]: found 'user', expected {role, start, end}"),
    ],
)
def test_a_wrong_entry_is_named(entry: Any, message: str) -> None:
    with pytest.raises(MarkerSetError) as caught:
        MarkerSet.from_role_boundaries([CHATML[0], entry])
    assert str(caught.value).startswith(message)


def test_one_mapping_is_no_list() -> None:
    with pytest.raises(MarkerSetError, match="found a dict, expected a list"):
        MarkerSet.from_role_boundaries(CHATML[0])  # type: ignore[arg-type]


def test_a_marker_that_cannot_be_spelled_names_its_entry() -> None:
    from rolemask.matching.vocabulary import Vocabulary

    markers = MarkerSet.from_role_boundaries([CHATML[0], {"role": "assistant", "start": "ÄÖ", "end": None}])
    with pytest.raises(rolemask.TokenizerMismatchError, match=r"role_boundaries\[1\]: the 'assistant' marker 'ÄÖ'"):
        markers.compile(Vocabulary("toy", {1: b"user", 2: b"\n"}, {"<|im_start|>": 3, "<|im_end|>": 4}))


def test_ids_that_the_tokenizer_does_not_have_are_told() -> None:
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [5, 999999]}, "end": None}])
    with pytest.raises(rolemask.TokenizerMismatchError, match=r"role_boundaries\[0\].*ids that .* does not have: \[999999\]"):
        markers.compile(ToyTokenizer(rolemask.load("chatml")))

"""Axolotl's `role_boundaries`, as its users write them."""

from types import SimpleNamespace
from typing import Any

import pytest

import rolemask
from rolemask import MarkerSet, MarkerSetError, TokenIds
from rolemask.markers.spec import EndWord, Marker
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary

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
    ends: list[Any] = ["</s>", "eos_token", None, {"ids": [1, 2]}, "next_start"]
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": f"<{i}>", "end": end} for i, end in enumerate(ends)])
    assert [marker.end for marker in markers.markers] == [("</s>",), (EndWord.EOS_TOKEN,), (), (TokenIds((1, 2)),), (EndWord.NEXT_START,)]
    assert MarkerSet.from_role_boundaries([{"role": "assistant", "start": "<a>"}]).markers[0].end == ()


def trained(boundaries: list[Any], text: str, **policy: Any) -> str:
    markers = MarkerSet.from_role_boundaries(boundaries)
    tokenizer = ToyTokenizer(markers)
    return bytes(label for label in markers.compile(tokenizer, **policy)(tokenizer.encode(text)) if 0 <= label < 256).decode()


def test_an_answer_that_ends_at_the_next_start_takes_no_question_in() -> None:
    boundaries = [{"role": "user", "start": "USER:", "end": None}, {"role": "assistant", "start": "ASSISTANT:", "end": "next_start"}]
    text = "USER: q1 ASSISTANT: a1 USER: secret ASSISTANT: a2"
    boundaries[0]["end"] = "next_start"
    assert trained(boundaries, text) == " a1  a2"


@pytest.mark.parametrize(
    ("end", "meant"), [("eos", "eos_token"), ("EOS", "eos_token"), ("eos token", "eos_token"), ("next-start", "next_start")]
)
def test_a_word_that_is_nearly_an_end_is_refused_with_the_one_that_was_meant(end: str, meant: str) -> None:
    with pytest.raises(MarkerSetError, match=rf"the end '{end}' would match as text \(did you mean '{meant}'\?"):
        MarkerSet.from_role_boundaries([{"role": "assistant", "start": "A:", "end": end}])


def test_words_that_mean_themselves_are_ends() -> None:
    for end in ("User:", "END", "</s>", "###", "[/INST]", "eos_token", "Human"):
        assert MarkerSet.from_role_boundaries([{"role": "assistant", "start": "A:", "end": end}]).markers[0].end


class Model:
    """What a pydantic model has, as far as it matters here."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def model_dump(self) -> dict[str, Any]:
        return {"role": None, "start": None, "end": None, "include_start": None, "include_end": None} | self.values


def test_entries_may_be_pydantic_models() -> None:
    assert MarkerSet.from_role_boundaries([Model(**entry) for entry in CHATML]) == MarkerSet.from_role_boundaries(CHATML)
    with pytest.raises(MarkerSetError, match="the key 'role' is missing or empty"):
        MarkerSet.from_role_boundaries([Model(start="x")])


def test_a_turn_without_an_end_runs_on_through_turns_of_text_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    boundaries = [{"role": "user", "start": "USER:", "end": "\n"}, {"role": "assistant", "start": "ASSISTANT:", "end": None}]
    assert trained(boundaries, "USER: q\nASSISTANT: a USER: b") == " a USER: b"  # as Axolotl documents it
    assert "turns of assistant have no end marker and run on through those of user, assistant" in caplog.text
    caplog.clear()
    MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [1]}, "end": None}]).compile()
    assert caplog.text == ""


def test_markers_without_an_assistant_are_refused_by_that_name() -> None:
    with pytest.raises(
        rolemask.PolicyError, match="the markers declare no role 'assistant', only user: declare it, or pass roles_to_train"
    ):
        trained(CHATML[:1], "")
    assert trained(CHATML[:1], "<|im_start|>user\nHi", roles_to_train=["user"]) == "Hi"


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
        ({"role": "user", "start": "\n\n"}, "role_boundaries[1]: the start '\\n\\n' is white space alone, which contents have too"),
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


def test_what_is_too_much_to_compile_is_refused_by_name() -> None:
    letters = Vocabulary("letters", {id_: bytes([id_]) for id_ in range(256)}, {})
    tokenizer = SimpleNamespace(vocabulary=letters)
    long = [{"role": "user", "start": "U"}, {"role": "assistant", "start": "A", "end": "x" * 4000}]
    with pytest.raises(MarkerSetError, match=r"role_boundaries\[1\]: the end of 'assistant' has 4000 characters, expected at most 300"):
        MarkerSet.from_role_boundaries(long).compile(tokenizer)
    with pytest.raises(MarkerSetError, match=r"^Toy: the start of 'assistant' has 301 characters"):
        MarkerSet("Toy", "Toy", (Marker("assistant", ("x" * 301,), ()),)).compile(tokenizer)
    roles = [{"role": f"role {number}" if number else "assistant", "start": {"ids": [number]}} for number in range(128)]
    with pytest.raises(MarkerSetError, match=r"role_boundaries: found 128 roles, expected at most 127"):
        MarkerSet.from_role_boundaries(roles).compile()
    assert MarkerSet.from_role_boundaries(roles[:127]).compile().role_ids([126, 5]) == [126, 5]


def test_ids_that_the_tokenizer_does_not_have_are_told() -> None:
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [5, 999999]}, "end": None}])
    with pytest.raises(rolemask.TokenizerMismatchError, match=r"role_boundaries\[0\].*ids that .* does not have: \[999999\]"):
        markers.compile(ToyTokenizer(rolemask.load("chatml")))

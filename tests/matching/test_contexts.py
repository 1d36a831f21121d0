"""Markers are found whatever stands next to them: contents that begin and end with every kind of character, on real tokenizers."""

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral import packaged, tekken
from real import byte_level, deepseek, from_folder

import rolemask
from rolemask import IGNORE_INDEX, MarkerSet
from rolemask.markers.spec import EndWord, Marker
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary

ALPACA = MarkerSet(
    "alpaca_style",
    "Text markers, an EOS",
    (
        Marker("user", ("### Instruction:\n",), (EndWord.NEXT_START,), include_end=False, rewind=True),
        Marker("assistant", ("### Response:\n",), (EndWord.EOS_TOKEN,)),
    ),
)
VICUNA = MarkerSet(
    "vicuna_style",
    "Text markers in running text",
    (
        Marker("user", ("USER:",), (EndWord.NEXT_START,), include_end=False, rewind=True),
        Marker("assistant", ("ASSISTANT:",), (EndWord.EOS_TOKEN,)),
    ),
)
LLAMA_2 = MarkerSet(
    "llama2_style",
    "Text markers that the user's end and the assistant's start share",
    (
        Marker("user", ("[INST]",), ("[/INST]",), include_end=False, rewind=True),
        Marker("assistant", ("[/INST]",), (EndWord.EOS_TOKEN,)),
    ),
)
# Set, what stands before the user's words, before the assistant's, after the assistant's (EOS stands for the tokenizer's).
FORMS: dict[str, tuple[MarkerSet, str, str, str]] = {
    "chatml": (rolemask.load("chatml"), "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "llama3": (
        rolemask.load("llama3"),
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "gemma3": (rolemask.load("gemma3"), "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
    "alpaca": (ALPACA, "### Instruction:\n", "\n\n### Response:\n", "EOS"),
    "vicuna": (VICUNA, "USER: ", " ASSISTANT:", "EOS"),
    "llama2": (LLAMA_2, "[INST] ", " [/INST]", "EOS"),
    # Nothing between two headers where a turn is empty: most vocabularies have "><".
    "metharme": (rolemask.load("metharme"), "<|user|>", "<|model|>", "EOS"),
    "metharme without EOS": (rolemask.load("metharme"), "<|user|>", "<|model|>", ""),
}


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "qwen": lambda: byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "llama3": lambda: byte_level("llama3", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
    "llama4": lambda: byte_level("llama4", bos_token="<|begin_of_text|>", eos_token="<|eot|>"),
    "gemma3": lambda: from_folder("gemma3"),
    "deepseek": deepseek,
    "tekken": lambda: tekken(7),
    "sentencepiece": lambda: packaged("tokenizer.model.v1"),
}
CASES = [("chatml", "qwen"), ("llama3", "llama3"), ("gemma3", "gemma3")]
CASES += [(form, name) for form in ("alpaca", "vicuna", "llama2", "metharme", "metharme without EOS") for name in TOKENIZERS]

# fmt: off
pieces = ["\n", "\n\n", " ", "  ", "\t", "\r\n", ".", "...", "!?", "-", "#", "##", "[", "]", ":", "'s", "x", "Hello", " world", "é", "漢字", "🙂", "7", "<"]
# fmt: on
contents = st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@cache
def prepared(form: str, name: str) -> tuple[Vocabulary, rolemask.Masker]:
    vocabulary = read_vocabulary(TOKENIZERS[name]())
    return vocabulary, FORMS[form][0].compile(vocabulary, on_empty="ignore")


def labels_by_offsets(vocabulary: Vocabulary, ids: list[int], parts: list[tuple[str, bool]], *, dummy_prefix: bool) -> list[int]:
    """Label the tokens that lie, with all their bytes, in the trained parts of the text.

    `dummy_prefix`: the tokenizer puts a space before a text, at the start and after a special token.
    """
    text = "".join(part for part, _ in parts).encode()
    stops = list(accumulate(len(part.encode()) for part, _ in parts))
    regions = [(stop - len(part.encode()), stop) for (part, trained), stop in zip(parts, stops, strict=True) if trained]
    labels, at, begins = [], 0, True
    for id_ in ids:
        control = vocabulary.special_token_texts.get(id_)
        piece = vocabulary.pieces[id_] if control is None else control.encode()
        if begins and dummy_prefix and control is None:
            at -= 1
        else:
            assert text.startswith(piece, at)
        labels.append(id_ if any(start <= at and at + len(piece) <= stop for start, stop in regions) else IGNORE_INDEX)
        at += len(piece)
        begins = control is not None
    assert at == len(text)
    return labels


@pytest.mark.parametrize(("form", "name"), CASES)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(contents, contents), min_size=1, max_size=3), contents)
def test_no_turn_is_missed_and_none_invented(form: str, name: str, turns: list[tuple[str, str]], before: str) -> None:
    vocabulary, masker = prepared(form, name)
    _, user, assistant, end = FORMS[form]
    end = end.replace("EOS", vocabulary.special_token_texts[vocabulary.eos_id or 0])
    parts = [(before, False)]
    for question, answer in turns:
        parts += [(user + question + assistant, False), (answer + end, True)]
    text = "".join(part for part, _ in parts)
    assert vocabulary.encode is not None
    ids = list(vocabulary.encode(text))
    assert masker(ids) == labels_by_offsets(vocabulary, ids, parts, dummy_prefix=name == "sentencepiece")
    assert masker.report(ids).turns == {"user": len(turns), "assistant": len(turns)}

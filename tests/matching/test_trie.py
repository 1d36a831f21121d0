"""The token trie against its definition: every token sequence whose text contains the marker, over tiny alphabets."""

import pickle
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PIECES, SPECIAL_TOKENS, VOCABULARY, few, streams, texts

from rolemask.matching.pieces import PieceIndex
from rolemask.matching.spelling import spellings
from rolemask.matching.trie import Entry, Symbol, TokenTrie, build_trie, whole
from rolemask.matching.vocabulary import Vocabulary


def symbols_of(id_: int) -> list[Symbol] | None:
    if id_ in SPECIAL_TOKENS.values():
        return [whole(id_)]
    return list(PIECES[id_]) if id_ in PIECES else None


def match_by_definition(entries: Sequence[Entry], ids: Sequence[int], at: int) -> tuple[int, int] | None:
    """Try every marker at every offset of the first token: it must end inside the last token taken, and in no token before it."""
    best: tuple[int, int, int] | None = None
    result = None
    for order, entry in enumerate(entries):
        text: list[Symbol] = []
        for count, id_ in enumerate(ids[at:], start=1):
            symbols = symbols_of(id_)
            if symbols is None:
                break
            before = len(text)
            text += symbols
            offsets = range(len(symbols_of(ids[at]) or []))
            ends = [offset + len(entry.symbols) for offset in offsets if tuple(text[offset : offset + len(entry.symbols)]) == entry.symbols]
            if any(before < end <= len(text) for end in ends):
                rank = (count, len(entry.symbols), -order)
                if best is None or rank > best:
                    best, result = rank, (entry.value, count)
    return result


@settings(max_examples=600, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5, unique=True), streams, few)
def test_matches_are_those_of_the_definition(markers: list[str], ids: list[int], few: int) -> None:
    entries = [Entry(spellings(text, SPECIAL_TOKENS, VOCABULARY)[0], index) for index, text in enumerate(markers)]
    with mock.patch("rolemask.matching.trie.FEW", few):
        trie = build_trie(entries, VOCABULARY)
    assert pickle.loads(pickle.dumps(trie)) == trie
    for at in range(len(ids)):
        found = trie.match(ids, at)
        assert found == match_by_definition(entries, ids, at)
        assert found is None or (ids[at] in trie.first_ids and trie.knows(ids[at + found.length - 1]))


def test_the_tokens_that_go_on_after_many_markers_are_kept_once() -> None:
    """Half of a vocabulary begins with a space, and there may be many markers that end in one."""
    words = {256 + number: f" {chr(0x4E00 + number)}".encode() for number in range(3000)}
    vocabulary = Vocabulary("toy", {id_: bytes([id_]) for id_ in range(256)} | words, {})
    trie = build_trie([Entry(tuple(f"{name}: ".encode()), value) for value, name in enumerate("abcdefgh")], vocabulary)
    assert trie.sets == (words.keys(),)
    assert sum(map(len, trie.edges)) < 100
    assert [trie.match([*b"c:", last], 0) for last in (0x20, 256, 3255, 0x21)] == [(2, 3), (2, 3), (2, 3), None]


def test_a_long_marker_takes_steps_only_as_long_as_tokens_are(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary("toy", {id_: bytes([id_]) for id_ in range(256)} | {256: b"abc"}, {})
    looked_up = []
    ids_of = PieceIndex.ids_of
    monkeypatch.setattr(PieceIndex, "ids_of", lambda index, text: (looked_up.append(text), ids_of(index, text))[1])
    build_trie([Entry(tuple(b"abc" * 100), 0)], vocabulary)
    assert max(map(len, looked_up)) == 3


def test_text_never_matches_a_special_token() -> None:
    """Text that looks like a special token is text."""
    vocabulary = Vocabulary("toy", {id_: bytes([id_]) for id_ in range(256)}, {"<|end|>": 300})
    trie = build_trie([Entry(spellings("<|end|>", vocabulary.special_tokens, vocabulary)[0], 0)], vocabulary)
    assert trie.match([300], 0) == (0, 1)
    assert trie.match(list(b"<|end|>"), 0) is None


def test_the_last_token_may_end_after_the_marker() -> None:
    pieces = {1: b"\n", 2: b"\n\n", 3: b"user", 4: b"\n- x"}
    vocabulary = Vocabulary("toy", pieces, {"<s>": 0})
    trie = build_trie([Entry(spellings("<s>user\n", vocabulary.special_tokens, vocabulary)[0], 7)], vocabulary)
    assert [trie.match([0, 3, last], 0) for last in (1, 2, 4, 3)] == [(7, 3), (7, 3), (7, 3), None]


def test_the_first_token_may_begin_before_the_marker() -> None:
    pieces = {1: b"###", 2: b".###", 3: b" User", 4: b":", 5: b"User:"}
    vocabulary = Vocabulary("toy", pieces, {})
    trie = build_trie([Entry(tuple(b"### User:"), 0)], vocabulary)
    assert [trie.match([first, 3, 4], 0) for first in (1, 2)] == [(0, 3), (0, 3)]
    assert trie.match([3, 4], 0) is None


def test_an_empty_trie_matches_nothing() -> None:
    assert TokenTrie().match([1, 2], 0) is None


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        ([0, 1, 2], [(whole(0), *b" user\n")]),  # a dummy space after the special token
        ([0, 3], [(whole(0), *b"user")]),  # the newline was eaten: rstrip
        ([0, 9], []),  # an unknown token instead of the text is not a spelling
    ],
)
def test_spellings_follow_the_tokenizer_in_white_space_only(encoded: list[int], expected: list[tuple[int, ...]]) -> None:
    vocabulary = Vocabulary("toy", {1: b" user", 2: b"\n", 3: b"user"}, {"<s>": 0, "<unk>": 9}, encode=lambda _: encoded)
    written = (whole(0), *b"user\n")
    assert spellings("<s>user\n", vocabulary.special_tokens, vocabulary) == [written, *expected]

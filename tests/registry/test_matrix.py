"""Over all sets, and with real tokenizers: however a chat was damaged, nothing but the model's words is trained."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import STATES, UNDECIDABLE, Chats, Row, chats_of, leaks, with_contents
from real import byte_level, deepseek, from_folder

import rolemask
from rolemask.matching.vocabulary import read_vocabulary

REAL: dict[str, Callable[[], Any]] = {
    "gemma3": lambda: from_folder("gemma3"),
    "gemma4": lambda: from_folder("gemma4"),
    "llama3": lambda: from_folder("llama3_1"),
    "qwen3": lambda: from_folder("qwen3"),
    "qwen2_5": lambda: byte_level("qwen2_5", eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "llama4": lambda: byte_level("llama4", bos_token="<|begin_of_text|>", eos_token="<|eot|>"),
    "deepseek_v3": deepseek,
}
STATES_OF_LISTED = [(state, name) for state, listed in UNDECIDABLE.items() for name in listed.sets]


def damaged(row: Row, chats: Chats, name: str) -> list[str]:
    """Return the leaks of every state of a row that ids can decide."""
    states = [state for title, state in STATES.items() if title not in UNDECIDABLE or name not in UNDECIDABLE[title].sets]
    return [leak for state in states for leak in leaks(list(state(row, chats)), chats)]


def contents(chats: Chats) -> st.SearchStrategy[list[int]]:
    """Contents that don't begin with white space, which may belong to the header before."""
    visible = [word for word in chats.words if not chats.rules.vocabulary.text([word]).isspace()]
    return st.builds(lambda first, rest: [first, *rest], st.sampled_from(visible), st.lists(st.sampled_from(chats.words), max_size=3))


@pytest.mark.parametrize("name", rolemask.available())
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_nothing_but_the_models_words_is_trained(name: str, data: st.DataObject) -> None:
    chats = chats_of(rolemask.load(name))
    row = data.draw(st.sampled_from(chats.rows))
    assert damaged(with_contents(row, chats, lambda: data.draw(contents(chats))), chats, name) == []


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_nothing_but_the_models_words_is_trained_with_a_real_tokenizer(name: str, data: st.DataObject) -> None:
    chats = chats_of(rolemask.load(name), read_vocabulary(REAL[name]()))
    row = data.draw(st.sampled_from(chats.rows))
    assert damaged(with_contents(row, chats, lambda: data.draw(contents(chats))), chats, name) == []


@pytest.mark.parametrize(("state", "name"), STATES_OF_LISTED)
def test_what_is_called_undecidable_cannot_be_told(state: str, name: str) -> None:
    """Or it need not be listed."""
    chats = chats_of(rolemask.load(name))
    assert any(leak for row in chats.rows for leak in leaks(list(STATES[state](row, chats)), chats))

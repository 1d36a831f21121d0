"""Texts in which the trained stretches stand in ``[[ ]]``, and short messages to make texts of."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

from rolemask.chat_templates.scenarios import Scenario
from rolemask.chat_templates.template import Message
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.matching.vocabulary import Vocabulary
from rolemask.matching.vocabulary import read_vocabulary as read_anew


@cache
def read_vocabulary(tokenizer: Any) -> Vocabulary:
    return read_anew(tokenizer)


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


# Contents that have no word in them.
WHITE_SPACE = Scenario("white space", (user("\n- a\n\n"), assistant("\n\nfirst\n"), user("\n\n\n"), assistant("\tsecond \n\n")))
EMOJI = Scenario("emoji alone", (user("👋🏽"), assistant("🎉👨‍👩‍👧‍👦"), user("ok ✅"), assistant("🙂")))


def show(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> str:
    """Write the text of the ids, brackets around what is trained."""
    return show_trained(read_vocabulary(tokenizer), ids, labels)


def show_trained(vocabulary: Vocabulary, ids: Sequence[int], labels: Sequence[int]) -> str:
    """Write the text of the ids, brackets around what is trained."""
    pairs = list(zip(ids, labels, strict=True))
    assert all(label in (id_, IGNORE_INDEX) for id_, label in pairs)
    runs = [(trained, vocabulary.text(id_ for id_, _ in run)) for trained, run in groupby(pairs, lambda pair: pair[1] != IGNORE_INDEX)]
    return "".join(f"[[{text}]]" if trained else text for trained, text in runs)


def unmarked(text: str) -> str:
    return text.replace("[[", "").replace("]]", "")


def stretches(text: str) -> list[str]:
    """Return what stands in brackets."""
    return re.findall(r"\[\[(.*?)\]\]", text, re.DOTALL)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Tokenize a text as a whole, special tokens recognised; the brackets are no part of it."""
    encode = read_vocabulary(tokenizer).encode
    assert encode is not None
    return list(encode(unmarked(text)))

"""Chats of real text, encoded by a real tokenizer.

The words are what every installation has: the modules of the standard library, and the descriptions and licences of the installed
packages. A seeded random cut makes turns of them.
"""

import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from real import byte_level, from_folder

CHARACTERS = {"system": 300, "user": 250, "assistant": 900}
"""The median length of a turn. The lengths are log-normal, as those of published chats are: a few are ten times as long."""
SPREAD = 0.9

Chat = list[tuple[str, str]]


class Rows(NamedTuple):
    """Chats, packed into rows of one length. `seq_lens` has the lengths of the chats of each row, zeros behind them."""

    ids: NDArray[np.int64]
    seq_lens: NDArray[np.int64]

    @property
    def position_ids(self) -> NDArray[np.int64]:
        """The position of each token in its chat."""
        return np.array([np.concatenate([np.arange(length) for length in lengths]) for lengths in self.seq_lens])


@cache
def qwen() -> Any:
    """Qwen 3's tokenizer, from the folder that ROLEMASK_TOKENIZERS names or from PyPI."""
    if os.environ.get("ROLEMASK_TOKENIZERS"):
        return from_folder("qwen3")
    return byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def chats(count: int) -> list[Chat]:
    """Return chats of a few rounds each, the same ones at every call."""
    text, random = _corpus(), np.random.default_rng(0)
    at, made = 0, []
    for _ in range(count):
        chat = []
        roles = ["system"] * int(random.integers(2)) + ["user", "assistant"] * int(random.geometric(0.4))
        for role in roles:
            size = int(random.lognormal(np.log(CHARACTERS[role]), SPREAD))
            if at + size > len(text):
                at = 0
            stop = text.find(" ", at + size)
            chat.append((role, text[at:stop].strip()))
            at = stop
        made.append(chat)
    return made


def encode(chats: Iterable[Chat], tokenizer: Any, start: str = "<|im_start|>{role}\n", end: str = "<|im_end|>\n") -> list[list[int]]:
    """Return the ids of each chat, its turns between `start` and `end`."""
    texts = ["".join(start.format(role=role) + text + end for role, text in chat) for chat in chats]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def pack(chats: Sequence[Sequence[int]], shape: tuple[int, int]) -> Rows:
    """Pack chats into rows, and cut the last one of each row. If they don't fill the rows, they begin again."""
    size, at = shape[1], 0
    rows, lengths = [], []
    for _ in range(shape[0]):
        row: list[int] = []
        lengths.append([])
        while len(row) < size:
            chat = chats[at % len(chats)][: size - len(row)]
            row += chat
            lengths[-1].append(len(chat))
            at += 1
        rows.append(row)
    most = max(map(len, lengths))
    return Rows(np.array(rows), np.array([[*row, *[0] * (most - len(row))] for row in lengths]))


@cache
def _corpus() -> str:
    """Return the text. It holds no special token of Qwen: the tokenizer would parse it."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(library.glob("*.py"))]
    for distribution in sorted(distributions(), key=lambda one: one.name):
        texts.append(distribution.metadata.get_payload())
        texts += [
            file.locate().read_text(encoding="utf-8", errors="ignore")
            for file in distribution.files or ()
            if "dist-info" in str(file) and "LICENSE" in file.name.upper() and Path(str(file.locate())).is_file()
        ]
    texts = list(dict.fromkeys(texts))  # many packages have the same licence
    np.random.default_rng(0).shuffle(texts)
    text = "\n\n".join(texts)
    for token in qwen().get_added_vocab():
        text = text.replace(token, "")
    return text

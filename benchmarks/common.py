"""What all tables measure on: Qwen 3's masker, and rows of real text for it."""

from functools import cache
from typing import Any

import numpy as np
import texts
from numpy.typing import NDArray

import rolemask
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import make_policy
from rolemask.matching.compiler import Rules
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary

BATCH = (8, 8192)
POLICY = make_policy(["assistant"])
TEXT_START, TEXT_END = "### {role}:\n", "\n###END"


@cache
def masker() -> rolemask.Masker:
    """Return the masker of most tables."""
    return rolemask.load("qwen3").compile(texts.qwen(), on_empty="ignore")


@cache
def vocabulary() -> Vocabulary:
    """Return Qwen 3's vocabulary."""
    return read_vocabulary(texts.qwen())


@cache
def rows(shape: tuple[int, int]) -> texts.Rows:
    """Return rows of Qwen 3's chats."""
    return texts.pack(_encoded(), shape)


def flat(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of one length as the array kernels take them: end to end, and where each begins."""
    return ids.reshape(-1), np.arange(len(ids) + 1) * ids.shape[1]


def text_markers(count: int, end: str = TEXT_END) -> MarkerSet:
    """Return a set of markers that are text. A hundred roles at most have them."""
    roles = ["system", "user", "assistant", *(f"role{number}" for number in range(97))]
    names = [roles[number % 100] + ("" if number < 100 else f" {number}") for number in range(count)]
    return rolemask.MarkerSet.from_role_boundaries(
        [{"role": name.split()[0], "start": TEXT_START.format(role=name), "end": end} for name in names]
    )


@cache
def with_text_markers(count: int) -> rolemask.Masker:
    """Return a masker of markers that are text."""
    return text_markers(count).compile(texts.qwen(), self_check="off", on_empty="ignore")


def rules() -> Rules:
    """Return Qwen 3's compiled markers."""
    return masker().rules


def about_rows() -> str:
    """Say what the rows are like."""
    batch = rows(BATCH).ids
    reports = masker().report(batch)
    turns = sum(sum(report.turns.values()) for report in reports)
    share = sum(report.trained for report in reports) / batch.size
    return f"{turns} turns of {batch.size / turns:.0f} tokens on average, {share:.0%} of the tokens trained"


@cache
def _encoded() -> list[list[int]]:
    chats: Any = texts.chats(1500)
    return texts.encode(chats, texts.qwen())

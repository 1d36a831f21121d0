"""Chats in every state that training data is found in: whatever happens to them, nothing but the model's words may be trained.

The rows are the examples of a marker set, with other contents. Each token knows whether it is the model's, so a damaged row knows it too.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from rolemask.chat_templates.rendering import LOOKS_SPECIAL
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.masking.turns import Turn
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.toy_tokenizer import DEFAULT_BOS, ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary

WORDS = ("word", " then", "...", "\n", "\n\n", "9", " #", "é", "?", " said")


@dataclass(frozen=True)
class Token:
    """A token of a row. `marker` has the number of the marker that it is part of, and how many tokens that has while it is whole."""

    id: int
    is_models: bool
    marker: tuple[int, int] | None  # None for content, and for what is in no turn


Row = tuple[Token, ...]


@dataclass(frozen=True)
class Chats:
    """The examples of a set as rows of one tokenizer."""

    rules: Rules
    rows: tuple[Row, ...]
    words: tuple[int, ...]
    """Tokens for contents."""

    def text(self, row: Row) -> str:
        return self.rules.vocabulary.text(token.id for token in row)


@cache
def chats_of(markers: MarkerSet, vocabulary: Vocabulary | None = None) -> Chats:
    """Read the examples of a set, with a toy tokenizer if there is no vocabulary."""
    texts = [example.text for example in markers.examples]
    vocabulary = vocabulary or _toy_vocabulary(markers, texts)
    assert vocabulary.encode is not None
    rules = compile_rules(markers, vocabulary)
    words = {id_ for word in WORDS for id_ in vocabulary.encode(word)} - set(vocabulary.special_token_texts)
    return Chats(rules, tuple(_row(list(vocabulary.encode(text)), rules) for text in texts), tuple(sorted(words)))


def _toy_vocabulary(markers: MarkerSet, texts: list[str]) -> Vocabulary:
    """Return a toy vocabulary whose BOS is what the examples begin with, if that looks like a special token."""
    found = next((begun.group() for text in texts if (begun := LOOKS_SPECIAL.match(text))), DEFAULT_BOS)
    bos = DEFAULT_BOS if any(found in str(start) for marker in markers.markers for start in marker.start) else found
    tokenizer = ToyTokenizer(replace(markers, special_tokens=tuple(dict.fromkeys([*markers.special_tokens, bos]))), [*texts, *WORDS])
    return replace(tokenizer.vocabulary, bos_id=tokenizer.encode(bos)[0])


def _row(ids: list[int], rules: Rules) -> Row:
    masked = mask(ids, rules, make_policy(rules.roles))
    number_of: dict[int, int] = {}
    for number, (start, stop) in enumerate(_marker_stretches(masked.turns)):
        number_of |= dict.fromkeys(range(start, stop), number)
    sizes = Counter(number_of.values())
    marker_of = {at: (number, sizes[number]) for at, number in number_of.items()}
    return tuple(
        Token(id_, label != IGNORE_INDEX, marker_of.get(at)) for at, (id_, label) in enumerate(zip(ids, masked.labels, strict=True))
    )


def _marker_stretches(turns: Sequence[Turn]) -> Iterator[tuple[int, int]]:
    for turn in turns:
        for span in turn.spans:
            yield span.start, span.content
            yield span.end, span.stop
        yield turn.end, turn.stop
        yield turn.start, turn.content


def with_contents(row: Row, chats: Chats, draw: Callable[[], list[int]]) -> Row:
    """Return the row with every stretch of content replaced by what `draw` returns, but for special tokens."""
    special = set(chats.rules.vocabulary.special_token_texts)
    turns = mask([token.id for token in row], chats.rules, make_policy(chats.rules.roles)).turns
    inside = {at for turn in turns for at in range(turn.content, turn.end)}
    new: list[Token] = []
    for at, token in enumerate(row):
        if token.marker is not None or token.id in special or at not in inside:
            new.append(token)
        elif not (at and row[at - 1].marker is None and row[at - 1].id not in special and at - 1 in inside):
            new += [Token(id_, token.is_models, None) for id_ in draw()]
    return tuple(new)


# One function per state: row -> the damaged rows.


def cut_from_the_right(row: Row, chats: Chats) -> Iterator[Row]:
    """Stop anywhere, as `max_length` does."""
    yield from (row[:at] for at in range(1, len(row)))


def cut_from_the_left(row: Row, chats: Chats) -> Iterator[Row]:
    """Begin anywhere, as `truncation_side="left"` does."""
    yield from (row[at:] for at in range(1, len(row)))


def without_a_stop_token(row: Row, chats: Chats) -> Iterator[Row]:
    """Leave out the stop token of one answer, unless it belongs to the next header too, or what follows is a stop token as well."""
    for turn, after in _answers(row, chats):
        if turn.end < turn.stop and (after is None or after.start >= turn.stop) and not _ends(turn, row[turn.stop :], chats):
            yield row[: turn.end] + row[turn.stop :]


def two_questions_in_a_row(row: Row, chats: Chats) -> Iterator[Row]:
    """Leave out one answer: with its header, and without; where every question has one, the next question's header too."""
    for turn, after in _answers(row, chats):
        stop = turn.stop if after is None else min(turn.stop, after.start)
        if _ends(turn, row[stop:], chats):
            continue  # an empty answer
        yield row[: turn.content] + row[stop:]
        if row[turn.start].marker is not None:
            yield row[: turn.start] + row[stop:]
        if after is not None and chats.rules.rules[turn.rule].unanswered == after.rule:
            yield row[: turn.content] + row[after.content :]


def ended_by_force(row: Row, chats: Chats) -> Iterator[Row]:
    """Put the stop token where the model did not write it."""
    stops = {row[turn.end].id for turn, _ in _answers(row, chats) if turn.stop == turn.end + 1 and row[turn.end].is_models}
    for at, token in enumerate(row):
        if token.marker is None and not token.is_models and token.id not in chats.rules.media:
            yield from ((*row[:at], Token(stop, is_models=False, marker=None), *row[at:]) for stop in sorted(stops))


def before_a_document_with_bos(row: Row, chats: Chats) -> Iterator[Row]:
    """Cut anywhere, followed by another document that begins with BOS."""
    bos_id = chats.rules.vocabulary.bos_id
    if bos_id is not None:
        bos = Token(bos_id, is_models=False, marker=None)
        for other in chats.rows:
            begun = other if other[0].id == bos_id else (bos, *other)
            yield from (row[:at] + _renumbered(begun) for at in range(1, len(row) + 1))


def before_a_document(row: Row, chats: Chats) -> Iterator[Row]:
    """Cut anywhere, followed by another document without BOS."""
    for other in chats.rows:
        begun = other[1:] if other[0].id == chats.rules.vocabulary.bos_id and other[0].marker is None else other
        yield from (row[:at] + _renumbered(begun) for at in range(1, len(row) + 1))


STATES: dict[str, Callable[[Row, Chats], Iterator[Row]]] = {
    "cut from the right": cut_from_the_right,
    "cut from the left": cut_from_the_left,
    "without a stop token": without_a_stop_token,
    "two questions in a row": two_questions_in_a_row,
    "ended by force": ended_by_force,
    "before a document with BOS": before_a_document_with_bos,
    "before a document": before_a_document,
}


def _renumbered(row: Row) -> Row:
    """Return the row with other numbers for its markers, as part of a longer row."""
    return tuple(token if token.marker is None else replace(token, marker=(-1 - token.marker[0], token.marker[1])) for token in row)


def _ends(turn: Turn, rest: Row, chats: Chats) -> bool:
    """Whether what follows a turn is a stop token of it."""
    return bool(rest) and chats.rules.rules[turn.rule].ends.match([token.id for token in rest], 0) is not None


def _answers(row: Row, chats: Chats) -> Iterator[tuple[Turn, Turn | None]]:
    """Yield each turn that has words of the model, and the turn after it."""
    turns = mask([token.id for token in row], chats.rules, make_policy(chats.rules.roles)).turns
    for turn, after in zip(turns, [*turns[1:], None], strict=True):
        if any(token.is_models for token in row[turn.content : turn.end]):
            yield turn, after


def leaks(rows: Sequence[Row], chats: Chats) -> Iterator[str]:
    """Yield each row in which a word is trained that is not the model's, that word in brackets.

    White space between turns counts as nobody's. So does half of a marker that a cut went through: without its other half it is none.
    """
    if not rows:
        return
    ids, offsets = np.array([token.id for row in rows for token in row]), np.cumsum([0, *map(len, rows)])
    labels = NumpyKernel(chats.rules, make_policy(chats.rules.roles)).mask(ids, offsets, np.ones(len(ids), dtype=bool)).labels
    vocabulary = chats.rules.vocabulary
    for row, row_labels in zip(rows, np.split(labels, offsets[1:-1]), strict=True):
        for at, token in enumerate(row):
            if row_labels[at] == IGNORE_INDEX or token.is_models or vocabulary.text([token.id]).isspace() or _is_half(token, row):
                continue
            yield f"{chats.text(row[:at])}[[{vocabulary.text([token.id])}]]{chats.text(row[at + 1 :])}"
            break


def _is_half(token: Token, row: Row) -> bool:
    """Whether the token is part of a marker that is not whole in this row."""
    return token.marker is not None and sum(other.marker == token.marker for other in row) < token.marker[1]


class Undecidable(NamedTuple):
    """Sets of which ids don't tell what is the model's in a state, and why."""

    reason: str
    sets: tuple[str, ...]


# docs/undecidable.md is made of this; the tests allow a leak here, and nowhere else.
UNDECIDABLE: dict[str, Undecidable] = {
    "ended by force": Undecidable(
        "Tool results are plain text, and it is the stop token before them that makes them results: typed by somebody else, it looks the same.",
        ("apertus", "deepseek_v3_2"),
    ),
    "before a document with BOS": Undecidable(
        "BOS is the stop token too, so behind a cut answer it ends that answer, and is trained.",
        ("starcoder2_instruct", "tulu3"),
    ),
    "before a document": Undecidable(
        "Without BOS, the next document begins with text that no marker knows, such as a bare system prompt, or with the stop token.",
        (
            "alpaca",
            "amberchat",
            "bactrian",
            "baichuan2",
            "bluemoon",
            "breeze",
            "deepseek_coder",
            "deepseek_llm",
            "deepseek_r1",
            "deepseek_v3",
            "deepseek_v3_1",
            "deepseek_v3_2",
            "deepseek_v4",
            "deepseek_vl",
            "dots_ocr",
            "em_german",
            "falcon_180b",
            "falcon_instruct",
            "galactica_finetuned",
            "gigachat3",
            "glm_edge",
            "glmasr",
            "gorilla",
            "hunyuan_dense",
            "hy3",
            "hy_mt2",
            "janus",
            "koala",
            "koalpaca",
            "laguna_s",
            "laguna_xs",
            "ling_lite",
            "magicoder",
            "minicpm",
            "minimax_m1",
            "minimax_m2",
            "minimax_m3",
            "moss",
            "oasst",
            "openbuddy",
            "openchat_v3_2",
            "openorca_platypus2",
            "pivot_moe",
            "redpajama_incite",
            "rwkv_raven",
            "shieldgemma",
            "stablelm_alpha",
            "starcoder2_instruct",
            "swallow",
            "telechat",
            "unsloth",
            "vicuna",
            "vicuna_v0",
            "vigogne_chat",
            "vigogne_instruct",
            "wizard_mega",
        ),
    ),
}

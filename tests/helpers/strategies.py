"""Hypothesis strategies: marker sets and token streams over a vocabulary so small that markers overlap."""

from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from rolemask.markers.spec import EndWord, Marker, MarkerSet, TokenIds
from rolemask.masking.policy import Policy, make_policy
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens

SPECIAL_TOKENS = {"<0>": 0, "<1>": 1, "<2>": 2}
PIECES = {3: b"a", 4: b"b", 5: b"ab", 6: b"ba", 7: b"aab", 8: b"bb", 9: b"a"}  # two ids with one spelling, as in SentencePiece
VOCABULARY = Vocabulary("a toy tokenizer", PIECES, SPECIAL_TOKENS, eos_id=2, pad_id=2, bos_id=1)
IDS = st.integers(min_value=0, max_value=10)  # 10 is in no vocabulary
ROLES = ("assistant", "user", "tool")

texts = st.lists(st.sampled_from([*SPECIAL_TOKENS, "a", "b", "ab"]), min_size=1, max_size=3).map("".join)
token_ids = st.lists(st.integers(min_value=0, max_value=9), min_size=1, max_size=3).map(lambda ids: TokenIds(tuple(ids)))
patterns = texts | token_ids
streams = st.lists(IDS | st.just(-1), max_size=40)
few = st.sampled_from([0, 64])
"""So many tokens that begin with the last byte of a marker are written out; this vocabulary never has more than 64."""


@st.composite
def markers(draw: st.DrawFn, *, within: str | None = None) -> Marker:
    ends = patterns if within else patterns | st.sampled_from(EndWord)
    end = tuple(draw(st.lists(ends, max_size=2)))
    return Marker(
        role=draw(st.sampled_from(["reasoning", "tool"] if within else ROLES)),
        start=tuple(draw(st.lists(patterns, min_size=1, max_size=2))),
        end=end,
        include_start=draw(st.booleans()),
        include_end=draw(st.booleans()),
        rewind=draw(st.booleans()) or EndWord.NEXT_START in end,
        header_end=() if within else tuple(draw(st.lists(patterns, max_size=1))),
        within=within,
        start_owner=draw(st.sampled_from(["span", "turn"])) if within else "span",
        follows_turn=draw(st.booleans()) if within else False,
    )


@st.composite
def marker_sets(draw: st.DrawFn) -> MarkerSet:
    turns = draw(st.lists(markers(), min_size=1, max_size=4))
    hosts = sorted({marker.role for marker in turns})
    turns = [replace(turn, unanswered=draw(st.none() | st.sampled_from(hosts))) for turn in turns]
    spans = [draw(markers(within=draw(st.sampled_from(hosts)))) for _ in range(draw(st.integers(0, 2)))]
    if spans and draw(st.booleans()):  # a header that ends with the span's start
        opener = f"<0>{spans[0].start[0]}" if isinstance(spans[0].start[0], str) else "<0>"
        turns = [replace(turn, start=(*turn.start, opener)) if turn.role == spans[0].within else turn for turn in turns]
    return MarkerSet(
        "toy",
        "Toy",
        (*turns, *spans),
        document_start=tuple(draw(st.lists(patterns, max_size=1))),
        media={"image": tuple(draw(st.sets(st.sampled_from(list(SPECIAL_TOKENS)), max_size=1)))},
    )


def rows(markers: MarkerSet, length: int) -> st.SearchStrategy[list[int]]:
    """Rows of `length` ids: random ids, or markers one after the other whose ends and beginnings may share a token."""
    written = [
        text for marker in markers.markers for text in (*marker.start, *marker.header_end, *marker.end) if not isinstance(text, EndWord)
    ]
    at_random = st.lists(IDS | st.just(-1), min_size=length, max_size=length)
    crowded = st.lists(st.integers(0, 3), min_size=length, max_size=length)
    joined = st.builds(
        lambda chunks, joins: (_spell(chunks, joins) + [10] * length)[:length],
        st.lists(st.sampled_from(written) | st.sampled_from("ab"), max_size=12),
        st.integers(min_value=0, max_value=2**24),
    )
    return at_random | crowded | joined


def _spell(chunks: list[str | TokenIds], joins: int) -> list[int]:
    """Return ids that spell the chunks; each bit of `joins` picks the longest token or the shortest."""
    ids: list[int] = []
    text = b""
    for chunk in [*chunks, TokenIds(())]:
        given = [chunk] if isinstance(chunk, TokenIds) else cut_at_special_tokens(chunk, SPECIAL_TOKENS)
        for part in given:
            if isinstance(part, str):
                text += part.encode()
                continue
            while text:
                fitting = [id_ for id_, piece in PIECES.items() if text.startswith(piece)]
                taken = (max if joins & 1 else min)(fitting, key=lambda id_: len(PIECES[id_]))
                joins >>= 1
                ids.append(taken)
                text = text[len(PIECES[taken]) :]
            ids += part.ids if isinstance(part, TokenIds) else [part]
    return ids


@dataclass
class Case:
    """A compiled marker set, a policy, and rows of one length with attention and document starts."""

    markers: MarkerSet
    policy_options: dict[str, Any]
    rules: Rules
    policy: Policy
    rows: list[list[int]]
    attention: list[list[int]] | None
    starts: list[list[int]] | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    markers = draw(marker_sets())
    to_train = draw(st.lists(st.sampled_from(markers.roles), unique=True))
    others = [role for role in markers.roles if role not in to_train]
    options = {
        "train_on_inputs": draw(st.booleans()),
        "roles_to_train": to_train,
        "roles_to_mask": draw(st.lists(st.sampled_from(others), unique=True)) if others else [],
        "train_on_eos": draw(st.sampled_from(["turn", "all", "last", "none"])),
        "turns": draw(st.sampled_from(["all", "last", "last_round"] if "user" in markers.roles else ["all", "last"])),
    }
    length, count = draw(st.integers(0, 40)), draw(st.integers(1, 3))
    row = rows(markers, length)
    mask = st.lists(st.sampled_from([1, 1, 1, 0]), min_size=length, max_size=length)
    border = st.lists(st.sampled_from([0, 0, 0, 0, 1]), min_size=length, max_size=length)
    with mock.patch("rolemask.matching.trie.FEW", draw(few)):
        rules = compile_rules(markers, VOCABULARY)
    return Case(
        markers,
        options,
        rules,
        make_policy(markers.roles, **options),
        [draw(row) for _ in range(count)],
        [draw(mask) for _ in range(count)] if draw(st.booleans()) else None,
        [draw(border) for _ in range(count)] if draw(st.booleans()) else None,
    )

"""The vocabulary as one string of bytes, against a dict of the same pieces; and what packs it."""

import pickle
import random

from hypothesis import given
from hypothesis import strategies as st

from rolemask.matching.packing import pack, pack_dicts, pack_ids, unpack, unpack_dicts, unpack_ids
from rolemask.matching.pieces import PieceIndex, Pieces

ids = st.integers(0, 30) | st.integers(0, 2**34)
pieces_of = st.dictionaries(ids, st.text("ab", max_size=4).map(str.encode), max_size=40)


@given(pieces_of, st.lists(st.integers(-2, 2**35), max_size=5))
def test_pieces_are_a_mapping(given: dict[int, bytes], others: list[int]) -> None:
    pieces = Pieces.of(given)
    assert list(pieces.items()) == sorted(given.items())
    assert (len(pieces), pieces) == (len(given), given)
    assert [pieces.get(id_) for id_ in (*others, *given)] == [given.get(id_) for id_ in (*others, *given)]
    assert pickle.loads(pickle.dumps(pieces)) == pieces


@given(pieces_of, st.text("ab", min_size=1, max_size=3).map(str.encode))
def test_pieces_are_found_by_their_bytes(given: dict[int, bytes], text: bytes) -> None:
    index = PieceIndex(Pieces.of(given))
    assert sorted(index.ids_of(text)) == sorted(id_ for id_, piece in given.items() if piece == text)
    assert index.longer_ids(text) == {id_ for id_, piece in given.items() if piece.startswith(text) and piece != text}
    assert index.longest(text) == max((len(piece) for piece in given.values() if piece.startswith(text[:2])), default=0)
    inside = [(id_, piece[at:]) for id_, piece in given.items() for at in range(1, len(piece)) if piece.startswith(text, at)]
    assert sorted(index.inside(text)) == sorted(inside)
    assert sorted(index.ending_with(text[0])) == sorted(id_ for id_, piece in given.items() if len(piece) > 1 and piece[-1] == text[0])


def test_the_order_in_which_a_tokenizer_lists_its_tokens_does_not_matter() -> None:
    given = {id_: str(id_).encode() for id_ in range(500)}
    shuffled = random.Random(1).sample(sorted(given), len(given))
    assert pickle.dumps(Pieces.of({id_: given[id_] for id_ in shuffled})) == pickle.dumps(Pieces.of(given))


@given(st.lists(ids), st.sets(ids), st.sets(st.integers(0, 99)), st.lists(st.dictionaries(ids, ids)))
def test_what_is_packed_is_unpacked(values: list[int], far: set[int], near: set[int], dicts: list[dict[int, int]]) -> None:
    assert list(unpack(pack(values))) == values
    assert list(unpack_ids(pack_ids(far))) == sorted(far)
    assert list(unpack_ids(pack_ids(near))) == sorted(near)
    assert unpack_dicts(pack_dicts(dicts)) == dicts


def test_many_ids_take_a_bit_each() -> None:
    assert len(pack_ids(range(0, 100_000, 2))) < 100_000 / 8 + 8
    assert list(unpack_ids(pack_ids(range(0, 100_000, 2)))) == [*range(0, 100_000, 2)]

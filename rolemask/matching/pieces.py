"""The bytes of each id of a tokenizer, as one string of bytes: small, quick to make and to pickle, and decoded where it is asked."""

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain
from typing import TypeVar

from rolemask.matching.packing import pack, unpack


class Pieces(Mapping[int, bytes]):
    """Id -> the bytes that it stands for in a text; in the order of the ids.

    >>> pieces = Pieces.of({2: b"!", 0: b"Hi"})
    >>> pieces[0], list(pieces), pieces == {0: b"Hi", 2: b"!"}
    (b'Hi', [0, 2], True)

    Args:
        ids: The ids, in ascending order.
        lengths: The number of bytes of each.
        data: All these bytes.
    """

    def __init__(self, ids: Iterable[int], lengths: Sequence[int], data: bytes) -> None:
        # Stretches of ids without holes: the place of the first of each in the order, and that id.
        self._places, self._first_ids = array("Q"), array("Q")
        expected = -1
        for place, id_ in enumerate(ids):
            if id_ != expected:
                self._places.append(place)
                self._first_ids.append(id_)
            expected = id_ + 1
        self._lengths = unpack(pack(lengths))  # as small as they can be: mostly one byte each
        self.data = data

    @classmethod
    def of(cls, pieces: Mapping[int, bytes]) -> "Pieces":
        """Return a mapping as pieces, if it isn't."""
        return pieces if isinstance(pieces, cls) else cls.of_texts(pieces, list(pieces.values()))

    @classmethod
    def of_texts(cls, ids: Collection[int], texts: Iterable[bytes]) -> "Pieces":
        """Make pieces of ids and the bytes of each; of two with one id, the last counts."""
        return cls(*in_order(ids, texts, b""))

    def __getitem__(self, id_: int) -> bytes:
        stretch = bisect_right(self._first_ids, id_) - 1 if id_ >= 0 else -1
        if stretch >= 0:
            place = self._places[stretch] + id_ - self._first_ids[stretch]
            if place < (self._places[stretch + 1] if stretch + 1 < len(self._places) else len(self)):
                return self.at(place)
        raise KeyError(id_)

    def __iter__(self) -> Iterator[int]:
        return chain(*(range(id_, id_ + stop - place) for id_, place, stop in self._stretches()))

    def __len__(self) -> int:
        return len(self._lengths)

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        return zip(self._first_ids, self._places, [*self._places[1:], len(self)], strict=False)

    @cached_property
    def bounds(self) -> "array[int]":
        """Where each piece begins in the data, and the end of the last. A worker that only labels never asks for it."""
        return array("Q", accumulate(self._lengths, initial=0))

    def at(self, place: int) -> bytes:
        """Return a piece by its place in the order of the ids."""
        return self.data[self.bounds[place] : self.bounds[place + 1]]

    @cached_property
    def index(self) -> "PieceIndex":
        """Finds pieces by their bytes."""
        return PieceIndex(self)

    def __getstate__(self) -> tuple[bytes, bytes, bytes, bytes]:
        return pack(self._places), pack(self._first_ids), pack(self._lengths), self.data

    def __setstate__(self, state: tuple[bytes, bytes, bytes, bytes]) -> None:
        self._places, self._first_ids, self._lengths = map(unpack, state[:3])
        self.data = state[3]


_Text = TypeVar("_Text", bytes, str)


def in_order(ids: Collection[int], texts: Iterable[_Text], empty: _Text) -> tuple[list[int], list[int], _Text]:
    """Return the ids in ascending order, the lengths of their texts, and these, joined; of two texts with one id, the last.

    >>> in_order([7, 2, 4], ["c", "a", "bb"], "")
    ([2, 4, 7], [1, 2, 1], 'abbc')
    """
    size = max(ids, default=-1) + 1
    if size > 4 * len(ids) + 1000:
        known = dict(zip(ids, texts, strict=True))
        held = sorted(known)
        return held, [len(known[id_]) for id_ in held], empty.join(known[id_] for id_ in held)
    # Much quicker than sorting. Texts are looked at in the order in which they lie in memory, but for the last time.
    slots, lengths = [empty] * size, [-1] * size
    for id_, text in zip(ids, texts, strict=True):
        slots[id_] = text
        lengths[id_] = len(text)
    return [id_ for id_, length in enumerate(lengths) if length >= 0], [length for length in lengths if length >= 0], empty.join(slots)


class PieceIndex:
    """Finds pieces by their bytes. What is asked for is kept: reading all pieces would take most of the time of `compile`."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._of_first: dict[int, dict[bytes, list[int]]] = {}
        self._sorted: dict[int, list[bytes]] = {}
        self._longer: dict[bytes, frozenset[int]] = {}
        self._longest: dict[int, dict[bytes, int]] = {}
        self._inside: dict[bytes, list[tuple[int, bytes]]] = {}
        self._last: dict[int, list[int]] = {}

    def ids_of(self, piece: bytes) -> Sequence[int]:
        """Return the ids that stand for some bytes. SentencePiece has two newlines: a piece and a byte."""
        return self._with_first(piece[0]).get(piece, ()) if piece else ()

    def longer_ids(self, text: bytes) -> frozenset[int]:
        """Return the ids of the pieces that begin with a text and go on."""
        if text not in self._longer:
            if text[0] not in self._sorted:
                self._sorted[text[0]] = sorted(self._with_first(text[0]))
            pieces = self._sorted[text[0]]
            start, stop = bisect_right(pieces, text), bisect_right(pieces, text + b"\xff" * self.longest(text))
            self._longer[text] = frozenset(id_ for piece in pieces[start:stop] for id_ in self.ids_of(piece))
        return self._longer[text]

    def longest(self, text: bytes) -> int:
        """Return the length of the longest piece that begins with the first two bytes of a text; 0 if none does."""
        if text[0] not in self._longest:
            longest: dict[bytes, int] = {}
            for piece in self._with_first(text[0]):
                for start in (piece[:1], piece[:2]):
                    longest[start] = max(longest.get(start, 0), len(piece))
            self._longest[text[0]] = longest
        return self._longest[text[0]].get(text[:2], 0)

    def inside(self, text: bytes) -> list[tuple[int, bytes]]:
        """Return the pieces that have a text further in than their beginning: each place's id, and the piece from there on."""
        if text not in self._inside:
            pieces, found = self._pieces, []
            data, bounds = pieces.data, pieces.bounds
            at = data.find(text)
            while at >= 0:
                if not self._is_bound[at] and not (len(text) > 1 and any(self._is_bound[at + 1 : at + len(text)])):
                    place = bisect_right(bounds, at) - 1
                    found.append((self._ids[place], data[at : bounds[place + 1]]))
                at = data.find(text, at + 1)
            self._inside[text] = found
        return self._inside[text]

    def ending_with(self, byte: int) -> list[int]:
        """Return the ids of the pieces of two bytes and more whose last one is this."""
        if not self._last:
            pieces, bounds = self._pieces, self._pieces.bounds
            for id_, start, stop in zip(self._ids, bounds, bounds[1:], strict=False):
                if stop - start > 1:
                    self._last.setdefault(pieces.data[stop - 1], []).append(id_)
        return self._last.get(byte, [])

    def _with_first(self, byte: int) -> dict[bytes, list[int]]:
        """Return the pieces that begin with a byte, and their ids."""
        if byte not in self._of_first:
            pieces, ids = self._pieces, self._ids
            found: dict[bytes, list[int]] = {}
            at = self._firsts.find(byte)
            while at >= 0:
                if piece := pieces.at(at):
                    found.setdefault(piece, []).append(ids[at])
                at = self._firsts.find(byte, at + 1)
            self._of_first[byte] = found
        return self._of_first[byte]

    @cached_property
    def _ids(self) -> "array[int]":
        return array("Q", self._pieces)

    @cached_property
    def _firsts(self) -> bytes:
        """The first byte of each piece; an arbitrary one for a piece without bytes."""
        return bytes(map((self._pieces.data + b"\0").__getitem__, self._pieces.bounds[:-1]))

    @cached_property
    def _is_bound(self) -> bytearray:
        """For each byte of the data, whether a piece begins there."""
        is_bound = bytearray(len(self._pieces.data) + 1)
        for at in self._pieces.bounds:
            is_bound[at] = 1
        return is_bound

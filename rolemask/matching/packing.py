"""Many integers as few bytes, which are the same in every process: what a pickle of a masker is made of."""

import pickle
import sys
from array import array
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from itertools import compress
from typing import Any

_TYPES = "BHIQ"


def pack(values: Collection[int]) -> bytes:
    """Return integers of 0 and more as bytes; the first one tells how many bytes each of them takes.

    >>> pack([65, 66]), list(unpack(pack([1, 2, 256])))
    (b'BAB', [1, 2, 256])
    """
    kind = _type_for(max(values, default=0))
    return kind.encode() + _little_endian(array(kind, values)).tobytes()


def unpack(packed: bytes) -> "array[int]":
    """Return what was packed."""
    values = array(chr(packed[0]))
    values.frombytes(packed[1:])
    return _little_endian(values)


def _type_for(most: int) -> str:
    """Return the type code of the smallest integers that can be this large."""
    return next(kind for kind in _TYPES if most < 256 ** array(kind).itemsize)


def _little_endian(values: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        values.byteswap()
    return values


def pack_lists(lists: Collection[Collection[int]]) -> tuple[bytes, bytes]:
    """Return lists of integers as bytes: their lengths, and all that they hold."""
    return pack([len(values) for values in lists]), pack([value for values in lists for value in values])


def unpack_lists(packed: tuple[bytes, bytes]) -> "list[array[int]]":
    """Return what `pack_lists` was given, as arrays."""
    lists, at, values = [], 0, unpack(packed[1])
    for length in unpack(packed[0]):
        lists.append(values[at : at + length])
        at += length
    return lists


def pack_dicts(dicts: Collection[Mapping[int, int]]) -> tuple[bytes, bytes, bytes]:
    """Return mappings of integers as bytes: their lengths, all keys, all values."""
    return *pack_lists([list(mapping) for mapping in dicts]), pack([value for mapping in dicts for value in mapping.values()])


def unpack_dicts(packed: tuple[bytes, bytes, bytes]) -> list[dict[int, int]]:
    """Return what `pack_dicts` was given."""
    keys, values = unpack_lists(packed[:2]), unpack_lists((packed[0], packed[2]))
    return [dict(zip(*pair, strict=True)) for pair in zip(keys, values, strict=True)]


def pack_ids(ids: Collection[int]) -> bytes:
    r"""Return a set of integers as bytes: as a list, or as a bit for each integer, whichever is shorter.

    >>> pack_ids({1, 90}), list(unpack_ids(pack_ids({1, 2, 9})))
    (b'LB\x01Z', [1, 2, 9])
    """
    most = max(ids, default=0)
    if len(ids) * array(_type_for(most)).itemsize < most // 8 + 1:
        return b"L" + pack(sorted(ids))
    digits = bytearray(b"0" * (most + 1))
    for id_ in ids:
        digits[most - id_] = _ONE
    return b"b" + int(digits, 2).to_bytes(most // 8 + 1, "little")  # quick, and linear, as 2 is a power of 2


def unpack_ids(packed: bytes) -> Sequence[int]:
    """Return what was packed, in ascending order."""
    if packed[:1] == b"L":
        return unpack(packed[1:])
    digits = f"{int.from_bytes(packed[1:], 'little'):b}"
    return [*compress(range(len(digits)), map(_ONE.__eq__, reversed(digits.encode())))]


_ONE = ord("1")


def freeze(value: object) -> bytes:
    """Return a pickle that depends on what the value holds alone, not on which of its parts are one object: without the pickler's memo."""
    written = BytesIO()
    pickler = pickle.Pickler(written, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    return written.getvalue()


def thaw(frozen: bytes) -> Any:  # noqa: ANN401 - what was frozen
    """Return what was frozen."""
    return pickle.loads(frozen)

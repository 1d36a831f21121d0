"""How a tokenizer spells what a marker set names: markers, special tokens and media tokens."""

import re
from collections.abc import Mapping, Sequence

from rolemask.markers.spec import MarkerSet
from rolemask.matching.trie import Symbol, whole
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens


def spellings(text: str, special_tokens: Mapping[str, int], vocabulary: Vocabulary) -> list[tuple[Symbol, ...]]:
    """Return the spellings of a marker: as written, and as this tokenizer changes it, if it does.

    A tokenizer may add a space after a special token (SentencePiece's dummy prefix) or strip the white space there (`rstrip`).
    """
    written: list[Symbol] = []
    for part in cut_at_special_tokens(text, special_tokens):
        written += [whole(part)] if isinstance(part, int) else list(part.encode())
    ways = [tuple(written)]
    if vocabulary.encode is not None:
        changed: list[Symbol] = []
        for id_ in vocabulary.encode(text):
            if id_ in vocabulary.special_token_texts or id_ in special_tokens.values():
                changed.append(whole(id_))
            else:
                changed += vocabulary.pieces.get(id_, b"")
        # The dummy prefix before a text marker is not part of it: a token may begin before the marker in any case.
        if changed[:1] == [0x20] and written[:1] != [0x20]:
            del changed[0]
        # If more than white space changed (an unknown token, a normalised letter), the text is no longer this marker.
        if tuple(changed) not in ways and changed and _without_space(changed) == _without_space(written):
            ways.append(tuple(changed))
    return ways


def _without_space(symbols: Sequence[Symbol]) -> list[Symbol]:
    return [symbol for symbol in symbols if symbol not in (0x20, 0x09, 0x0A, 0x0D)]


def single_id(token: str, vocabulary: Vocabulary) -> int | None:
    """Return the id of a special token, or None if it is not one token in this tokenizer."""
    if token in vocabulary.special_tokens:
        return vocabulary.special_tokens[token]
    ids = vocabulary.encode(token) if vocabulary.encode else ()
    return ids[0] if len(ids) == 1 and vocabulary.text(ids) == token else None


def media_ids(markers: MarkerSet, vocabulary: Vocabulary) -> set[int]:
    """Return the ids of the media tokens that this tokenizer has. A text-only checkpoint of a family may lack some."""
    ids = set()
    for token in markers.media_tokens:
        if "*" in token:
            pattern = re.compile(".*".join(re.escape(part) for part in token.split("*")))
            ids |= {id_ for text, id_ in vocabulary.special_tokens.items() if pattern.fullmatch(text)}
        elif (id_ := single_id(token, vocabulary)) is not None:
            ids.add(id_)
    return ids

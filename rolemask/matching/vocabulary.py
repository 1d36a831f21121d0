"""What rolemask has to know of a tokenizer: how each id is spelled, and which ids are special tokens.

Nothing here imports a tokenizer library: each kind is recognised by its attributes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rolemask.errors import UnsupportedTokenizerError

META_SPACE = "▁"  # how SentencePiece writes a space
BYTE_LEVEL_SPACE = "Ġ"  # how byte-level BPE writes a space


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer, reduced to bytes and ids.

    `pieces` maps an id to the bytes that it stands for in a text. `special_tokens` maps the text of a special token (added tokens,
    special tokens) to its id: such a token is matched whole and never spelled by others, so that text that merely looks like it is not it.
    `encode` is what the tokenizer makes of a text, special tokens recognised and nothing added; a copy that was pickled has none.
    """

    name: str
    pieces: Mapping[int, bytes]
    special_tokens: Mapping[str, int]
    encode: Callable[[str], Sequence[int]] | None = None
    eos_id: int | None = None
    pad_id: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A masker travels to worker processes; a tokenizer's own state need not, and often cannot.
        return {key: self.__dict__[key] for key in ("name", "pieces", "special_tokens", "eos_id", "pad_id")} | {"encode": None}

    @cached_property
    def special_token_texts(self) -> dict[int, str]:
        """Id -> text of the special tokens."""
        return {id_: text for text, id_ in self.special_tokens.items()}

    @cached_property
    def ids_of_piece(self) -> dict[bytes, list[int]]:
        """Bytes -> the ids spelled so (SentencePiece has a newline twice: as a piece and as a byte)."""
        ids: dict[bytes, list[int]] = {}
        for id_, piece in self.pieces.items():
            if piece:
                ids.setdefault(piece, []).append(id_)
        return ids

    @cached_property
    def sorted_pieces(self) -> list[bytes]:
        """All spellings, sorted, so that those with a common beginning stand together."""
        return sorted(self.ids_of_piece)

    def text(self, ids: Iterable[int]) -> str:
        """Return what the ids spell; an unknown id, or a part of a character, shows as U+FFFD."""
        parts = []
        for id_ in ids:
            control = self.special_token_texts.get(id_)
            parts.append(control.encode() if control is not None else self.pieces.get(id_, b"\xff"))
        return b"".join(parts).decode("utf-8", errors="replace")


def read_vocabulary(tokenizer: Any) -> Vocabulary:
    """Read the vocabulary of a tokenizer or processor.

    Understood are Transformers' tokenizers and processors, `tokenizers.Tokenizer`, mistral-common's tokenizers, `tiktoken.Encoding`,
    rolemask's own ToyTokenizer, and anything that wraps one of these in an attribute `tokenizer`.

    Raises:
        UnsupportedTokenizerError: The object is none of these.
    """
    kind = type(tokenizer).__name__
    own = getattr(tokenizer, "vocabulary", tokenizer)
    if isinstance(own, Vocabulary):
        return own
    if hasattr(tokenizer, "decode_single_token_bytes"):
        return _from_tiktoken(tokenizer)
    if hasattr(tokenizer, "id_to_piece") and hasattr(tokenizer, "n_words"):
        return _from_mistral_common(tokenizer)
    if hasattr(tokenizer, "get_vocab") and isinstance(getattr(tokenizer, "added_tokens_decoder", None), Mapping):
        return _from_transformers(tokenizer)
    if hasattr(tokenizer, "get_vocab") and hasattr(tokenizer, "get_added_tokens_decoder"):
        return _from_tokenizers(tokenizer)
    if hasattr(tokenizer, "instruct_tokenizer"):
        return read_vocabulary(tokenizer.instruct_tokenizer)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and inner is not tokenizer:
        return read_vocabulary(inner)
    raise UnsupportedTokenizerError(
        f"cannot read the vocabulary of {kind!r}. Pass a tokenizer or processor of Transformers, tokenizers, mistral-common or tiktoken, "
        "or a marker set that gives its markers as {ids: [...]}"
    )


def spelled(pieces: Mapping[str, int], special_tokens: Iterable[str]) -> dict[int, bytes]:
    """Return id -> bytes for a vocabulary of strings, special tokens left out.

    The alphabet tells the kind: SentencePiece writes a space as U+2581 and odd bytes as <0x0A>, byte-level BPE writes every byte as a
    printable character (Radford et al. 2019, `bytes_to_unicode`), anything else writes plain text.
    """
    left_out = set(special_tokens)
    if META_SPACE in pieces:
        return {id_: _metaspace_bytes(piece) for piece, id_ in pieces.items() if piece not in left_out}
    if BYTE_LEVEL_SPACE in pieces:
        alphabet = _byte_level_alphabet()
        return {
            id_: bytes(alphabet[char] for char in piece) if all(char in alphabet for char in piece) else piece.encode()
            for piece, id_ in pieces.items()
            if piece not in left_out
        }
    return {id_: piece.encode() for piece, id_ in pieces.items() if piece not in left_out}


def _metaspace_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(META_SPACE, " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """Return character -> byte: printable Latin-1 stands for itself, the rest is moved to U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(moved)}


def _is_control(text: str) -> bool:
    # Gemma adds runs of newlines and of SentencePiece's spaces as tokens; they are text all the same.
    return bool(text) and not text.replace(META_SPACE, " ").isspace()


def _from_transformers(tokenizer: Any) -> Vocabulary:
    added = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()}
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return _from_strings(name, tokenizer.get_vocab(), added, encode, tokenizer.eos_token_id, tokenizer.pad_token_id)


def _from_tokenizers(tokenizer: Any) -> Vocabulary:
    added = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items()}
    padding = tokenizer.padding or {}

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return _from_strings("tokenizers.Tokenizer", tokenizer.get_vocab(), added, encode, None, padding.get("pad_id"))


def _from_strings(
    name: str,
    vocabulary: Mapping[str, int],
    added: Mapping[str, int],
    encode: Callable[[str], list[int]],
    eos_id: int | None,
    pad_id: int | None,
) -> Vocabulary:
    special_tokens = {text: id_ for text, id_ in added.items() if _is_control(text)}
    pieces = spelled(vocabulary, special_tokens) | {
        id_: _metaspace_bytes(text) for text, id_ in added.items() if text not in special_tokens
    }
    return Vocabulary(name, pieces, special_tokens, encode, eos_id, pad_id)


def _from_mistral_common(tokenizer: Any) -> Vocabulary:
    special_tokens = {tokenizer.id_to_piece(id_): id_ for id_ in sorted(tokenizer.special_ids)}
    if hasattr(tokenizer, "id_to_byte_piece"):  # Tekken: bytes
        pieces = {id_: tokenizer.id_to_byte_piece(id_) for id_ in range(tokenizer.n_words) if id_ not in tokenizer.special_ids}
    else:  # SentencePiece: strings
        pieces = spelled({tokenizer.id_to_piece(id_): id_ for id_ in range(tokenizer.n_words)}, special_tokens)

    def encode(text: str) -> list[int]:
        # mistral-common never encodes a special token from text: the text is cut at them here.
        ids: list[int] = []
        for part in cut_at_special_tokens(text, special_tokens):
            ids += [part] if isinstance(part, int) else tokenizer.encode(part, bos=False, eos=False)
        return ids

    pad_id = tokenizer.pad_id
    name = f"{type(tokenizer).__name__} {tokenizer.version.value}"
    return Vocabulary(name, pieces, special_tokens, encode, tokenizer.eos_id, pad_id if pad_id is not None and pad_id >= 0 else None)


def _from_tiktoken(tokenizer: Any) -> Vocabulary:
    special_tokens = {text: tokenizer.encode_single_token(text) for text in tokenizer.special_tokens_set}
    taken = set(special_tokens.values())
    pieces = {}
    for id_ in range(tokenizer.n_vocab):
        if id_ not in taken:
            try:
                pieces[id_] = tokenizer.decode_single_token_bytes(id_)
            except KeyError:  # tiktoken vocabularies may have holes
                continue

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, allowed_special="all"))

    return Vocabulary(tokenizer.name, pieces, special_tokens, encode, special_tokens.get("<|endoftext|>"))


def cut_at_special_tokens(text: str, special_tokens: Mapping[str, int]) -> list[str | int]:
    """Cut a text at its special tokens, the first and longest first: text stays text, a special token becomes its id."""
    parts: list[str | int] = []
    start = at = 0
    by_first: dict[str, list[str]] = {}
    for control in sorted(special_tokens, key=len, reverse=True):
        by_first.setdefault(control[0], []).append(control)
    while at < len(text):
        found = next((control for control in by_first.get(text[at], ()) if text.startswith(control, at)), None)
        if found is None:
            at += 1
            continue
        if start < at:
            parts.append(text[start:at])
        parts.append(special_tokens[found])
        start = at = at + len(found)
    if start < len(text):
        parts.append(text[start:])
    return parts

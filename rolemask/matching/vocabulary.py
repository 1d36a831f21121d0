"""Reading a tokenizer: the bytes of each id, and which ids are special tokens.

Nothing here imports a tokenizer library: each kind is recognised by its attributes. The protocols say which ones are used of it.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast
from weakref import WeakKeyDictionary, ref

from rolemask.errors import UnsupportedTokenizerError
from rolemask.matching.pieces import PieceIndex, Pieces, in_order

META_SPACE = "▁"  # how SentencePiece writes a space
BYTE_LEVEL_SPACE = "Ġ"  # how byte-level BPE writes a space


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer, reduced to bytes and ids.

    Attributes:
        name: The tokenizer's name, for messages.
        pieces: Id -> the bytes that it stands for in a text.
        special_tokens: Text -> id, for special and other added tokens. Such a token is matched whole and never spelled with other tokens,
            so text that only looks like it doesn't match.
        encode: Turns a text into ids: recognises special tokens and adds none. None in a pickled copy.
        eos_id: The EOS token.
        pad_id: The padding token.
        bos_id: The BOS token.
    """

    name: str
    pieces: Mapping[int, bytes]
    special_tokens: Mapping[str, int]
    encode: Callable[[str], Sequence[int]] | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    bos_id: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pieces", Pieces.of(self.pieces))
        # A tokenizer may list them in an order that is another one in each process.
        object.__setattr__(self, "special_tokens", dict(sorted(self.special_tokens.items(), key=lambda token: (token[1], token[0]))))

    def __getstate__(self) -> dict[str, Any]:
        # A masker is pickled for worker processes; a tokenizer often cannot be, and is no longer needed.
        kept = ("name", "pieces", "special_tokens", "eos_id", "pad_id", "bos_id")
        return {key: self.__dict__[key] for key in kept} | {"encode": None}

    @cached_property
    def special_token_texts(self) -> dict[int, str]:
        """Id -> text of the special tokens."""
        return {id_: text for text, id_ in self.special_tokens.items()}

    @property
    def index(self) -> PieceIndex:
        """The pieces by their bytes. Copies of a vocabulary share it."""
        return Pieces.of(self.pieces).index

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of the ids. An unknown id, or a part of a character, shows as U+FFFD."""
        parts = []
        for id_ in ids:
            control = self.special_token_texts.get(id_)
            parts.append(control.encode() if control is not None else self.pieces.get(id_, b"\xff"))
        return b"".join(parts).decode("utf-8", errors="replace")


class AddedToken(Protocol):
    """An added token, in Transformers and tokenizers."""

    content: str


class TransformersTokenizer(Protocol):
    """What is used of a tokenizer of Transformers, slow or fast."""

    eos_token_id: int | None
    pad_token_id: int | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...  # noqa: D102 - the library's

    def __len__(self) -> int: ...

    def get_vocab(self) -> Mapping[str, int]: ...  # noqa: D102 - the library's

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...  # noqa: D102 - the library's


class Encoding(Protocol):
    """What `tokenizers.Tokenizer.encode` returns."""

    ids: Sequence[int]


class TokenizersTokenizer(Protocol):
    """What is used of a `tokenizers.Tokenizer`."""

    padding: Mapping[str, Any] | None

    def get_vocab(self) -> Mapping[str, int]: ...  # noqa: D102 - the library's

    def get_vocab_size(self) -> int: ...  # noqa: D102 - the library's

    def get_added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...  # noqa: D102 - the library's

    def encode(self, text: str, *, add_special_tokens: bool) -> Encoding: ...  # noqa: D102 - the library's


class MistralVersion(Protocol):
    """The version of a tokenizer of mistral-common: v1, v3, ..."""

    value: str


class MistralTokenizer(Protocol):
    """What is used of a tokenizer of mistral-common: Tekken (which has `id_to_byte_piece`) or SentencePiece (which doesn't)."""

    n_words: int
    bos_id: int
    eos_id: int
    pad_id: int | None
    special_ids: Set[int]
    version: MistralVersion

    def id_to_piece(self, token_id: int, /) -> str: ...  # noqa: D102 - the library's

    def encode(self, s: str, /, *, bos: bool, eos: bool) -> Sequence[int]: ...  # noqa: D102 - the library's


class TiktokenEncoding(Protocol):
    """What is used of a `tiktoken.Encoding`."""

    name: str
    n_vocab: int
    special_tokens_set: Set[str]

    def encode_single_token(self, text: str, /) -> int: ...  # noqa: D102 - the library's

    def decode_single_token_bytes(self, token: int, /) -> bytes: ...  # noqa: D102 - the library's

    def encode(self, text: str, *, allowed_special: str) -> Sequence[int]: ...  # noqa: D102 - the library's


class _Kind(NamedTuple):
    """A kind of tokenizer: how it is read, how it encodes, and what tells that it has changed since."""

    read: Callable[[Any], Vocabulary]
    encode: Callable[[Any, Vocabulary, str], list[int]]
    state: Callable[[Any], Hashable]


_known: WeakKeyDictionary[object, tuple[Hashable, Vocabulary]] = WeakKeyDictionary()
"""Tokenizer -> its state, and the vocabulary that was read in it. Reading takes a second, and `detect`, `compile` and others do it.

The vocabularies cannot encode: they would keep the tokenizer, their key, alive.
"""


def read_vocabulary(tokenizer: object, *, keep: bool = True) -> Vocabulary:
    """Read the vocabulary of a tokenizer or processor, once for as long as the tokenizer lives and stays the same.

    It can be a tokenizer or processor of Transformers, a `tokenizers.Tokenizer`, a tokenizer of mistral-common, a `tiktoken.Encoding`,
    rolemask's own ToyTokenizer, or anything that has one of these as its attribute `tokenizer`. Processors set that attribute at run time,
    so the parameter is an `object`: a narrower type would reject them.

    A tokenizer that has gained tokens since, or has another name, BOS, EOS or padding token, is read anew; so is one that has no length, no
    hash or no weak references.

    Args:
        tokenizer: The tokenizer or processor.
        keep: Whether the vocabulary keeps the tokenizer alive. Otherwise it can encode only as long as someone else does.

    Raises:
        UnsupportedTokenizerError: The object is none of these.
    """
    own = getattr(tokenizer, "vocabulary", tokenizer)
    if isinstance(own, Vocabulary):
        return own
    inner, kind = _find_kind(tokenizer)
    vocabulary = _read(inner, kind)
    reference: Callable[[], object] = (lambda: inner) if keep else _weak_reference(inner)

    def encode(text: str) -> list[int]:
        found = reference()
        if found is None:
            raise UnsupportedTokenizerError(f"the tokenizer {vocabulary.name!r} is gone, so nothing can be encoded with it any more")
        return kind.encode(found, vocabulary, text)

    return replace(vocabulary, encode=encode)


def _read(tokenizer: object, kind: _Kind) -> Vocabulary:
    try:
        state = kind.state(tokenizer)
        before = _known.get(tokenizer)
    except (TypeError, AttributeError, NotImplementedError):  # no length, no hash or no weak references
        return kind.read(tokenizer)
    if before is not None and before[0] == state:
        return before[1]
    vocabulary = kind.read(tokenizer)
    _known[tokenizer] = (state, vocabulary)
    return vocabulary


def _weak_reference(value: object) -> Callable[[], object]:
    try:
        return ref(value)
    except TypeError:  # its type has none
        return lambda: value


def _find_kind(tokenizer: object) -> tuple[object, _Kind]:
    """Return the tokenizer, or the one inside a processor, and its kind."""
    if hasattr(tokenizer, "decode_single_token_bytes"):
        return tokenizer, _TIKTOKEN
    if hasattr(tokenizer, "id_to_piece") and hasattr(tokenizer, "n_words"):
        return tokenizer, _MISTRAL_COMMON
    if hasattr(tokenizer, "get_vocab") and isinstance(getattr(tokenizer, "added_tokens_decoder", None), Mapping):
        return tokenizer, _TRANSFORMERS
    if hasattr(tokenizer, "get_vocab") and hasattr(tokenizer, "get_added_tokens_decoder"):
        return tokenizer, _TOKENIZERS
    if hasattr(tokenizer, "instruct_tokenizer"):
        return _find_kind(tokenizer.instruct_tokenizer)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and inner is not tokenizer:
        return _find_kind(inner)
    raise UnsupportedTokenizerError(
        f"cannot read the vocabulary of {type(tokenizer).__name__!r}. Pass a tokenizer or processor of Transformers, tokenizers, "
        "mistral-common or tiktoken, or a marker set that gives its markers as {ids: [...]}"
    )


def mistral_version(tokenizer: object) -> str | None:
    """Return the version of a tokenizer of mistral-common, such as ``v3``; None for any other."""
    try:
        inner, kind = _find_kind(tokenizer)
    except UnsupportedTokenizerError:
        return None
    return str(cast("MistralTokenizer", inner).version.value) if kind is _MISTRAL_COMMON else None


def spelled(pieces: Mapping[str, int], special_tokens: Iterable[str]) -> Pieces:
    """Return id -> bytes for a vocabulary of strings, without the special tokens.

    Recognised by how a space is written: SentencePiece writes U+2581 (and odd bytes as <0x0A>); byte-level BPE writes every byte as a
    printable character (Radford et al. 2019, `bytes_to_unicode`); anything else is plain text.
    """
    texts = dict(pieces)  # quicker than to choose among them
    for text in special_tokens:
        texts.pop(text, None)
    if META_SPACE in pieces:
        return Pieces.of_texts(texts.values(), _metaspace_bytes([*texts]))
    if BYTE_LEVEL_SPACE in pieces:
        return _byte_level_pieces(texts)
    return Pieces.of_texts(texts.values(), [text.encode() for text in texts])


# What follows works on all pieces at once where it can: a call for each of some hundred thousand takes longer than all the rest.


def _metaspace_bytes(texts: Sequence[str]) -> list[bytes]:
    spellings = "\0".join(texts).replace(META_SPACE, " ").encode().split(b"\0")
    if len(spellings) != len(texts):  # one has this character in it, or there is none
        spellings = [text.replace(META_SPACE, " ").encode() for text in texts]
    for index, text in enumerate(texts):
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            spellings[index] = bytes([int(text[3:5], 16)])
    return spellings


def _byte_level_pieces(texts: Mapping[str, int]) -> Pieces:
    alphabet = _byte_level_alphabet()
    ids, lengths, joined = in_order(texts.values(), texts, "")
    if strange := set(joined) - alphabet.keys():  # added tokens that are written as they are, among the others
        spellings = [bytes(map(alphabet.__getitem__, text)) if strange.isdisjoint(text) else text.encode() for text in texts]
        return Pieces.of_texts(texts.values(), spellings)
    for char, byte in alphabet.items():
        if char != chr(byte):
            joined = joined.replace(char, chr(byte))  # quicker than `translate`
    return Pieces(ids, lengths, joined.encode("latin-1"))


def _byte_level_alphabet() -> dict[str, int]:
    """Return character -> byte: printable Latin-1 is itself, all other bytes are moved to U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(moved)}


def _is_control(text: str) -> bool:
    # Gemma adds runs of newlines and of SentencePiece's spaces as tokens; they are text.
    return bool(text) and not text.replace(META_SPACE, " ").isspace()


def _from_transformers(tokenizer: TransformersTokenizer) -> Vocabulary:
    return _from_strings(
        getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__,
        tokenizer.get_vocab(),
        {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()},
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        getattr(tokenizer, "bos_token_id", None),
    )


def _encode_with_transformers(tokenizer: TransformersTokenizer, vocabulary: Vocabulary, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _state_in_transformers(tokenizer: TransformersTokenizer) -> Hashable:
    ids = (getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id", "bos_token_id"))
    added = tuple((id_, token.content) for id_, token in tokenizer.added_tokens_decoder.items())
    return len(tokenizer), getattr(tokenizer, "name_or_path", ""), *ids, added


def _from_tokenizers(tokenizer: TokenizersTokenizer) -> Vocabulary:
    added = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items()}
    return _from_strings("tokenizers.Tokenizer", tokenizer.get_vocab(), added, None, (tokenizer.padding or {}).get("pad_id"))


def _encode_with_tokenizers(tokenizer: TokenizersTokenizer, vocabulary: Vocabulary, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _state_in_tokenizers(tokenizer: TokenizersTokenizer) -> Hashable:
    added = tuple((id_, token.content) for id_, token in tokenizer.get_added_tokens_decoder().items())
    return tokenizer.get_vocab_size(), (tokenizer.padding or {}).get("pad_id"), added


def _from_strings(
    name: str, vocabulary: Mapping[str, int], added: Mapping[str, int], eos_id: int | None, pad_id: int | None, bos_id: int | None = None
) -> Vocabulary:
    special_tokens = {text: id_ for text, id_ in added.items() if _is_control(text)}
    pieces = spelled(vocabulary, special_tokens)
    added_text = {text: id_ for text, id_ in added.items() if text not in special_tokens}
    in_another_way = {
        id_: text for id_, text in zip(added_text.values(), _metaspace_bytes([*added_text]), strict=True) if pieces.get(id_) != text
    }
    if in_another_way:
        pieces = Pieces.of({**pieces, **in_another_way})
    return Vocabulary(name, pieces, special_tokens, None, eos_id, pad_id, bos_id)


def _from_mistral_common(tokenizer: MistralTokenizer) -> Vocabulary:
    special_tokens = {tokenizer.id_to_piece(id_): id_ for id_ in sorted(tokenizer.special_ids)}
    if hasattr(tokenizer, "id_to_byte_piece"):  # Tekken: bytes
        special_ids = {*tokenizer.special_ids}
        ids = range(tokenizer.n_words)
        pieces: Mapping[int, bytes] = {id_: tokenizer.id_to_byte_piece(id_) for id_ in ids if id_ not in special_ids}
    else:  # SentencePiece: strings
        pieces = spelled({tokenizer.id_to_piece(id_): id_ for id_ in range(tokenizer.n_words)}, special_tokens)
    pad_id = tokenizer.pad_id if tokenizer.pad_id is not None and tokenizer.pad_id >= 0 else None
    name = f"{type(tokenizer).__name__} {tokenizer.version.value}"
    return Vocabulary(name, pieces, special_tokens, None, tokenizer.eos_id, pad_id, tokenizer.bos_id)


def _encode_with_mistral_common(tokenizer: MistralTokenizer, vocabulary: Vocabulary, text: str) -> list[int]:
    # mistral-common never encodes a special token from text, so the text is cut at them here.
    ids: list[int] = []
    for part in cut_at_special_tokens(text, vocabulary.special_tokens):
        ids += [part] if isinstance(part, int) else tokenizer.encode(part, bos=False, eos=False)
    return ids


def _state_in_mistral_common(tokenizer: MistralTokenizer) -> Hashable:
    return (
        tokenizer.n_words,
        tokenizer.version.value,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.bos_id,
        frozenset(tokenizer.special_ids),
    )


def _from_tiktoken(tokenizer: TiktokenEncoding) -> Vocabulary:
    special_tokens = {text: tokenizer.encode_single_token(text) for text in tokenizer.special_tokens_set}
    taken = set(special_tokens.values())
    pieces = {}
    for id_ in range(tokenizer.n_vocab):
        if id_ not in taken:
            try:
                pieces[id_] = tokenizer.decode_single_token_bytes(id_)
            except KeyError:  # tiktoken vocabularies may have holes
                continue
    return Vocabulary(tokenizer.name, pieces, special_tokens, None, special_tokens.get("<|endoftext|>"))


def _encode_with_tiktoken(tokenizer: TiktokenEncoding, vocabulary: Vocabulary, text: str) -> list[int]:
    return list(tokenizer.encode(text, allowed_special="all"))


def _state_in_tiktoken(tokenizer: TiktokenEncoding) -> Hashable:
    return tokenizer.name, tokenizer.n_vocab, frozenset(tokenizer.special_tokens_set)


_TRANSFORMERS = _Kind(_from_transformers, _encode_with_transformers, _state_in_transformers)
_TOKENIZERS = _Kind(_from_tokenizers, _encode_with_tokenizers, _state_in_tokenizers)
_MISTRAL_COMMON = _Kind(_from_mistral_common, _encode_with_mistral_common, _state_in_mistral_common)
_TIKTOKEN = _Kind(_from_tiktoken, _encode_with_tiktoken, _state_in_tiktoken)


def cut_at_special_tokens(text: str, special_tokens: Mapping[str, int]) -> list[str | int]:
    """Cut a text at its special tokens, at each place the longest: special tokens become ids, the rest stays text.

    >>> cut_at_special_tokens("<|end|>Hello", {"<|end|>": 7})
    [7, 'Hello']
    """
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

"""A tokenizer made from a marker set, so that examples and `explain` run offline and without other packages."""

import re
from collections.abc import Iterable

from rolemask.markers.spec import MarkerSet
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens

DEFAULT_BOS, DEFAULT_EOS = "<s>", "</s>"
# Words with the space before them, runs of white space, runs of anything else: roughly the tokens of byte-level BPE.
_WORD = re.compile(r" ?\w+|\s+|[^\w\s]+")


class ToyTokenizer:
    """Has a token for each special token of the marker set, each word of `texts`, and each byte; and the special tokens of `like`.

    >>> from rolemask import load
    >>> tokenizer = ToyTokenizer(load("chatml"), ["Hello world"])
    >>> [tokenizer.vocabulary.text([id_]) for id_ in tokenizer.encode("<|im_start|>Hello world!")]
    ['<|im_start|>', 'Hello', ' world', '!']
    """

    def __init__(self, markers: MarkerSet, texts: Iterable[str] = (), like: Vocabulary | None = None) -> None:
        theirs = {} if like is None else like.special_token_texts
        ends = (None, None, None) if like is None else (like.eos_id, like.bos_id, like.pad_id)
        eos, bos, pad = (None if id_ is None else theirs.get(id_) for id_ in ends)
        eos, bos = eos or markers.eos_token or DEFAULT_EOS, bos or DEFAULT_BOS
        media = [token for token in markers.media_tokens if "*" not in token]
        special_tokens = dict.fromkeys([*markers.special_tokens, *media, eos, bos, *theirs.values()])
        self._special_tokens = {text: 256 + index for index, text in enumerate(special_tokens)}
        words = {
            word
            for text in texts
            for part in cut_at_special_tokens(text, self._special_tokens)
            if isinstance(part, str)
            for word in _WORD.findall(part)
        }
        first = 256 + len(self._special_tokens)
        self._words = {word: first + index for index, word in enumerate(sorted(words))}
        self.vocabulary = Vocabulary(
            name=f"the toy tokenizer of {markers.name!r}",
            pieces={byte: bytes([byte]) for byte in range(256)} | {id_: word.encode() for word, id_ in self._words.items()},
            special_tokens=self._special_tokens,
            encode=self.encode,
            eos_id=self._special_tokens[eos],
            bos_id=self._special_tokens[bos],
            pad_id=None if pad is None else self._special_tokens[pad],
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without a BOS or EOS token added."""
        ids: list[int] = []
        for part in cut_at_special_tokens(text, self._special_tokens):
            if isinstance(part, int):
                ids.append(part)
                continue
            for word in _WORD.findall(part):
                ids += [self._words[word]] if word in self._words else list(word.encode())
        return ids

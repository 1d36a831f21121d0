"""A tokenizer made from a marker set alone, so that examples and `explain` run offline and without any package."""

import re
from collections.abc import Iterable

from rolemask.markers.spec import MarkerSet
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens

DEFAULT_EOS = "</s>"
# Words with the space before them, runs of white space, runs of anything else: about what byte-level BPE makes of a text.
_WORD = re.compile(r" ?\w+|\s+|[^\w\s]+")


class ToyTokenizer:
    """Special tokens of the marker set, the words of `texts`, and single bytes for the rest.

    >>> from rolemask import load
    >>> tokenizer = ToyTokenizer(load("chatml"), ["Hello world"])
    >>> [tokenizer.vocabulary.text([id_]) for id_ in tokenizer.encode("<|im_start|>Hello world!")]
    ['<|im_start|>', 'Hello', ' world', '!']
    """

    def __init__(self, markers: MarkerSet, texts: Iterable[str] = ()) -> None:
        eos = markers.eos_token or DEFAULT_EOS
        media = [token for token in markers.media_tokens if "*" not in token]
        special_tokens = dict.fromkeys([*markers.special_tokens, *media, eos])
        self._controls = {text: 256 + index for index, text in enumerate(special_tokens)}
        words = {
            word
            for text in texts
            for part in cut_at_special_tokens(text, self._controls)
            if isinstance(part, str)
            for word in _WORD.findall(part)
        }
        first = 256 + len(self._controls)
        self._words = {word: first + index for index, word in enumerate(sorted(words))}
        self.vocabulary = Vocabulary(
            name=f"the toy tokenizer of {markers.name!r}",
            pieces={byte: bytes([byte]) for byte in range(256)} | {id_: word.encode() for word, id_ in self._words.items()},
            special_tokens=self._controls,
            encode=self.encode,
            eos_id=self._controls[eos],
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added to it."""
        ids: list[int] = []
        for part in cut_at_special_tokens(text, self._controls):
            if isinstance(part, int):
                ids.append(part)
                continue
            for word in _WORD.findall(part):
                ids += [self._words[word]] if word in self._words else list(word.encode())
        return ids

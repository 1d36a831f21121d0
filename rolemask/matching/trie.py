"""Marker texts x vocabulary -> token trie: every way in which tokens can spell a marker.

Tokenizers do not tokenize a marker the same everywhere: its last newline merges with the newlines of the content, its first ``#`` with the
full stop before it. So a marker is not encoded and looked for; instead the trie holds all token sequences whose text contains the marker,
where only the first token may begin before it and only the last may go on behind it. That is a statement about texts, true of any
tokenization, and needs nothing from the tokenizer but the spelling of its ids.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rolemask.matching.vocabulary import Vocabulary

Symbol = int
"""A byte of text (0 to 255), or a token that is matched whole: `whole(id)`."""


def whole(id_: int) -> Symbol:
    """Return the symbol of a token that is matched whole."""
    return -1 - id_


class Entry(NamedTuple):
    """One way to write a marker, and what a match of it means to the caller."""

    symbols: tuple[Symbol, ...]
    value: int


@dataclass(frozen=True)
class TokenTrie:
    """A deterministic automaton over token ids: `edges[state][id]` is the next state, `accept[state]` a value or -1."""

    edges: tuple[dict[int, int], ...] = ({},)
    accept: tuple[int, ...] = (-1,)

    def match(self, ids: Sequence[int], at: int) -> tuple[int, int] | None:
        """Return (value, number of tokens) of the longest match that begins at token `at`, or None."""
        state, best = 0, None
        for position in range(at, len(ids)):
            state = self.edges[state].get(ids[position], -1)
            if state < 0:
                break
            if self.accept[state] >= 0:
                best = self.accept[state], position - at + 1
        return best

    @property
    def values(self) -> set[int]:
        """Every value that some token sequence leads to."""
        return {value for value in self.accept if value >= 0}


class _Node:
    """A node of the trie of symbols. `rank` orders what ends here: longer first, then earlier declared."""

    __slots__ = ("accept", "children", "depth")

    def __init__(self, depth: int) -> None:
        self.children: dict[Symbol, _Node] = {}
        self.depth = depth
        self.accept = -1


class _Step(NamedTuple):
    """Where a token leads: the nodes at which the marker may go on, and the best marker that has ended."""

    nodes: frozenset[_Node]
    depth: int
    accept: int


def build_trie(entries: Sequence[Entry], vocabulary: Vocabulary) -> TokenTrie:
    """Build the token trie of `entries`. Of two matches with as many tokens, the longer text wins, then the earlier entry."""
    root = _Node(0)
    for entry in entries:
        node = root
        for symbol in entry.symbols:
            node = node.children.setdefault(symbol, _Node(node.depth + 1))
        if node.accept < 0:
            node.accept = entry.value
    builder = _Builder(root, vocabulary)
    return builder.build()


class _Builder:
    def __init__(self, root: _Node, vocabulary: Vocabulary) -> None:
        self.root = root
        self.vocabulary = vocabulary

    def build(self) -> TokenTrie:
        states: dict[tuple[frozenset[_Node], int], int] = {(frozenset([self.root]), -1): 0}
        queue = list(states)
        edges: list[dict[int, int]] = []
        for nodes, _ in queue:  # grows while it is walked
            steps: dict[int, _Step] = {}
            for node in nodes:
                self._add_steps(node, steps)
            if not edges:
                self._add_inner_starts(steps)
            out = {}
            for id_, step in steps.items():
                key = (step.nodes, step.accept)
                if key not in states:
                    states[key] = len(queue)
                    queue.append(key)
                out[id_] = states[key]
            edges.append(out)
        return TokenTrie(tuple(edges), tuple(accept for _, accept in queue))

    def _add_steps(self, node: _Node, steps: dict[int, _Step]) -> None:
        """Add every token that goes on from `node`, or that ends a marker and goes on behind it."""
        for symbol, child in node.children.items():
            if symbol < 0:
                _merge(steps, [-1 - symbol], _step_to(child))
        ids_of_piece = self.vocabulary.ids_of_piece
        for text, child in _texts_below(node):
            if text in ids_of_piece:
                _merge(steps, ids_of_piece[text], self._walk(node, text))
            if child.accept >= 0:
                for piece in self._pieces_beyond(text):
                    _merge(steps, ids_of_piece[piece], self._walk(node, piece))

    def _add_inner_starts(self, steps: dict[int, _Step]) -> None:
        """Add every token in whose middle a marker begins."""
        for first in (symbol for symbol in self.root.children if symbol >= 0):
            byte = bytes([first])
            for piece, ids in self.vocabulary.ids_of_piece.items():
                at = piece.find(byte, 1)
                while at > 0:
                    step = self._walk(self.root, piece[at:])
                    if step is not None:
                        _merge(steps, ids, step)
                    at = piece.find(byte, at + 1)

    def _pieces_beyond(self, text: bytes) -> Iterator[bytes]:
        pieces = self.vocabulary.sorted_pieces
        for index in range(bisect_left(pieces, text), len(pieces)):
            if not pieces[index].startswith(text):
                break
            if pieces[index] != text:
                yield pieces[index]

    @staticmethod
    def _walk(node: _Node, piece: bytes) -> _Step | None:
        """Follow one token's bytes; None where they leave the trie before any marker has ended."""
        depth, accept = 0, -1
        for byte in piece:
            child = node.children.get(byte)
            if child is None:
                return _Step(frozenset(), depth, accept) if accept >= 0 else None
            node = child
            if node.accept >= 0:
                depth, accept = node.depth, node.accept
        return _Step(frozenset([node]) if node.children else frozenset(), depth, accept)


def _texts_below(node: _Node) -> Iterator[tuple[bytes, _Node]]:
    """Yield every text that leads from `node` to a node below it."""
    stack = [(b"", node)]
    while stack:
        text, here = stack.pop()
        for symbol, child in here.children.items():
            if symbol >= 0:
                below = text + bytes([symbol])
                yield below, child
                stack.append((below, child))


def _step_to(node: _Node) -> _Step:
    return _Step(frozenset([node]) if node.children else frozenset(), node.depth if node.accept >= 0 else 0, node.accept)


def _merge(steps: dict[int, _Step], ids: Iterable[int], step: _Step | None) -> None:
    if step is None:
        return
    for id_ in ids:
        old = steps.get(id_)
        if old is None:
            steps[id_] = step
            continue
        longer = step if (step.depth, -step.accept) > (old.depth, -old.accept) else old
        steps[id_] = _Step(old.nodes | step.nodes, longer.depth, longer.accept)

"""Marker texts x vocabulary -> token trie: every way in which tokens can spell a marker.

A tokenizer does not tokenize a marker the same everywhere: its last newline merges with the newlines of the content, its first ``#`` with
the full stop before it. So the trie does not hold the encoded marker. It holds all token sequences whose text contains the marker, where
only the first token may begin before it and only the last may end after it. This holds for any tokenization, and needs only the spelling
of each id.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from rolemask.matching.packing import pack, pack_dicts, unpack, unpack_dicts
from rolemask.matching.vocabulary import Vocabulary

Symbol = int
"""A byte of text (0 to 255), or a token that is matched whole: `whole(id)`."""


def whole(id_: int) -> Symbol:
    """Return the symbol of a token that is matched whole."""
    return -1 - id_


class Entry(NamedTuple):
    """One spelling of a marker, and the value that a match returns."""

    symbols: tuple[Symbol, ...]
    value: int


class Match(NamedTuple):
    """A marker that matches at a token: the value of its entry, and how many tokens it takes."""

    value: int
    length: int


@dataclass(frozen=True)
class TokenTrie:
    """A deterministic automaton over token ids: `edges[state][id]` is the next state, `accept[state]` a value or -1."""

    edges: tuple[dict[int, int], ...] = ({},)
    accept: tuple[int, ...] = (-1,)

    def match(self, ids: Sequence[int], at: int) -> Match | None:
        """Return the longest match that begins at token `at`, or None."""
        if ids[at] not in self.edges[0]:
            return None  # most tokens begin no marker
        state, best = 0, None
        for position in range(at, len(ids)):
            state = self.edges[state].get(ids[position], -1)
            if state < 0:
                break
            if self.accept[state] >= 0:
                best = Match(self.accept[state], position - at + 1)
        return best

    @property
    def values(self) -> set[int]:
        """The values that some token sequence matches."""
        return {value for value in self.accept if value >= 0}

    def __getstate__(self) -> tuple[tuple[bytes, bytes, bytes], bytes]:
        return pack_dicts(self.edges), pack([1 + value for value in self.accept])

    def __setstate__(self, state: tuple[tuple[bytes, bytes, bytes], bytes]) -> None:
        self.__dict__.update(edges=tuple(unpack_dicts(state[0])), accept=tuple(value - 1 for value in unpack(state[1])))


class _Node:
    """A node of the trie of symbols. `accept` is the value of the marker that ends here, or -1."""

    __slots__ = ("accept", "children", "depth", "number")

    def __init__(self, depth: int, number: int) -> None:
        self.children: dict[Symbol, _Node] = {}
        self.depth = depth
        self.number = number
        self.accept = -1


class _Step(NamedTuple):
    """Where a token leads: the nodes from which a marker may go on, and the longest marker that has ended, of `depth` symbols."""

    nodes: frozenset[_Node]
    depth: int
    accept: int


def build_trie(entries: Sequence[Entry], vocabulary: Vocabulary) -> TokenTrie:
    """Build the token trie of `entries`. Of two matches with as many tokens, the longer text wins, then the earlier entry."""
    root = _Node(0, 0)
    count = 1
    for entry in entries:
        node = root
        for symbol in entry.symbols:
            if symbol not in node.children:
                node.children[symbol] = _Node(node.depth + 1, count)
                count += 1
            node = node.children[symbol]
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
        for nodes, _ in queue:  # grows during the loop
            steps: dict[int, _Step] = {}
            for node in sorted(nodes, key=attrgetter("number")):  # the order of a set is another one in each process
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
        """Add every token that continues from `node`, those that end after the marker included."""
        for symbol, child in node.children.items():
            if symbol < 0:
                _merge(steps, [-1 - symbol], _step_to(child))
        index = self.vocabulary.index
        for text, child in _texts_below(node):
            if ids := index.ids_of(text):
                _merge(steps, ids, self._walk(node, text))
            if child.accept >= 0:
                for piece in index.longer(text):
                    _merge(steps, index.ids_of(piece), self._walk(node, piece))

    def _add_inner_starts(self, steps: dict[int, _Step]) -> None:
        """Add every token with a marker that begins inside it."""
        index = self.vocabulary.index
        for first, child in self.root.children.items():
            if first < 0:
                continue
            if child.accept >= 0:
                tails = index.inside(bytes([first]))
            else:
                last = _step_to(child)
                for id_ in index.ending_with(first):
                    _merge(steps, [id_], last)
                tails = [tail for second in child.children if second >= 0 for tail in index.inside(bytes([first, second]))]
            for id_, tail in tails:
                _merge(steps, [id_], self._walk(self.root, tail))

    @staticmethod
    def _walk(node: _Node, piece: bytes) -> _Step | None:
        """Follow the bytes of one token; None if they leave the trie before a marker has ended."""
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
    """Yield the nodes below `node`, each with the text that leads to it."""
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

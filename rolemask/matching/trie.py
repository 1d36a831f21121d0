"""Marker texts x vocabulary -> token trie: every way in which tokens can spell a marker.

A tokenizer does not tokenize a marker the same everywhere: its last newline merges with the newlines of the content, its first ``#`` with
the full stop before it. So the trie does not hold the encoded marker. It holds all token sequences whose text contains the marker, where
only the first token may begin before it and only the last may end after it. This holds for any tokenization, and needs only the spelling
of each id.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from rolemask.matching.packing import pack, pack_dicts, pack_ids, unpack, unpack_dicts, unpack_ids
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
    """A deterministic automaton over token ids.

    A marker that ends in a space ends in every token that begins with one, which is half of the vocabulary, and there may be many such
    markers. So the ids that differ in nothing are kept once, as a set.

    Attributes:
        edges: state -> id -> the next state.
        sets: Sets of ids.
        by_set: state -> (an index into `sets`, the next state), for ids without an edge; of two sets with an id, the first counts.
        accept: state -> the value of the match that ends here, or -1.
    """

    edges: tuple[dict[int, int], ...] = ({},)
    sets: tuple[Set[int], ...] = ()
    by_set: tuple[tuple[tuple[int, int], ...], ...] = ((),)
    accept: tuple[int, ...] = (-1,)

    def step(self, state: int, id_: int) -> int:
        """Return the state after a token, -1 if no marker goes on with it."""
        after = self.edges[state].get(id_, -1)
        if after < 0 and self.by_set[state]:
            return next((after for number, after in self.by_set[state] if id_ in self.sets[number]), -1)
        return after

    def match(self, ids: Sequence[int], at: int) -> Match | None:
        """Return the longest match that begins at token `at`, or None."""
        if ids[at] not in self.edges[0] and not self.by_set[0]:
            return None  # most tokens begin no marker
        state, best = 0, None
        for position in range(at, len(ids)):
            state = self.step(state, ids[position])
            if state < 0:
                break
            if self.accept[state] >= 0:
                best = Match(self.accept[state], position - at + 1)
        return best

    @property
    def first_ids(self) -> set[int]:
        """The ids of the tokens that can begin a match."""
        return {*self.edges[0]}.union(*(self.sets[number] for number, _ in self.by_set[0]))

    @property
    def is_empty(self) -> bool:
        """Whether no token sequence matches."""
        return not (self.edges[0] or self.by_set[0])

    def knows(self, id_: int) -> bool:
        """Whether the token is in some token sequence that matches."""
        return any(id_ in edges for edges in self.edges) or any(id_ in ids for ids in self.sets)

    @property
    def values(self) -> set[int]:
        """The values that some token sequence matches."""
        return {value for value in self.accept if value >= 0}

    def __getstate__(self) -> tuple[Any, ...]:
        by_set = pack_dicts([*map(dict, self.by_set)])
        return pack_dicts(self.edges), [*map(pack_ids, self.sets)], by_set, pack([1 + value for value in self.accept])

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        edges, sets, by_set, accept = state
        self.__dict__.update(
            edges=tuple(unpack_dicts(edges)),
            sets=tuple(frozenset(unpack_ids(ids)) for ids in sets),
            by_set=tuple(tuple(after.items()) for after in unpack_dicts(by_set)),
            accept=tuple(value - 1 for value in unpack(accept)),
        )


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


FEW = 64
"""A set of at most so many ids is written out as edges."""


class _Builder:
    def __init__(self, root: _Node, vocabulary: Vocabulary) -> None:
        self.root = root
        self.index = vocabulary.index
        self.states: dict[tuple[frozenset[_Node], int], int] = {}
        self.queue: list[tuple[frozenset[_Node], int]] = []
        self.sets: dict[bytes, int] = {}

    def build(self) -> TokenTrie:
        self._number(frozenset([self.root]), -1)
        edges: list[dict[int, int]] = []
        by_set: list[tuple[tuple[int, int], ...]] = []
        for nodes, _ in self.queue:  # grows during the loop
            steps: dict[int, _Step] = {}
            ended: dict[bytes, _Step] = {}
            for node in sorted(nodes, key=attrgetter("number")):  # the order of a set is another one in each process
                self._add_steps(node, steps, ended)
            if not edges:
                self._add_inner_starts(steps)
            spread = self._spread(ended, steps)
            edges.append({id_: self._number(step.nodes, step.accept) for id_, step in steps.items()})
            by_set.append(
                tuple((self.sets.setdefault(text, len(self.sets)), self._number(step.nodes, step.accept)) for text, step in spread)
            )
        sets = tuple(self.index.longer_ids(text) for text in self.sets)
        return TokenTrie(tuple(edges), sets, tuple(by_set), tuple(accept for _, accept in self.queue))

    def _number(self, nodes: frozenset[_Node], accept: int) -> int:
        key = (nodes, accept)
        if key not in self.states:
            self.states[key] = len(self.queue)
            self.queue.append(key)
        return self.states[key]

    def _add_steps(self, node: _Node, steps: dict[int, _Step], ended: dict[bytes, _Step]) -> None:
        """Add every token that continues from `node`, to `steps`; and to `ended` the texts with which a marker ends, for longer tokens."""
        for symbol, child in node.children.items():
            if symbol < 0:
                _merge(steps, [-1 - symbol], _step_to(child))
        for text, child in self._texts_below(node):
            if ids := self.index.ids_of(text):
                _merge(steps, ids, self._walk(node, text))
            if child.accept >= 0:
                _merge(ended, [text], _Step(frozenset(), child.depth, child.accept))

    def _spread(self, ended: dict[bytes, _Step], steps: dict[int, _Step]) -> list[tuple[bytes, _Step]]:
        """Add the tokens that begin with a text and go on, and end after the marker. Return the texts that have many, the first to count.

        If such a token ends in another marker, `steps` has it already; and if it has more than one marker in it, it has more of the texts.
        """
        many = []
        for text, step in sorted(ended.items(), key=lambda item: (-item[1].depth, item[1].accept, item[0])):
            if len(ids := self.index.longer_ids(text)) > FEW:
                many.append((text, step))
            else:
                _merge(steps, ids, step)
        for text, step in many:  # last: an edge counts before the sets
            _merge(steps, self.index.longer_ids(text).intersection(steps), step)
        return many

    def _texts_below(self, node: _Node) -> Iterator[tuple[bytes, _Node]]:
        """Yield the nodes below `node` that a token may reach, each with the text that leads to it."""
        stack = [(b"", node)]
        while stack:
            text, here = stack.pop()
            for symbol, child in here.children.items():
                below = text + bytes([symbol]) if symbol >= 0 else b""
                if below and len(below) <= self.index.longest(below):
                    yield below, child
                    stack.append((below, child))

    def _add_inner_starts(self, steps: dict[int, _Step]) -> None:
        """Add every token with a marker that begins inside it."""
        for first, child in self.root.children.items():
            if first < 0:
                continue
            if child.accept >= 0:
                tails = self.index.inside(bytes([first]))
            else:
                last = _step_to(child)
                for id_ in self.index.ending_with(first):
                    _merge(steps, [id_], last)
                tails = [tail for second in child.children if second >= 0 for tail in self.index.inside(bytes([first, second]))]
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


_Key = TypeVar("_Key", int, bytes)


def _step_to(node: _Node) -> _Step:
    return _Step(frozenset([node]) if node.children else frozenset(), node.depth if node.accept >= 0 else 0, node.accept)


def _merge(steps: dict[_Key, _Step], keys: Iterable[_Key], step: _Step | None) -> None:
    if step is None:
        return
    for key in keys:
        old = steps.get(key)
        if old is None:
            steps[key] = step
            continue
        longer = step if (step.depth, -step.accept) > (old.depth, -old.accept) else old
        steps[key] = _Step(old.nodes | step.nodes, longer.depth, longer.accept)

"""All tries of a rule set, combined into one automaton that reads the tokens from a position on and tells which markers match there.

What it keeps grows with the markers, not with their product: of the tries, a state names those that are still alive and those that have
matched, and a step names the tokens that don't kill them all. Rules with the same markers share a trie.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rolemask.matching.compiler import Rules
from rolemask.matching.packing import pack, pack_dicts, pack_ids, unpack, unpack_dicts, unpack_ids
from rolemask.matching.trie import Match, TokenTrie

Matches = tuple[tuple[int, Match], ...]
"""The markers that match at a position: the longest match of each trie that has one, by the number of the trie (`Tries`)."""

STARTS, SPECIAL_STARTS, DOCUMENT_STARTS = 0, 1, 2
NO_TRIE = -1


@dataclass(frozen=True)
class Tries:
    """The tries of a rule set, and the number of each; the first three are STARTS, SPECIAL_STARTS and DOCUMENT_STARTS.

    Attributes:
        tries: The tries; each is there once, however many rules have it.
        ends: Rule -> the number of the trie of its end markers; NO_TRIE where it has none.
        header_ends: Rule -> ... of what ends its header.
        own_starts: Rule -> ... of its own starts.
        spans: Role of a turn -> ... of the spans in it; a role that is missing has none.
    """

    tries: list[TokenTrie]
    ends: list[int]
    header_ends: list[int]
    own_starts: list[int]
    spans: Mapping[int, int]


def tries_of(rules: Rules) -> Tries:
    """Number the tries of `rules`."""
    tries = [rules.starts, rules.special_starts, rules.document_starts]
    numbers: dict[int, int] = {}

    def number(trie: TokenTrie | None) -> int:
        if trie is None or trie.is_empty:
            return NO_TRIE
        if id(trie) not in numbers:
            numbers[id(trie)] = len(tries)
            tries.append(trie)
        return numbers[id(trie)]

    return Tries(
        ends=[number(rule.ends) for rule in rules.rules],
        header_ends=[number(rule.header_ends) for rule in rules.rules],
        own_starts=[number(rule.own_starts) for rule in rules.rules],
        spans={role: number(trie) for role, trie in rules.spans.items()},
        tries=tries,
    )


@dataclass(frozen=True)
class Matcher:
    """The combined tries; state 0 is the start.

    Attributes:
        token_class: token id -> class; tokens that every marker treats alike share one. An id that is missing has class 0.
        classes: The number of classes.
        edges: state -> class -> state, without the classes that end every match.
        otherwise: state -> the state that these lead to. Nothing leads out of that one: the matches are settled.
        matches_in: state -> the number of the matches; 0 is no match.
        depth: How many tokens the matcher reads at most.
    """

    token_class: dict[int, int]
    classes: int
    edges: list[dict[int, int]]
    otherwise: list[int]
    matches_in: list[int]
    depth: int

    def step(self, state: int, class_: int) -> int:
        """Read a token."""
        return self.edges[state].get(class_, self.otherwise[state])

    def __getstate__(self) -> tuple[Any, ...]:
        ids = sorted(self.token_class)
        classes = pack([self.token_class[id_] for id_ in ids])
        return pack_ids(ids), classes, self.classes, pack_dicts(self.edges), pack(self.otherwise), pack(self.matches_in), self.depth

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        ids, numbers, classes, edges, otherwise, matches_in, depth = state
        known = dict(zip(unpack_ids(ids), unpack(numbers), strict=True))
        fields = (known, classes, unpack_dicts(edges), list(unpack(otherwise)), list(unpack(matches_in)), depth)
        self.__dict__.update(zip(self.__dataclass_fields__, fields, strict=True))


def build_matcher(tries: Sequence[TokenTrie]) -> tuple[Matcher, list[Matches]]:
    """Combine tries; return the matches that are possible too, by their number."""
    token_class, classes, moves = _token_classes(tries)
    builder = _Builder(tries, moves)
    builder.build()
    return (
        Matcher(token_class, classes, builder.edges, builder.otherwise, [matches for _, matches, _ in builder.queue], builder.depth),
        builder.matches,
    )


_Alive = tuple[tuple[int, int], ...]
"""The tries that more tokens can make match: the number of each, and its state."""
_Moves = list[list[dict[int, int]]]
"""Trie -> state -> class -> state."""


class _Builder:
    """A state is `alive` (by number), the matches so far (by number) and how many tokens were read.

    One state of a trie can be reached by different numbers of tokens, and the length of a match counts tokens. Where nothing is alive, the
    number no longer matters, and is 0.
    """

    def __init__(self, tries: Sequence[TokenTrie], moves: _Moves) -> None:
        self.tries = tries
        self.moves = moves
        self.alive: dict[_Alive, int] = {(): 0}
        self.matches: list[Matches] = [()]
        self.matches_numbers: dict[Matches, int] = {(): 0}
        self.ways_from: dict[int, list[tuple[list[int], int, _Alive]]] = {}
        self.ways_with: dict[tuple[int, _Alive, int], int] = {}
        begin = tuple((trie, 0) for trie in range(len(tries)) if moves[trie][0])
        start = (self.alive.setdefault(begin, len(self.alive)), 0, 0)
        self.numbers = {start: 0}
        self.queue = [start]
        self.edges: list[dict[int, int]] = []
        self.otherwise: list[int] = []
        self.depth = 0

    def build(self) -> None:
        named = list(self.alive)  # number -> tries that are alive
        for alive, matches, length in self.queue:  # grows during the loop
            edges = {}
            for classes, after, accepted in self._ways(alive, named):
                found = self._with(matches, accepted, length + 1) if accepted else matches
                number = self._number(after, found, length + 1)
                for class_ in classes:
                    edges[class_] = number
            if edges:
                self.depth = max(self.depth, length + 1)
            self.edges.append(edges)
            self.otherwise.append(self._number(0, matches, 0))

    def _number(self, alive: int, matches: int, length: int) -> int:
        key = (alive, matches, length if alive else 0)
        if key not in self.numbers:
            self.numbers[key] = len(self.queue)
            self.queue.append(key)
        return self.numbers[key]

    def _ways(self, alive: int, named: list[_Alive]) -> list[tuple[list[int], int, _Alive]]:
        """Return where tokens lead: their classes, what is alive then, and the (trie, value) of each match that ends there."""
        if alive not in self.ways_from:
            reached: dict[int, list[tuple[int, int]]] = {}
            for trie, at in named[alive]:
                for class_, after in self.moves[trie][at].items():
                    reached.setdefault(class_, []).append((trie, after))
            together: dict[_Alive, list[int]] = {}
            for class_, states in reached.items():
                together.setdefault(tuple(states), []).append(class_)
            ways = []
            for ends, classes in together.items():
                goes_on = tuple((trie, at) for trie, at in ends if self.moves[trie][at])
                if goes_on not in self.alive:
                    self.alive[goes_on] = len(named)
                    named.append(goes_on)
                accepted = tuple((trie, value) for trie, at in ends if (value := self.tries[trie].accept[at]) >= 0)
                ways.append((classes, self.alive[goes_on], accepted))
            self.ways_from[alive] = ways
        return self.ways_from[alive]

    def _with(self, matches: int, accepted: _Alive, length: int) -> int:
        """Return the number of the matches with those that end here: they are longer than any before."""
        key = (matches, accepted, length)
        if key not in self.ways_with:
            found = tuple(sorted((dict(self.matches[matches]) | {trie: Match(value, length) for trie, value in accepted}).items()))
            if found not in self.matches_numbers:
                self.matches_numbers[found] = len(self.matches)
                self.matches.append(found)
            self.ways_with[key] = self.matches_numbers[found]
        return self.ways_with[key]


def _token_classes(tries: Sequence[TokenTrie]) -> tuple[dict[int, int], int, _Moves]:
    """Return token id -> class, the number of classes, and the edges of the tries by class; tokens with the same edges share a class."""
    edges: dict[int, list[tuple[int, int, int]]] = {}
    sets: dict[Set[int], list[tuple[int, int, int, int]]] = {}  # set -> trie, state, the state after, rank in the order in which sets count
    for number, trie in enumerate(tries):
        for state, out in enumerate(trie.edges):
            for id_, after in out.items():
                edges.setdefault(id_, []).append((number, state, after))
            for rank, (index, after) in enumerate(trie.by_set[state]):
                sets.setdefault(trie.sets[index], []).append((number, state, after, rank))
    numbers: dict[tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]], int] = {}
    classes: dict[int, int] = {}
    for within, ids in _regions([*sets]).items():
        classes.update(dict.fromkeys(ids, numbers.setdefault(((), within), len(numbers) + 1)))
    for id_, found in edges.items():
        within = tuple([number for number, ids in enumerate(sets) if id_ in ids])
        classes[id_] = numbers.setdefault((tuple(found), within), len(numbers) + 1)
    moves: _Moves = [[{} for _ in trie.edges] for trie in tries]
    ways = [*sets.values()]
    for (edges_of_class, within), class_ in numbers.items():
        for trie_number, state, after, _ in sorted((way for number in within for way in ways[number]), key=itemgetter(3), reverse=True):
            moves[trie_number][state][class_] = after
        for trie_number, state, after in edges_of_class:
            moves[trie_number][state][class_] = after
    return classes, len(numbers) + 1, moves


def _regions(sets: Sequence[Set[int]]) -> dict[tuple[int, ...], Set[int]]:
    """Return the ids that are in the same sets, by the numbers of these."""
    regions: dict[tuple[int, ...], Set[int]] = {(): frozenset().union(*sets)}
    for number, ids in enumerate(sets):
        outside = {within: region - ids for within, region in regions.items()}
        inside = {(*within, number): region & ids for within, region in regions.items()}
        regions = {within: region for within, region in {**outside, **inside}.items() if region}
    return regions

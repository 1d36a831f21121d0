"""All tries of a rule set, combined into one automaton that reads the tokens from a position on and tells which markers match there.

What it keeps grows with the markers, not with their product: of the tries, a state names those that are still alive and those that have
matched, and a step names the tokens that don't kill them all. Rules with the same markers share a trie.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        region: class -> region. Tokens that are in the same sets of the tries share a region; 0 is that of the tokens in no set.
        edges: state -> class -> state.
        by_region: state -> region -> state, for classes without an edge.
        otherwise: state -> the state that all other classes lead to. Nothing leads out of that one: the matches are settled.
        matches_in: state -> the number of the matches; 0 is no match.
        depth: How many tokens the matcher reads at most.
    """

    token_class: dict[int, int]
    region: list[int]
    edges: list[dict[int, int]]
    by_region: list[dict[int, int]]
    otherwise: list[int]
    matches_in: list[int]
    depth: int

    @property
    def goes_on(self) -> list[bool]:
        """Whether more tokens can change the matches, for each state."""
        return [bool(edges or regions) for edges, regions in zip(self.edges, self.by_region, strict=True)]

    def __getstate__(self) -> tuple[Any, ...]:
        ids = sorted(self.token_class)
        classes = [self.token_class[id_] for id_ in ids]
        numbers = map(pack, (classes, self.region, self.otherwise, self.matches_in))
        return self.depth, pack_ids(ids), [*numbers], pack_dicts(self.edges), pack_dicts(self.by_region)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        depth, ids, numbers, edges, by_region = state
        classes, region, otherwise, matches_in = map(unpack, numbers)
        self.__dict__.update(
            token_class=dict(zip(unpack_ids(ids), classes, strict=True)),
            region=list(region),
            edges=unpack_dicts(edges),
            by_region=unpack_dicts(by_region),
            otherwise=list(otherwise),
            matches_in=list(matches_in),
            depth=depth,
        )


def build_matcher(tries: Sequence[TokenTrie]) -> tuple[Matcher, list[Matches]]:
    """Combine tries; return the matches that are possible too, by their number."""
    token_class, moves = _read(tries)
    builder = _Builder(tries, moves)
    builder.build()
    matches_in = [matches for _, matches, _ in builder.queue]
    matcher = Matcher(token_class, moves.region, builder.edges, builder.by_region, builder.otherwise, matches_in, builder.depth)
    return matcher, builder.matches


@dataclass(frozen=True)
class _Moves:
    """The edges of the tries, by class and region instead of by id.

    Attributes:
        region: class -> region.
        by_class: trie -> state -> class -> state.
        by_region: trie -> state -> region -> state, for classes that are not there.
    """

    region: list[int]
    by_class: list[list[dict[int, int]]]
    by_region: list[list[dict[int, int]]]

    def goes_on(self, trie: int, state: int) -> bool:
        """Whether anything leads out of the state."""
        return bool(self.by_class[trie][state] or self.by_region[trie][state])


_Alive = tuple[tuple[int, int], ...]
"""The tries that more tokens can make match: the number of each, and its state."""


class _Way(NamedTuple):
    """Where some tokens lead: what is alive then, and the (trie, value) of each match that ends there."""

    classes: list[int]
    regions: list[int]
    alive: int
    accepted: _Alive


class _Builder:
    """A state is `alive` (by number), the matches so far (by number) and how many tokens were read.

    One state of a trie can be reached by different numbers of tokens, and the length of a match counts tokens. Where nothing is alive, the
    number no longer matters, and is 0.
    """

    def __init__(self, tries: Sequence[TokenTrie], moves: _Moves) -> None:
        self.tries = tries
        self.moves = moves
        self.alive: dict[_Alive, int] = {(): 0}
        self.named: list[_Alive] = [()]
        self.matches: list[Matches] = [()]
        self.matches_numbers: dict[Matches, int] = {(): 0}
        self.ways_from: dict[int, list[_Way]] = {}
        self.ways_with: dict[tuple[int, _Alive, int], int] = {}
        start = (self._name(tuple((trie, 0) for trie in range(len(tries)) if moves.goes_on(trie, 0))), 0, 0)
        self.numbers = {start: 0}
        self.queue = [start]
        self.edges: list[dict[int, int]] = []
        self.by_region: list[dict[int, int]] = []
        self.otherwise: list[int] = []
        self.depth = 0

    def build(self) -> None:
        for alive, matches, length in self.queue:  # grows during the loop
            edges: dict[int, int] = {}
            by_region: dict[int, int] = {}
            for classes, regions, after, accepted in self._ways(alive):
                number = self._number(after, self._with(matches, accepted, length + 1) if accepted else matches, length + 1)
                for class_ in classes:
                    edges[class_] = number
                for region in regions:
                    by_region[region] = number
            self.edges.append(edges)
            self.by_region.append(by_region)
            self.otherwise.append(self._number(0, matches, 0))
        self.depth = 1 + max((length for alive, _, length in self.queue if alive), default=-1)

    def _number(self, alive: int, matches: int, length: int) -> int:
        key = (alive, matches, length if alive else 0)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.queue)
            self.queue.append(key)
        return number

    def _name(self, alive: _Alive) -> int:
        if alive not in self.alive:
            self.alive[alive] = len(self.named)
            self.named.append(alive)
        return self.alive[alive]

    def _ways(self, alive: int) -> list[_Way]:
        """Return where tokens lead from here, those that lead to the same together."""
        if alive not in self.ways_from:
            moves, tries = self.moves, self.named[alive]
            together: dict[_Alive, tuple[list[int], list[int]]] = {}
            for class_ in dict.fromkeys(class_ for trie, at in tries for class_ in moves.by_class[trie][at]):
                region = moves.region[class_]
                reached = ((trie, moves.by_class[trie][at].get(class_, moves.by_region[trie][at].get(region, -1))) for trie, at in tries)
                together.setdefault(tuple(end for end in reached if end[1] >= 0), ([], []))[0].append(class_)
            for region in dict.fromkeys(region for trie, at in tries for region in moves.by_region[trie][at]):
                reached = ((trie, moves.by_region[trie][at].get(region, -1)) for trie, at in tries)
                together.setdefault(tuple(end for end in reached if end[1] >= 0), ([], []))[1].append(region)
            ways = []
            for ends, (classes, regions) in together.items():
                goes_on = tuple((trie, at) for trie, at in ends if moves.goes_on(trie, at))
                accepted = tuple((trie, value) for trie, at in ends if (value := self.tries[trie].accept[at]) >= 0)
                ways.append(_Way(classes, regions, self._name(goes_on), accepted))
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


def _read(tries: Sequence[TokenTrie]) -> tuple[dict[int, int], _Moves]:
    """Return token id -> class, and the edges of the tries by class and region."""
    edges: dict[int, list[tuple[int, int, int]]] = {}
    sets: dict[Set[int], int] = {}
    for number, trie in enumerate(tries):
        for ids in trie.sets:
            sets.setdefault(ids, len(sets))
        for state, out in enumerate(trie.edges):
            for id_, after in out.items():
                edges.setdefault(id_, []).append((number, state, after))
    regions = _regions([*sets])
    classes: dict[int, int] = {}
    region = [0]
    for number, ids in enumerate(regions.values(), start=1):
        classes.update(dict.fromkeys(ids, len(region)))
        region.append(number)
    known: dict[tuple[tuple[tuple[int, int, int], ...], int], int] = {}
    by_class: list[list[dict[int, int]]] = [[{} for _ in trie.edges] for trie in tries]
    for id_, found in edges.items():
        key = tuple(found), region[classes.get(id_, 0)]
        if key not in known:
            known[key] = len(region)
            region.append(key[1])
            for number, state, after in found:
                by_class[number][state][known[key]] = after
        classes[id_] = known[key]
    by_region: list[list[dict[int, int]]] = []
    for trie in tries:
        within = [[number for number, of in enumerate(regions, start=1) if sets[ids] in of] for ids in trie.sets]
        # Of two sets with a region, the first counts.
        by_region.append([{number: after for index, after in reversed(ways) for number in within[index]} for ways in trie.by_set])
    return classes, _Moves(region, by_class, by_region)


def _regions(sets: Sequence[Set[int]]) -> dict[tuple[int, ...], Set[int]]:
    """Return the ids that are in the same sets, by the numbers of these."""
    regions: dict[tuple[int, ...], Set[int]] = {(): frozenset().union(*sets)}
    for number, ids in enumerate(sets):
        outside = {within: region - ids for within, region in regions.items()}
        inside = {(*within, number): region & ids for within, region in regions.items()}
        regions = {within: region for within, region in {**outside, **inside}.items() if region}
    return regions

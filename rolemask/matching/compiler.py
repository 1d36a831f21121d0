"""Compiling a marker set against a tokenizer: the rules hold token ids, no text."""

from collections.abc import Hashable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from rolemask.errors import MarkerSetError, Place, Problem, TokenizerMismatchError
from rolemask.markers.spec import LONGEST_MARKER, MOST_ROLES, EndWord, Marker, MarkerSet, Pattern, TokenIds
from rolemask.matching.packing import pack, unpack
from rolemask.matching.spelling import media_ids, single_id, spellings
from rolemask.matching.trie import Entry, TokenTrie, build_trie, whole
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary

OUTSIDE = -1
"""The role id of a token outside any turn."""


@dataclass(frozen=True)
class Rule:
    """One marker, compiled. Roles are indices into `Rules.roles`; `within` is -1 for a turn."""

    role: int
    within: int
    ends: TokenTrie
    ends_at_next_start: bool
    header_is_stop: bool
    """Whether the next header's first token, if special, is the stop token: `next_start` is the only end."""
    has_end: bool
    header_ends: TokenTrie | None
    include_start: bool
    include_end: bool
    rewind: bool
    start_is_turns: bool
    follows_turn: bool
    unanswered: int
    """The rule of a turn that meets a start of this rule again: nobody answered, so its tokens are the next question. -1 for none."""
    own_starts: TokenTrie
    """The starts of this rule, if it has `unanswered`."""


@dataclass(frozen=True)
class Rules:
    """A marker set, compiled against one vocabulary.

    The values of `starts` and `special_starts` are indices into `openings`, those of `spans` into `rules`.
    """

    name: str
    roles: tuple[str, ...]
    rules: tuple[Rule, ...]
    openings: tuple[tuple[int, int], ...]
    """What a start marker opens: the rule of the turn, and the rule of the span that the header leaves open, or -1."""
    starts: TokenTrie
    special_starts: TokenTrie
    """The starts that begin with a special token or are given as ids. They end any turn."""
    document_starts: TokenTrie
    """What a document begins with: what the set declares, and the tokenizer's BOS. With its EOS and pad where no marker inside a turn has
    them. They close an open turn."""
    spans: Mapping[int, TokenTrie]
    """Role id of a turn -> the starts of the spans inside it."""
    media: frozenset[int]
    pad_id: int | None
    vocabulary: Vocabulary = field(compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # Markers share tries, and sets have no order: the bytes of a pickle must not depend on either.
        tries: dict[int, int] = {}
        known: list[TokenTrie] = []

        def number(trie: TokenTrie | None) -> int | None:
            if trie is not None and id(trie) not in tries:
                tries[id(trie)] = len(known)
                known.append(trie)
            return None if trie is None else tries[id(trie)]

        state = {name: number(value) if isinstance(value, TokenTrie) else value for name, value in self.__dict__.items()}
        state["rules"] = [
            {name: number(value) if name in _TRIES_OF_RULE else value for name, value in rule.__dict__.items()} for rule in self.rules
        ]
        state["spans"] = {role: number(trie) for role, trie in self.spans.items()}
        return state | {"media": pack(sorted(self.media)), "tries": known}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tries: list[TokenTrie] = state.pop("tries")

        def read(rule: dict[str, Any]) -> Rule:
            numbers = {name: rule[name] for name in _TRIES_OF_RULE}
            return Rule(**rule | {name: None if number is None else tries[number] for name, number in numbers.items()})

        rules = tuple(map(read, state["rules"]))
        spans = {role: tries[number] for role, number in state["spans"].items()}
        starts = {name: tries[state[name]] for name in ("starts", "special_starts", "document_starts")}
        self.__dict__.update(state | starts | {"rules": rules, "spans": spans, "media": frozenset(unpack(state["media"]))})


_TRIES_OF_RULE = ("ends", "header_ends", "own_starts")


_cache: WeakKeyDictionary[object, dict[Hashable, "Rules"]] = WeakKeyDictionary()
"""Tokenizer -> the rules compiled for it. Compiling takes a second or more, and code that makes a masker per dataset makes many."""


def rules_for(markers: MarkerSet, tokenizer: object) -> Rules:
    """Compile against a tokenizer or processor, and cache the result for as long as the tokenizer lives.

    A tokenizer that has changed since is compiled against anew (see `read_vocabulary`); so is one that has no length, no hash or no weak
    references.

    Raises:
        UnsupportedTokenizerError: See `read_vocabulary`.
        MarkerSetError, TokenizerMismatchError: See `compile_rules`.
    """
    if tokenizer is None:
        return compile_rules(markers, None)
    # What is cached must not keep its key, the tokenizer, alive.
    vocabulary = read_vocabulary(tokenizer, keep=False)
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if not isinstance(inner, Sized):
        return compile_rules(markers, vocabulary)
    try:
        known = _cache.setdefault(inner, {})
    except TypeError:  # no hash or no weak references
        return compile_rules(markers, vocabulary)
    key = (markers, vocabulary.index)  # another one as soon as the vocabulary is read anew
    if key not in known:
        known[key] = compile_rules(markers, vocabulary)
    return known[key]


def compile_rules(markers: MarkerSet, vocabulary: Vocabulary | None) -> Rules:
    """Compile. Markers given as ids need no vocabulary.

    Raises:
        MarkerSetError: A marker that is too long, or too many roles.
        TokenizerMismatchError: Special tokens are not one id each in this tokenizer (`.missing` lists them), or a marker cannot be
            spelled in it.
    """
    if problems := [*_problems(markers)]:
        raise MarkerSetError(problems)
    if vocabulary is None:
        if not all(isinstance(pattern, TokenIds) for pattern in _patterns(markers)):
            raise TokenizerMismatchError(f"compile() needs a tokenizer: the markers of {markers.name!r} are text")
        vocabulary = Vocabulary("no tokenizer", {}, {})
    return _Compiler(markers, vocabulary).compile()


def _problems(markers: MarkerSet) -> Iterator[Problem]:
    """Yield what is too much to compile. The lints find some of it in files, but not all sets come from files."""
    origin = Place(markers.origin or markers.name)
    if len(markers.roles) > MOST_ROLES:
        yield Problem(origin, f"found {len(markers.roles)} roles, expected at most {MOST_ROLES}")
    for marker in markers.markers:
        for key in ("start", "end", "header_end"):
            for pattern in getattr(marker, key):
                if isinstance(pattern, str) and len(pattern) > LONGEST_MARKER:
                    message = f"the {key} of {marker.role!r} has {len(pattern)} characters, expected at most {LONGEST_MARKER}"
                    yield Problem(marker.where if marker.where.path else origin, message, "leave only what stands around every content")


def _patterns(markers: MarkerSet) -> Iterator[Pattern | EndWord]:
    """Yield everything that the tokenizer must spell."""
    yield from markers.special_tokens
    for marker in markers.markers:
        yield from (*marker.start, *marker.header_end, *(end for end in marker.end if end is not EndWord.NEXT_START))


class _Compiler:
    def __init__(self, markers: MarkerSet, vocabulary: Vocabulary) -> None:
        self.markers = markers
        self.vocabulary = vocabulary
        self.special_tokens = dict(vocabulary.special_tokens)
        self.tries: dict[tuple[Entry, ...], TokenTrie] = {}
        missing = []
        for token in markers.special_tokens:
            id_ = single_id(token, vocabulary)
            if id_ is None:
                missing.append(token)
            else:
                self.special_tokens[token] = id_
        if missing:
            tokens = ", ".join(repr(token) for token in missing)
            raise TokenizerMismatchError(
                f"{markers.origin}: {tokens} of {markers.name!r} is not one token in {vocabulary.name}. Wrong tokenizer?", missing=missing
            )

    def compile(self) -> Rules:
        roles = self.markers.roles
        turn_entries: list[Entry] = []
        span_entries: dict[int, list[Entry]] = {}
        openings: dict[tuple[int, int], int] = {}
        for index, marker in enumerate(self.markers.markers):
            if marker.within is not None:
                group = span_entries.setdefault(roles.index(marker.within), [])
                group += [entry for start in marker.start for entry in self._entries(marker, start, index)]
                continue
            for start in marker.start:
                value = openings.setdefault((index, self._opened_span(marker, start)), len(openings))
                turn_entries += self._entries(marker, start, value)
        special = [entry for entry in turn_entries if self._is_special(entry)]
        rules = tuple(self._rule(marker, roles) for marker in self.markers.markers)
        spans = {role: build_trie(entries, self.vocabulary) for role, entries in span_entries.items()}
        inside = [*spans.values(), *(rule.ends for rule in rules), *(rule.header_ends for rule in rules if rule.header_ends is not None)]
        media = frozenset(media_ids(self.markers, self.vocabulary))
        return Rules(
            name=self.markers.name,
            roles=roles,
            rules=rules,
            openings=tuple(openings),
            starts=build_trie(turn_entries, self.vocabulary),
            special_starts=build_trie(special, self.vocabulary),
            document_starts=build_trie(self._document_starts(inside, media), self.vocabulary),
            spans=spans,
            media=media,
            pad_id=self.vocabulary.pad_id,
            vocabulary=self.vocabulary,
        )

    def _opened_span(self, turn: Marker, start: Pattern) -> int:
        """Return the index of the span that a header leaves open, because it ends with the span's start (Qwen3.5: ``<think>``), or -1."""
        if isinstance(start, str) and not turn.header_end:
            for index, span in enumerate(self.markers.markers):
                if span.within == turn.role and any(isinstance(text, str) and start.rstrip().endswith(text) for text in span.start):
                    return index
        return OUTSIDE

    def _rule(self, marker: Marker, roles: Sequence[str]) -> Rule:
        return Rule(
            role=roles.index(marker.role),
            within=OUTSIDE if marker.within is None else roles.index(marker.within),
            ends=self._trie(marker, [end for end in marker.end if end is not EndWord.NEXT_START]),
            ends_at_next_start=EndWord.NEXT_START in marker.end,
            header_is_stop=set(marker.end) == {EndWord.NEXT_START},
            has_end=bool(marker.end),
            header_ends=self._trie(marker, marker.header_end) if marker.header_end else None,
            include_start=marker.include_start,
            include_end=marker.include_end,
            rewind=marker.rewind,
            start_is_turns=marker.start_owner == "turn",
            follows_turn=marker.follows_turn,
            unanswered=OUTSIDE if marker.unanswered is None else self._turn_of(marker.unanswered),
            own_starts=TokenTrie() if marker.unanswered is None else self._trie(marker, marker.start),
        )

    def _turn_of(self, role: str) -> int:
        """Return the index of the first marker of a role's turns."""
        return next(index for index, marker in enumerate(self.markers.markers) if marker.within is None and marker.role == role)

    def _document_starts(self, inside: Sequence[TokenTrie], media: frozenset[int]) -> list[Entry]:
        """Return what closes any turn, although no turn starts with it.

        BOS, EOS and pad are never content, unless a marker that stands inside a turn has them: OLMo 2's BOS is the token that ends a turn.
        """
        declared = [entry for pattern in self.markers.document_start for entry in self._spelled(pattern, 0)]
        around = {self.vocabulary.bos_id, self.vocabulary.eos_id, self.vocabulary.pad_id} & {*self.special_tokens.values()}
        never_content = sorted(id_ for id_ in around - media if id_ is not None and not any(trie.knows(id_) for trie in inside))
        return [*declared, *(Entry((whole(id_),), 0) for id_ in never_content)]

    def _trie(self, marker: Marker, patterns: Sequence[Pattern | EndWord]) -> TokenTrie:
        """Return the trie of some patterns; markers that have the same ones share it."""
        entries = tuple(entry for pattern in patterns for entry in self._entries(marker, pattern, 0))
        if entries not in self.tries:
            self.tries[entries] = build_trie(entries, self.vocabulary)
        return self.tries[entries]

    def _entries(self, marker: Marker, pattern: Pattern | EndWord, value: int) -> list[Entry]:
        if pattern is EndWord.EOS_TOKEN:
            if self.vocabulary.eos_id is None:
                raise TokenizerMismatchError(
                    f"{marker.where}: the {marker.role!r} marker of {self.markers.name!r} ends at `eos_token`, and {self.vocabulary.name} "
                    "has no EOS token. Set `tokenizer.eos_token`, or write the end marker out"
                )
            return [Entry((whole(self.vocabulary.eos_id),), value)]
        assert not isinstance(pattern, EndWord)
        entries = self._spelled(pattern, value)
        if isinstance(pattern, TokenIds):
            self._check_ids(marker, pattern)
        elif not self._can_spell(entries):
            raise TokenizerMismatchError(
                f"{marker.where}: the {marker.role!r} marker {pattern!r} of {self.markers.name!r} cannot be spelled with the tokens of "
                f"{self.vocabulary.name}. Wrong tokenizer? Otherwise give the marker as {{ids: [...]}}"
            )
        return entries

    def _spelled(self, pattern: Pattern, value: int) -> list[Entry]:
        if isinstance(pattern, TokenIds):
            return [Entry(tuple(whole(id_) for id_ in pattern.ids), value)]
        return [Entry(symbols, value) for symbols in spellings(pattern, self.special_tokens, self.vocabulary)]

    def _check_ids(self, marker: Marker, pattern: TokenIds) -> None:
        pieces, special = self.vocabulary.pieces, self.vocabulary.special_token_texts
        unknown = [id_ for id_ in pattern.ids if (pieces or special) and id_ not in pieces and id_ not in special]
        if unknown:
            raise TokenizerMismatchError(
                f"{marker.where}: the {marker.role!r} marker {pattern} of {self.markers.name!r} has ids that "
                f"{self.vocabulary.name} does not have: {unknown}. Wrong tokenizer?"
            )

    def _can_spell(self, entries: Sequence[Entry]) -> bool:
        text = {symbol for entry in entries for symbol in entry.symbols if symbol >= 0}
        index = self.vocabulary.index
        return all(index.ids_of(bytes([byte])) for byte in text) or bool(build_trie(entries, self.vocabulary).values)

    def _is_special(self, entry: Entry) -> bool:
        """Whether the marker begins with a special token. An id that the vocabulary doesn't know counts as one: fail closed."""
        id_ = -1 - entry.symbols[0]
        return entry.symbols[0] < 0 and (id_ not in self.vocabulary.pieces or id_ in self.special_tokens.values())

"""Mistakes that a JSON Schema cannot find: one function each.

Each lint takes the source and its markers, one per role and each with the path of its entry, and yields the problems it finds.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rolemask.errors import Problem, did_you_mean
from rolemask.markers.names import fold
from rolemask.markers.source import KeyPath, Source, as_list
from rolemask.markers.spec import LONGEST_MARKER, EndWord, Marker, Pattern, TokenIds

PlacedMarkers = Sequence[tuple[KeyPath, Marker]]
Lint = Callable[[Source, PlacedMarkers], Iterator[Problem]]

PATTERN_KEYS = ("start", "end", "header_end")

PROBE_WORD = re.compile(r"(?:Order|Query|Reply|Thought|Place|Result)\d")
"""The words of the scenarios that rolemask asks templates to write. A digit keeps templates from having the word themselves; the capital
keeps one word from being part of another."""


def name_differs_from_file(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a name that is not the file's: sets are loaded by the name of the file."""
    name, path = source.data["name"], Path(source.path)
    if path.suffix in (".yaml", ".yml") and path.stem != name:
        yield source.problem(("name",), f"found the name {name!r} in the file {path.name}", f"rename one: {name}.yaml")


def alias_is_the_name(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an alias that says nothing new: the name, or another alias, spelled again."""
    name = source.data["name"]
    known = {fold(name): name}
    for key in ("aliases", "also_called"):
        for index, alias in enumerate(source.data.get(key, ())):
            if alias == name:
                yield source.problem((key,), f"the alias {name!r} is the name itself", "remove it")
            elif fold(alias) in known:
                message = f"the alias {alias!r} is {known[fold(alias)]!r} again"
                yield source.problem((key, index), message, "remove it: case, `-`, `_` and `.` don't count in names")
            known.setdefault(fold(alias), alias)


def unused_role_name(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an entry of `role_names` whose role has no marker: a typo."""
    for role in source.data.get("role_names", {}):
        if role not in {marker.role for _, marker in markers}:
            hint = did_you_mean(role, _turn_roles(markers))
            yield source.problem(("role_names", role), f"no marker has the role {role!r}", hint, key=True)


def no_turns(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a set of spans only: spans lie inside turns."""
    if not _turns(markers):
        yield source.problem(("markers",), "every marker is a span (`within`), expected at least one turn")


def newline_in_single_quotes(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    r"""Find a backslash and an n: the author forgot the double quotes that turn ``\n`` into a newline."""
    for index, entry in enumerate(source.data["markers"]):
        for key in PATTERN_KEYS:
            for value in as_list(entry.get(key, [])):
                if isinstance(value, str) and "\\n" in value:
                    message = f"found a backslash and an n in {value!r}, expected a newline"
                    hint = 'in YAML only double quotes turn \\n into a newline: "...\\n"'
                    yield source.problem(("markers", index, key), message, hint)


def empty_text(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a marker that renders to nothing, which would match everywhere."""
    for at, marker in markers:
        for key in PATTERN_KEYS:
            if "" in getattr(marker, key):
                yield source.problem((*at, key), f"the {key} of {marker.role!r} renders to nothing, expected a marker")


def marker_with_contents(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a marker that must have contents of a chat in it: a word of rolemask's own scenarios, or more text than headers have."""
    for at, marker in markers:
        for key in PATTERN_KEYS:
            for pattern in getattr(marker, key):
                word = PROBE_WORD.search(pattern) if isinstance(pattern, str) else None
                if word is not None:
                    message = f"found {word.group()!r}, a word of rolemask's own scenarios, in the {key} of {marker.role!r}"
                    yield source.problem((*at, key), message, "leave only what stands around every content")
                elif isinstance(pattern, str) and len(pattern) > LONGEST_MARKER:
                    message = f"the {key} of {marker.role!r} has {len(pattern)} characters, expected at most {LONGEST_MARKER}"
                    yield source.problem((*at, key), message, "leave only what stands around every content")


def start_of_white_space(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a start of white space alone: it would open turns in the middle of contents. (An end of white space only loses tokens.)"""
    for at, marker in markers:
        for start in marker.start:
            if isinstance(start, str) and start.isspace():
                message = f"the start of {marker.role!r} is white space alone, {_quoted(start)}, which contents have too"
                yield source.problem((*at, "start"), message, "begin it with what the template renders before")


def same_start_twice(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find two roles with the same start, among turns or among the spans of one role: the second would never match."""
    first: dict[tuple[str | None, Pattern], Marker] = {}
    for at, marker in markers:
        for start in marker.start:
            owner = first.setdefault((marker.within, start), marker)
            if owner is not marker:
                message = (
                    f"{marker.role!r} starts with {_quoted(start)}, and so does {owner.role!r}, which is declared first and always wins"
                )
                yield source.problem((*at, "start"), message, "did you forget {{ role }}?" if owner.where == marker.where else "")


def span_key_on_a_turn(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a turn with a key that only spans have."""
    for at, marker in _turns(markers):
        for key, used in (("start_owner", marker.start_owner != "span"), ("follows_turn", marker.follows_turn)):
            if used:
                yield source.problem((*at, key), f"{key!r} is for spans, and this is a turn", "add `within: assistant`, or remove it")


def turn_key_on_a_span(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a span with a key that only turns have."""
    for at, marker in _spans(markers):
        turn_keys = {"header_end": bool(marker.header_end), "include_start": marker.include_start, "include_end": not marker.include_end}
        turn_keys["unanswered"] = marker.unanswered is not None
        for key, used in turn_keys.items():
            if used:
                yield source.problem((*at, key), f"{key!r} is for turns, and this is a span", "remove it")


def span_ends_at_next_start(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a span that ends at the next turn: every span ends with its turn anyway."""
    for at, marker in _spans(markers):
        if EndWord.NEXT_START in marker.end:
            yield source.problem((*at, "end"), "`next_start` is for turns, and this is a span", "end: null runs to the turn's end")


def span_in_an_unknown_turn(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a span inside the turns of a role that has none: a typo."""
    turn_roles = _turn_roles(markers)
    for at, marker in _spans(markers):
        if marker.within not in turn_roles:
            hint = did_you_mean(str(marker.within), turn_roles)
            yield source.problem((*at, "within"), f"no turn has the role {marker.within!r}", hint)


def span_starts_like_a_turn(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a span whose start is a turn's start and a special token: the turn would always win."""
    turn_starts = {start for _, marker in _turns(markers) for start in marker.start if _is_special(start, _special_tokens(source))}
    for at, marker in _spans(markers):
        for start in marker.start:
            if start in turn_starts:
                message = f"the span's start {_quoted(start)} starts a turn too, and a turn's start wins inside a turn"
                yield source.problem((*at, "start"), message)


def unanswered_by_an_unknown_turn(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an `unanswered` that names a role without turns: a typo."""
    turn_roles = _turn_roles(markers)
    for at, marker in _turns(markers):
        if marker.unanswered is not None and marker.unanswered not in turn_roles:
            hint = did_you_mean(marker.unanswered, turn_roles)
            yield source.problem((*at, "unanswered"), f"no turn has the role {marker.unanswered!r}", hint)


def question_that_nobody_answers(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an assistant whose start ends every question: of two questions in a row, the second would be trained."""
    user_ends = {end for _, marker in _turns(markers) if marker.role == "user" for end in marker.end}
    for at, marker in _turns(markers):
        shared = [start for start in marker.start if start in user_ends and start not in marker.end]
        if marker.role == "assistant" and shared and marker.unanswered is None:
            message = (
                f"the assistant's start {_quoted(shared[0])} ends the user's turn too: of two questions in a row, the second is trained"
            )
            yield source.problem((*at, "start"), message, "add `unanswered: user`")


def misspelt_end_word(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an end such as ``eos``, which would match as text where a word was meant."""
    for at, marker in markers:
        for end in marker.end:
            if isinstance(end, str) and (meant := EndWord.meant_by(end)):
                hint = f"did you mean `{meant}`? If not, give it as {{ids: [...]}}"
                yield source.problem((*at, "end"), f"the end {end!r} would match as text", hint)


def rewind_without_an_end(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find `rewind` on a marker that runs to the end of the sequence: there is nothing to go back to."""
    for at, marker in markers:
        if marker.rewind and not marker.end:
            yield source.problem((*at, "rewind"), "`rewind` without an end marker", "remove it, or declare `end`")


def next_start_without_rewind(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find `rewind: false` on a turn that ends at `next_start`: the next turn would lose its header."""
    for at, marker in markers:
        if EndWord.NEXT_START in marker.end and not marker.rewind:
            message = "an end at `next_start` always rewinds: the header belongs to the next turn"
            yield source.problem((*at, "rewind"), message, "remove it")


def rewind_to_no_turn(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a turn whose end is left in place for the next turn, but starts none."""
    starts = [start for _, marker in _turns(markers) for start in marker.start]
    for at, marker in _turns(markers):
        ends = [end for end in marker.end if not isinstance(end, EndWord)]
        written_out = bool(ends) and len(ends) == len(marker.end)
        if marker.rewind and written_out and not any(_may_start(end, start) for end in ends for start in starts):
            message = f"the end {' or '.join(map(_quoted, ends))} rewinds, but no turn starts with it"
            yield source.problem((*at, "end"), message, "set `rewind: false`, or declare the turn that it starts")


def examples_without_an_eos_token(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find examples that cannot run: a marker ends at the EOS token, and the file does not say what that looks like."""
    uses_eos = any(EndWord.EOS_TOKEN in marker.end for _, marker in markers)
    if uses_eos and source.data.get("examples") and "eos_token" not in source.data:
        message = "the examples need to know what the EOS token looks like"
        yield source.problem(("examples",), message, 'add `eos_token: "</s>"`, or whatever it is')


def unused_special_token(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find a special token that occurs in no marker: a typo."""
    special_tokens = _special_tokens(source)
    texts = [str(part) for _, marker in markers for part in (*marker.start, *marker.end, *marker.header_end)]
    for index, token in enumerate(special_tokens):
        if not any(token in text for text in texts) and token != source.data.get("eos_token"):
            hint = did_you_mean(token, [text for text in texts if text not in special_tokens])
            yield source.problem(("special_tokens", index), f"the special token {token!r} is in no marker", hint)


def masks_more_than_it_may(source: Source, markers: PlacedMarkers) -> Iterator[Problem]:
    """Find an entry of `masks_more` whose role has no marker, or is trained by default: then every loss would pass."""
    trained = {"assistant", *(marker.role for _, marker in markers if marker.follows_turn)}
    roles = {marker.role for _, marker in markers}
    for role in source.data.get("masks_more", {}):
        if role not in roles:
            yield source.problem(("masks_more", role), f"no marker has the role {role!r}", did_you_mean(role, roles), key=True)
        elif role in trained:
            message, hint = f"{role!r} is trained, so it cannot be masked on purpose", "give what is masked a role of its own"
            yield source.problem(("masks_more", role), message, hint, key=True)


LINTS: tuple[Lint, ...] = (
    name_differs_from_file,
    alias_is_the_name,
    unused_role_name,
    no_turns,
    newline_in_single_quotes,
    empty_text,
    marker_with_contents,
    start_of_white_space,
    same_start_twice,
    span_key_on_a_turn,
    turn_key_on_a_span,
    span_ends_at_next_start,
    span_in_an_unknown_turn,
    span_starts_like_a_turn,
    unanswered_by_an_unknown_turn,
    question_that_nobody_answers,
    misspelt_end_word,
    rewind_without_an_end,
    next_start_without_rewind,
    rewind_to_no_turn,
    examples_without_an_eos_token,
    unused_special_token,
    masks_more_than_it_may,
)


def _turns(markers: PlacedMarkers) -> PlacedMarkers:
    return [(at, marker) for at, marker in markers if marker.within is None]


def _spans(markers: PlacedMarkers) -> PlacedMarkers:
    return [(at, marker) for at, marker in markers if marker.within is not None]


def _turn_roles(markers: PlacedMarkers) -> set[str]:
    return {marker.role for _, marker in _turns(markers)}


def _special_tokens(source: Source) -> tuple[str, ...]:
    return tuple(source.data.get("special_tokens", ()))


def _is_special(pattern: Pattern, special_tokens: tuple[str, ...]) -> bool:
    return isinstance(pattern, TokenIds) or pattern.startswith(special_tokens)


def _may_start(end: Pattern, start: Pattern) -> bool:
    if isinstance(end, str) and isinstance(start, str):
        return start.startswith(end)
    if isinstance(end, TokenIds) and isinstance(start, TokenIds):
        return start.ids[: len(end.ids)] == end.ids
    return True  # text and ids cannot be compared without a tokenizer


def _quoted(pattern: Pattern | EndWord) -> str:
    return json.dumps(pattern, ensure_ascii=False) if isinstance(pattern, str) else str(pattern)

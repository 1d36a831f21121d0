"""YAML source -> MarkerSet: the JSON Schema first, then what a schema cannot say."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rolemask.errors import MarkerSetError, Problem, did_you_mean
from rolemask.markers.schema import schema_problems
from rolemask.markers.source import KeyPath, Source
from rolemask.markers.spec import EndWord, Example, Marker, MarkerSet, Pattern, TokenIds

SCHEMA_VERSION = 1

# Text is rendered once per role at load time; strict, so that a misspelt variable is an error and not an empty string.
_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def parse_marker_set(source: Source) -> MarkerSet:
    """Validate a parsed document and build the marker set.

    Raises:
        MarkerSetError: With every problem of the file, sorted by place.
    """
    problems = list(source.problems)
    problems += _newer_schema(source) or list(schema_problems(source, "marker-set"))
    if problems:
        raise MarkerSetError(sorted(problems))
    markers = _read_markers(source, problems)
    problems += _semantic_problems(source, markers)
    if problems:
        raise MarkerSetError(sorted(set(problems)))
    data = source.data
    entries = data.get("source", [])
    return MarkerSet(
        name=data["name"],
        title=data.get("title", data["name"]),
        markers=tuple(marker for _, marker in markers),
        aliases=tuple(data.get("aliases", ())),
        special_tokens=tuple(data.get("special_tokens", ())),
        eos_token=data.get("eos_token"),
        media={kind: tuple(tokens) for kind, tokens in data.get("media", {}).items()},
        match={kind: tuple(values) for kind, values in data.get("match", {}).items()},
        source=tuple(entries if isinstance(entries, list) else [entries]),
        examples=tuple(
            Example(example["text"], tuple(example["trained"]), source.where(("examples", index)))
            for index, example in enumerate(data.get("examples", ()))
        ),
        origin=source.path,
    )


def _newer_schema(source: Source) -> list[Problem]:
    version = source.data.get("schema", SCHEMA_VERSION) if isinstance(source.data, dict) else SCHEMA_VERSION
    if isinstance(version, int) and version > SCHEMA_VERSION:
        message = f"found a marker set of format {version}, expected {SCHEMA_VERSION}"
        return [source.problem(("schema",), message, "this rolemask is too old for it: pip install -U rolemask")]
    return []


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_markers(source: Source, problems: list[Problem]) -> list[tuple[KeyPath, Marker]]:
    """Return each marker with its place; one per role, with the alternatives rendered."""
    markers = []
    for index, entry in enumerate(source.data["markers"]):
        at: KeyPath = ("markers", index)
        for role in _as_list(entry["role"]):
            word = source.data.get("role_names", {}).get(role, role)

            def patterns(key: str, word: str = word, at: KeyPath = at, entry: Any = entry) -> list[Pattern]:
                return [_pattern(source, (*at, key), value, word, problems) for value in _as_list(entry.get(key, []))]

            end = () if entry["end"] is None else tuple(_end_word(pattern) for pattern in patterns("end"))
            include_end = entry.get("include_end", True)
            markers.append(
                (
                    at,
                    Marker(
                        role=role,
                        start=tuple(patterns("start")),
                        end=end,
                        include_start=entry.get("include_start", False),
                        include_end=include_end,
                        rewind=entry.get("rewind", bool(end) and (not include_end or EndWord.NEXT_START in end)),
                        header_end=tuple(patterns("header_end")),
                        within=entry.get("within"),
                        start_owner=entry.get("start_owner", "span"),
                        follows_turn=entry.get("follows_turn", False),
                        where=source.where(at),
                    ),
                )
            )
    return markers


def _end_word(pattern: Pattern) -> Pattern | EndWord:
    words = {word.value: word for word in EndWord}
    return words.get(pattern, pattern) if isinstance(pattern, str) else pattern


def _pattern(source: Source, at: KeyPath, value: Any, word: str, problems: list[Problem]) -> Pattern:
    if isinstance(value, Mapping):
        return TokenIds(tuple(value["ids"]))
    if "\\n" in value:
        hint = 'in YAML only double quotes turn \\n into a newline: "...\\n"'
        problems.append(source.problem(at, f"found a backslash and an n in {value!r}, expected a newline", hint))
    try:
        text = _JINJA.from_string(value).render(role=word)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        problems.append(source.problem(at, f"cannot render {value!r}: {error}", "only {{ role }} is known here"))
        return str(value)
    if not text:
        problems.append(source.problem(at, f"{value!r} renders to nothing, expected a marker"))
    return text


def _semantic_problems(source: Source, placed: list[tuple[KeyPath, Marker]]) -> Iterator[Problem]:
    data, path = source.data, Path(source.path)
    if path.suffix in (".yaml", ".yml") and path.stem != data["name"]:
        yield source.problem(("name",), f"found the name {data['name']!r} in the file {path.name}", f"rename one: {data['name']}.yaml")
    if data["name"] in data.get("aliases", ()):
        yield source.problem(("aliases",), f"the alias {data['name']!r} is the name itself", "remove it")
    turns = [(at, marker) for at, marker in placed if marker.within is None]
    spans = [(at, marker) for at, marker in placed if marker.within is not None]
    turn_roles = {marker.role for _, marker in turns}
    for role in data.get("role_names", {}):
        if role not in {marker.role for _, marker in placed}:
            hint = did_you_mean(role, turn_roles)
            yield source.problem(("role_names", role), f"no marker has the role {role!r}", hint, key=True)
    if not turns:
        yield source.problem(("markers",), "every marker is a span (`within`), expected at least one turn")
    yield from _same_starts(source, turns)
    for role in dict.fromkeys(marker.within for _, marker in spans):
        yield from _same_starts(source, [(at, marker) for at, marker in spans if marker.within == role])
    specials = tuple(data.get("special_tokens", ()))
    for at, marker in placed:
        yield from _marker_problems(source, at, marker, [marker for _, marker in turns], specials)
    for at, marker in spans:
        if marker.within not in turn_roles:
            hint = did_you_mean(str(marker.within), turn_roles)
            yield source.problem((*at, "within"), f"no turn has the role {marker.within!r}", hint)
        for start in marker.start:
            if any(start == other and _is_special(other, specials) for _, turn in turns for other in turn.start):
                message = f"the span's start {_quoted(start)} starts a turn too, and a turn's start wins inside a turn"
                yield source.problem((*at, "start"), message)
    uses_eos = any(EndWord.EOS_TOKEN in marker.end for _, marker in placed)
    if uses_eos and data.get("examples") and "eos_token" not in data:
        message = "the examples need to know what the EOS token looks like"
        yield source.problem(("examples",), message, 'add `eos_token: "</s>"`, or whatever it is')
    texts = [str(part) for _, marker in placed for part in (*marker.start, *marker.end, *marker.header_end)]
    for index, token in enumerate(specials):
        if not any(token in text for text in texts) and token != data.get("eos_token"):
            hint = did_you_mean(token, [other for other in texts if other not in specials])
            yield source.problem(("special_tokens", index), f"the special token {token!r} is in no marker", hint)


def _is_special(pattern: Pattern, specials: tuple[str, ...]) -> bool:
    return isinstance(pattern, TokenIds) or pattern.startswith(specials)


def _quoted(pattern: Pattern | EndWord) -> str:
    return json.dumps(pattern, ensure_ascii=False) if isinstance(pattern, str) else str(pattern)


def _same_starts(source: Source, placed: list[tuple[KeyPath, Marker]]) -> Iterator[Problem]:
    first: dict[Pattern, Marker] = {}
    for at, marker in placed:
        for start in marker.start:
            owner = first.setdefault(start, marker)
            if owner is not marker:
                message = (
                    f"{marker.role!r} starts with {_quoted(start)}, and so does {owner.role!r}, which is declared first and always wins"
                )
                yield source.problem((*at, "start"), message, "did you forget {{ role }}?" if owner.where == marker.where else "")


def _marker_problems(source: Source, at: KeyPath, marker: Marker, turns: list[Marker], specials: tuple[str, ...]) -> Iterator[Problem]:
    if marker.within is None:
        for key, default in (("start_owner", "span"), ("follows_turn", False)):
            if getattr(marker, key) != default:
                yield source.problem((*at, key), f"{key!r} is for spans, and this is a turn", "add `within: assistant`, or remove it")
    else:
        for key, used in (("header_end", marker.header_end), ("include_start", marker.include_start)):
            if used:
                yield source.problem((*at, key), f"{key!r} is for turns, and this is a span", "remove it")
        if EndWord.NEXT_START in marker.end:
            yield source.problem((*at, "end"), "`next_start` is for turns, and this is a span", "end: null runs to the turn's end")
    if marker.rewind and not marker.end:
        yield source.problem((*at, "rewind"), "`rewind` without an end marker", "remove it, or declare `end`")
    if EndWord.NEXT_START in marker.end and not marker.rewind:
        yield source.problem((*at, "rewind"), "an end at `next_start` always rewinds: the header belongs to the next turn", "remove it")
    if marker.rewind and marker.within is None:
        starts = [start for turn in turns for start in turn.start]
        ends = [end for end in marker.end if not isinstance(end, EndWord)]
        if len(ends) == len(marker.end) and not any(_may_start(end, start) for end in ends for start in starts):
            message = f"the end {' or '.join(map(_quoted, ends))} rewinds, but no turn starts with it"
            yield source.problem((*at, "end"), message, "set `rewind: false`, or declare the turn that it starts")


def _may_start(end: Pattern, start: Pattern) -> bool:
    if isinstance(end, str) and isinstance(start, str):
        return start.startswith(end)
    if isinstance(end, TokenIds) and isinstance(start, TokenIds):
        return start.ids[: len(end.ids)] == end.ids
    return True  # text and ids cannot be compared without a tokenizer

"""YAML source -> MarkerSet: the JSON Schema first, then the lints."""

import re
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rolemask.errors import MarkerSetError, Problem
from rolemask.markers.lints import LINTS, PlacedMarkers
from rolemask.markers.schema import schema_problems
from rolemask.markers.source import KeyPath, Source, as_list
from rolemask.markers.spec import EndWord, Example, Marker, MarkerSet, Pattern, TokenIds

SCHEMA_VERSION = 1

# Strict, so that a misspelt variable is an error and not an empty string.
_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
_MAY_BE_JINJA = re.compile(r"{[{%#]|\r")  # Jinja changes line ends too


def parse_marker_set(source: Source) -> MarkerSet:
    """Validate a document and build the marker set.

    Raises:
        MarkerSetError: The document is malformed; lists every problem, sorted by place.
    """
    problems = source.problems + (_newer_schema(source) or list(schema_problems(source, "marker-set")))
    if problems:
        raise MarkerSetError(sorted(problems))
    markers = read_markers(source, problems)
    document_start = _read_patterns(source, ("document_start",), source.data.get("document_start"), "", problems)
    problems += [problem for lint in LINTS for problem in lint(source, markers)]
    if problems:
        raise MarkerSetError(sorted(set(problems)))
    data = source.data
    return MarkerSet(
        name=data["name"],
        title=data.get("title", data["name"]),
        markers=tuple(marker for _, marker in markers),
        aliases=tuple(data.get("aliases", ())),
        also_called=tuple(data.get("also_called", ())),
        special_tokens=tuple(data.get("special_tokens", ())),
        eos_token=data.get("eos_token"),
        document_start=document_start,
        media={kind: tuple(tokens) for kind, tokens in data.get("media", {}).items()},
        match={kind: tuple(values) for kind, values in data.get("match", {}).items()},
        source=tuple(as_list(data.get("source", []))),
        examples=tuple(
            Example(example["text"], tuple(example["trained"]), source.place(("examples", index)))
            for index, example in enumerate(data.get("examples", ()))
        ),
        masks_more=dict(data.get("masks_more", {})),
        origin=source.path,
    )


def read_markers(source: Source, problems: list[Problem]) -> PlacedMarkers:
    """Return the markers of a document that its schema allows: one per role, each with the path of its entry."""
    role_names = source.data.get("role_names", {})
    return [
        (("markers", index), _read_marker(source, ("markers", index), role, role_names.get(role, role), problems))
        for index, entry in enumerate(source.data["markers"])
        for role in as_list(entry["role"])
    ]


def _newer_schema(source: Source) -> list[Problem]:
    version = source.data.get("schema", SCHEMA_VERSION) if isinstance(source.data, dict) else SCHEMA_VERSION
    if isinstance(version, int) and version > SCHEMA_VERSION:
        message = f"found a marker set of format {version}, expected {SCHEMA_VERSION}"
        return [source.problem(("schema",), message, "this rolemask is too old for it: pip install -U rolemask")]
    return []


def _read_marker(source: Source, at: KeyPath, role: str, word: str, problems: list[Problem]) -> Marker:
    entry = source.data[at[0]][at[1]]
    start, end, header_end = (_read_patterns(source, (*at, key), entry.get(key), word, problems) for key in ("start", "end", "header_end"))
    ends = tuple(_end_word(pattern) for pattern in end)
    include_end = entry.get("include_end", True)
    return Marker(
        role=role,
        start=start,
        end=ends,
        include_start=entry.get("include_start", False),
        include_end=include_end,
        rewind=entry.get("rewind", bool(ends) and (not include_end or EndWord.NEXT_START in ends)),
        header_end=header_end,
        within=entry.get("within"),
        start_owner=entry.get("start_owner", "span"),
        follows_turn=entry.get("follows_turn", False),
        unanswered=entry.get("unanswered"),
        where=source.place(at),
    )


def _read_patterns(source: Source, at: KeyPath, value: Any, word: str, problems: list[Problem]) -> tuple[Pattern, ...]:
    values = [] if value is None else as_list(value)
    return tuple(TokenIds(tuple(one["ids"])) if isinstance(one, Mapping) else _render(source, at, one, word, problems) for one in values)


def _render(source: Source, at: KeyPath, text: str, word: str, problems: list[Problem]) -> str:
    if not _MAY_BE_JINJA.search(text):
        return text
    try:
        return _JINJA.from_string(text).render(role=word)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        problems.append(source.problem(at, f"cannot render {text!r}: {error}", "only {{ role }} is known here"))
        return text


def _end_word(pattern: Pattern) -> Pattern | EndWord:
    words = {word.value: word for word in EndWord}
    return words.get(pattern, pattern) if isinstance(pattern, str) else pattern

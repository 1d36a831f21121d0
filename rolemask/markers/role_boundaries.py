"""Axolotl's `role_boundaries` -> MarkerSet.

The form is that of axolotl-ai-cloud/axolotl (docs/multimodal.qmd and the config schema at 067b021c): a list of {role, start, end,
include_start, include_end}, where `end` is text, the word eos_token, or null for the end of the sequence. rolemask also takes token ids
({ids: [...]}) and the end next_start.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rolemask.errors import MarkerSetError, Place, Problem, did_you_mean
from rolemask.markers.spec import EndWord, Marker, MarkerSet, Pattern, TokenIds

_KEYS = ("role", "start", "end", "include_start", "include_end")


def read_role_boundaries(boundaries: Sequence[object] | None, base: MarkerSet | None, *, name: str) -> MarkerSet:
    """See `MarkerSet.from_role_boundaries`."""
    if boundaries is not None and (isinstance(boundaries, str | Mapping) or not isinstance(boundaries, Sequence)):
        raise MarkerSetError([Problem(Place(name), f"found a {type(boundaries).__name__}, expected a list of {{role, start, end}}")])
    if not boundaries:
        if base is None:
            raise MarkerSetError([Problem(Place(name), "the list is empty, and there is no marker set to fall back to", "pass base=")])
        return base
    entries = [(Place(f"{name}[{index}]"), _plain(entry)) for index, entry in enumerate(boundaries)]
    if problems := [problem for place, entry in entries for problem in _entry_problems(place, entry)]:
        raise MarkerSetError(problems)
    markers = tuple(_read_entry(place, entry) for place, entry in entries)
    if base is None:
        return MarkerSet(name=name, title=name, markers=markers, origin=name)
    # The special tokens, the examples and what is masked on purpose belong to the markers that are replaced.
    return replace(base, markers=markers, special_tokens=(), examples=(), masks_more={}, origin=f"{name} over {base.origin}")


def _plain(entry: Any) -> Any:
    """Return a pydantic model (Axolotl's configuration has these) as a mapping, without the flags that it leaves unset."""
    if not hasattr(entry, "model_dump"):
        return entry
    flags = ("include_start", "include_end")
    return {key: value for key, value in entry.model_dump().items() if not (key in flags and value is None)}


def _entry_problems(place: Place, entry: Any) -> Iterator[Problem]:
    if not isinstance(entry, Mapping):
        yield Problem(place, f"found {entry!r}, expected {{role, start, end}}")
        return
    for key in entry:
        if key not in _KEYS:
            yield Problem(place, f"found the unknown key {key!r}", did_you_mean(str(key), _KEYS) or f"known keys: {', '.join(_KEYS)}")
    for key in ("role", "start"):
        if not entry.get(key):
            yield Problem(place, f"the key {key!r} is missing or empty")
    for key in ("include_start", "include_end"):
        if not isinstance(entry.get(key, True), bool):
            yield Problem(place, f"{key!r} is {entry[key]!r}, expected true or false")
    role, start, end = entry.get("role"), entry.get("start"), entry.get("end")
    if role and not isinstance(role, str):
        yield Problem(place, f"'role' is {role!r}, expected text")
    for key, given, value in (("start", bool(start), start), ("end", end is not None, end)):
        if given and not _is_pattern(value):
            yield Problem(place, f"{key!r} is {value!r}, expected text or {{ids: [...]}} with ids of 0 or more")
    if isinstance(start, str) and start.isspace():
        yield Problem(place, f"the start {start!r} is white space alone, which contents have too", "begin it with the text before")
    if isinstance(end, str) and (meant := EndWord.meant_by(end)):
        yield Problem(place, f"the end {end!r} would match as text", f"did you mean '{meant}'? If not, pass it as {{ids: [...]}}")


def _read_entry(place: Place, entry: Mapping[str, Any]) -> Marker:
    end = _end(entry.get("end"))
    include_end = entry.get("include_end", True)
    return Marker(
        role=entry["role"],
        start=(_pattern(entry["start"]),),
        end=() if end is None else (end,),
        include_start=entry.get("include_start", False),
        include_end=include_end,
        rewind=end is EndWord.NEXT_START or (end is not None and not include_end),
        where=place,
    )


def _end(value: Any) -> Pattern | EndWord | None:
    words = {word.value: word for word in EndWord}
    return None if value is None else words[value] if isinstance(value, str) and value in words else _pattern(value)


def _is_pattern(value: Any) -> bool:
    if isinstance(value, Mapping) and set(value) == {"ids"}:
        ids = value["ids"]
        return (
            isinstance(ids, Sequence)
            and len(ids) > 0
            and all(isinstance(id_, int) and not isinstance(id_, bool) and id_ >= 0 for id_ in ids)
        )
    return isinstance(value, str) and value != ""


def _pattern(value: Any) -> Pattern:
    return value if isinstance(value, str) else TokenIds(tuple(value["ids"]))

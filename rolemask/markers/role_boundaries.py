"""Axolotl's `role_boundaries` -> MarkerSet.

The form is that of axolotl-ai-cloud/axolotl (docs/multimodal.qmd and the config schema at 067b021c): a list of {role, start, end,
include_start, include_end}, where `end` is text, the word eos_token, or null for the end of the sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rolemask.errors import MarkerSetError, Problem, did_you_mean
from rolemask.markers.spec import EndWord, Marker, MarkerSet, Pattern, TokenIds

_KEYS = ("role", "start", "end", "include_start", "include_end")


def read_role_boundaries(boundaries: Sequence[Mapping[str, Any]] | None, base: MarkerSet | None, *, name: str) -> MarkerSet:
    """See `MarkerSet.from_role_boundaries`."""
    if boundaries is not None and (isinstance(boundaries, str | Mapping) or not isinstance(boundaries, Sequence)):
        raise MarkerSetError([_problem(name, 0, f"found a {type(boundaries).__name__}, expected a list of {{role, start, end}}")])
    if not boundaries:
        if base is None:
            raise MarkerSetError([_problem(name, 0, "the list is empty, and there is no marker set to fall back to", "pass base=")])
        return base
    problems: list[Problem] = []
    markers = [marker for index, entry in enumerate(boundaries) if (marker := _read_entry(name, index, entry, problems))]
    if problems:
        raise MarkerSetError(problems)
    if base is None:
        return MarkerSet(name=name, title=name, markers=tuple(markers), origin=name)
    # The special tokens belong to the markers that were replaced; the examples tell of them.
    return replace(base, markers=tuple(markers), special_tokens=(), examples=(), origin=f"{name} over {base.origin}")


def _problem(name: str, index: int, message: str, hint: str = "") -> Problem:
    return Problem(f"{name}[{index}]", 1, 1, message, hint)


def _read_entry(name: str, index: int, entry: Any, problems: list[Problem]) -> Marker | None:
    if not isinstance(entry, Mapping):
        problems.append(_problem(name, index, f"found {entry!r}, expected {{role, start, end}}"))
        return None
    before = len(problems)
    for key in entry:
        if key not in _KEYS:
            problems.append(
                _problem(name, index, f"found the unknown key {key!r}", did_you_mean(str(key), _KEYS) or f"known: {', '.join(_KEYS)}")
            )
    for key in ("role", "start"):
        if not entry.get(key):
            problems.append(_problem(name, index, f"the key {key!r} is missing or empty"))
    for key in ("include_start", "include_end"):
        if not isinstance(entry.get(key, True), bool):
            problems.append(_problem(name, index, f"{key!r} is {entry[key]!r}, expected true or false"))
    role, start, end = entry.get("role"), entry.get("start"), entry.get("end")
    if role and not isinstance(role, str):
        problems.append(_problem(name, index, f"'role' is {role!r}, expected text"))
    start_pattern = _pattern(name, index, "start", start, problems) if start else None
    end_pattern = None if end is None else _pattern(name, index, "end", end, problems)
    if len(problems) > before or start_pattern is None:
        return None
    include_end = entry.get("include_end", True)
    return Marker(
        role=str(role),
        start=(start_pattern,),
        end=() if end_pattern is None else (EndWord.EOS_TOKEN if end_pattern == EndWord.EOS_TOKEN.value else end_pattern,),
        include_start=entry.get("include_start", False),
        include_end=include_end,
        rewind=end_pattern is not None and not include_end,
        where=f"{name}[{index}]",
    )


def _pattern(name: str, index: int, key: str, value: Any, problems: list[Problem]) -> Pattern | None:
    if isinstance(value, str) and value:
        return value
    ids = value.get("ids") if isinstance(value, Mapping) and set(value) == {"ids"} else None
    if isinstance(ids, Sequence) and ids and all(isinstance(id_, int) and not isinstance(id_, bool) and id_ >= 0 for id_ in ids):
        return TokenIds(tuple(ids))
    problems.append(_problem(name, index, f"{key!r} is {value!r}, expected text or {{ids: [...]}} with ids of 0 or more"))
    return None

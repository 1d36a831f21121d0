"""Finding marker sets: by name, by alias, by path; in the user's folders, in the built-in registry, in other installed packages."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem, UnknownMarkerSetError, did_you_mean
from rolemask.markers.folders import data_folder
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_source, read_text
from rolemask.markers.spec import MarkerSet

FOLDERS_VARIABLE = "ROLEMASK_REGISTRY"
"""Environment variable: folders of marker sets, separated like PATH, that win over the built-in registry."""

ENTRY_POINTS = "rolemask.marker_sets"
"""The entry point group by which an installed package offers marker sets: each names a package whose folder holds the YAML files."""

# The C loader is ten times as fast; what is read with it only tells where a name is to be looked for.
_QUICK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(name: str | Path, *, registry: str | Path | None = None) -> MarkerSet:
    """Load a marker set by name, alias or path to a YAML file.

    Looked into are the folder `registry`, the folders of the environment variable ROLEMASK_REGISTRY, then the built-in registry and what
    other packages offer (entry points `rolemask.marker_sets`). A file takes the place of one with its name in a later one of these;
    any other name that two files share is an error.

    Raises:
        UnknownMarkerSetError: No marker set has this name.
        MarkerSetError: The file is malformed, or another one has the name too; lists every problem.
        FileReadError: The file or folder cannot be read.

    >>> import rolemask
    >>> rolemask.load("gemma-4").name
    'gemma4'
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")) or os.sep in text:
        return load_file(Path(name))
    index = _index(_levels(registry))
    if text not in index:
        known = available(registry=registry)
        hint = did_you_mean(text, index)
        raise UnknownMarkerSetError(f"no marker set {text!r} among the {len(known)} known. {_sentence(hint)}See `rolemask list`")
    path, *others = index[text]
    if others:
        raise MarkerSetError([_clash(text, other, path) for other in others])
    return load_file(path)


def load_file(path: Path) -> MarkerSet:
    """Load the marker set in one YAML file; raises like `load`."""
    return parse_marker_set(read_source(read_text(path), str(path)))


def available(*, registry: str | Path | None = None) -> list[str]:
    """Return the names of all marker sets, sorted."""
    return sorted({path.stem for path in registered(registry)})


def registered(registry: str | Path | None = None) -> list[Path]:
    """Return the file of every marker set, less those in whose place another one stands."""
    return list(_standing(_levels(registry)))


def glance(path: Path) -> dict[str, Any]:
    """Return what a file says, unchecked: enough to see whether it is worth loading. Empty where it cannot be read."""
    return _glance(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _glance(path: Path, modified: int) -> dict[str, Any]:
    try:
        found = yaml.load(read_text(path), _QUICK_LOADER)
    except (yaml.YAMLError, FileReadError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _levels(registry: str | Path | None) -> list[list[Path]]:
    """Return the folders, those that win first; of the folders in one level none wins over another."""
    given = [] if registry is None else [Path(registry)]
    named = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    for folder in (*given, *named):
        if not folder.is_dir():
            raise FileReadError(f"{folder}: is not a folder of marker sets (from `registry=` or {FOLDERS_VARIABLE})")
    return [given, named, [data_folder("registry"), *_packaged()]]


def _packaged() -> Iterator[Path]:
    """Yield the folders that installed packages offer, without importing them."""
    for entry in entry_points(group=ENTRY_POINTS):
        found = find_spec(entry.value)
        for location in (found.submodule_search_locations or ()) if found is not None else ():
            yield Path(location)


def _standing(levels: Sequence[Sequence[Path]]) -> Iterator[Path]:
    taken: set[str] = set()
    for level in levels:
        files = [path for folder in level for path in _files(folder) if path.stem not in taken]
        yield from files
        taken |= {path.stem for path in files}


def _index(levels: Sequence[Sequence[Path]]) -> dict[str, list[Path]]:
    """Return name or alias -> the files that have it, which should be one. One bad file must not hide the others."""
    index: dict[str, list[Path]] = {}
    for path in dict.fromkeys(_standing(levels)):
        for name in _names(path):
            index.setdefault(name, []).append(path)
    return index


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def _names(path: Path) -> list[str]:
    aliases = glance(path).get("aliases")
    return list(
        dict.fromkeys([path.stem, *(alias for alias in aliases if isinstance(alias, str))] if isinstance(aliases, list) else [path.stem])
    )


def clashes(paths: Sequence[Path]) -> list[Problem]:
    """Return a problem for every name or alias that two of the files, or one of them and the built-in registry, share.

    A file with the name of a built-in one takes its place, and may have its aliases too.
    """
    replaced = {path.stem for path in paths}
    built_in = [path for path in _files(data_folder("registry")) if path.stem not in replaced]
    owners = {name: path for path in built_in for name in _names(path)}
    problems = []
    for path in paths:
        for name in _names(path):
            other = owners.setdefault(name, path)
            if other.resolve() != path.resolve():
                problems.append(_clash(name, path, other))
    return problems


def _clash(name: str, path: Path, other: Path) -> Problem:
    message, hint = f"the name {name!r} is used by {other} too", "rename one of them"
    try:
        return read_source(read_text(path), str(path)).problem(("aliases",), message, hint)
    except (MarkerSetError, FileReadError):
        return Problem(Place(str(path), 1, 1), message, hint)


def _sentence(hint: str) -> str:
    return f"{hint[0].upper()}{hint[1:]} " if hint else ""

"""Finds the file of a marker set, by name, alias or path: in your folders, the built-in registry, installed packages."""

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
"""Environment variable: folders of marker sets, separated like PATH. They take precedence over the built-in registry."""

ENTRY_POINTS = "rolemask.marker_sets"
"""Entry point group for packages with marker sets. Each entry names a package whose folder contains the YAML files."""

# The C loader is ten times as fast. It serves lookups only; `load_file` reads a file with places and checks it.
_QUICK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(name: str | Path, *, registry: str | Path | None = None) -> MarkerSet:
    """Load a marker set by name, alias or path to a YAML file.

    >>> import rolemask
    >>> rolemask.load("gemma-4").name
    'gemma4'

    Names are looked up in the folder `registry`, then in the folders of the environment variable ROLEMASK_REGISTRY, then in the built-in
    registry and in installed packages (entry points `rolemask.marker_sets`). A file replaces any later one of the same name. Apart from
    that, two files must not share a name or alias.

    Raises:
        UnknownMarkerSetError: No marker set has this name.
        MarkerSetError: The file is malformed, or another file has the same name; lists every problem.
        FileReadError: The file or folder cannot be read.
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
    """Return the file of every marker set, without those that another file replaces."""
    return list(_files_by_precedence(_levels(registry)))


def glance(path: Path) -> dict[str, Any]:
    """Return the content of a file, quickly and unchecked, to decide whether to load it. Empty if it cannot be read."""
    return _glance(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _glance(path: Path, modified: int) -> dict[str, Any]:
    try:
        found = yaml.load(read_text(path), _QUICK_LOADER)
    except (yaml.YAMLError, FileReadError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _levels(registry: str | Path | None) -> list[list[Path]]:
    """Return the folders by precedence. Folders in one level have the same precedence."""
    given = [] if registry is None else [Path(registry)]
    named = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    for folder in (*given, *named):
        if not folder.is_dir():
            raise FileReadError(f"{folder}: is not a folder of marker sets (from `registry=` or {FOLDERS_VARIABLE})")
    return [given, named, [data_folder("registry"), *_packaged()]]


def _packaged() -> Iterator[Path]:
    """Yield the folders of installed packages, without importing them."""
    for entry in entry_points(group=ENTRY_POINTS):
        found = find_spec(entry.value)
        for location in (found.submodule_search_locations or ()) if found is not None else ():
            yield Path(location)


def _files_by_precedence(levels: Sequence[Sequence[Path]]) -> Iterator[Path]:
    taken: set[str] = set()
    for level in levels:
        files = [path for folder in level for path in _files(folder) if path.stem not in taken]
        yield from files
        taken |= {path.stem for path in files}


def _index(levels: Sequence[Sequence[Path]]) -> dict[str, list[Path]]:
    """Return name or alias -> the files that have it: one, unless they clash. A broken file must not hide the others."""
    index: dict[str, list[Path]] = {}
    for path in dict.fromkeys(_files_by_precedence(levels)):
        for name in _names(path):
            index.setdefault(name, []).append(path)
    return index


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def _names(path: Path) -> list[str]:
    aliases = glance(path).get("aliases")
    given = [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list) else []
    return list(dict.fromkeys([path.stem, *given]))


def clashes(paths: Sequence[Path]) -> list[Problem]:
    """Return a problem for every name or alias that two of the files share, or a file and the built-in registry.

    A file with the name of a built-in one replaces it, and may have its aliases too.
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

"""Finds the file of a marker set, by name, alias or path: in your folders, the built-in registry, installed packages."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem, UnknownMarkerSetError, did_you_mean
from rolemask.markers.folders import data_folder
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_quickly, read_source, read_text
from rolemask.markers.spec import MarkerSet

logger = logging.getLogger("rolemask")

FOLDERS_VARIABLE = "ROLEMASK_REGISTRY"
"""Environment variable: folders of marker sets, separated like PATH. They take precedence over the built-in registry."""

ENTRY_POINTS = "rolemask.marker_sets"
"""Entry point group for packages with marker sets. Each entry names a package whose folder contains the YAML files."""


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
    """Load the marker set in one YAML file; raises like `load`. A file that hasn't changed is parsed once."""
    return _parse(str(path), read_text(path))


@lru_cache(maxsize=1024)
def _parse(path: str, text: str) -> MarkerSet:
    return parse_marker_set(read_source(text, path))


def available(*, registry: str | Path | None = None) -> list[str]:
    """Return the names of all marker sets, sorted. Malformed files are skipped with a warning."""
    return sorted({path.stem for path in registered(registry) if glance(path) and not _look_at(path).problem})


def registered(registry: str | Path | None = None) -> list[Path]:
    """Return the file of every marker set, without those that another file replaces."""
    return list(_files_by_precedence(_levels(registry)))


class _Glance(NamedTuple):
    """The content of a file if what is looked up in it has the right shape, else nothing; and the first problem of the file."""

    data: dict[str, Any]
    problem: str = ""


def glance(path: Path) -> dict[str, Any]:
    """Return the content of a file, quickly, to decide whether to load it.

    `aliases` and `special_tokens`, if there, are lists of texts, `match` and `media` mappings to such lists, and `markers` a list of
    mappings. If not, or if the file
    cannot be read, the content is empty. A malformed file logs a warning. Of built-in files, which tests check, only that much is seen.
    """
    found = _look_at(path)
    if found.problem:
        logger.warning("skipped a malformed marker set: %s. `rolemask check %s` says more", found.problem, path)
    return found.data


def is_built_in(path: Path) -> bool:
    """Whether a file is of the built-in registry, which tests check."""
    return path.parent == data_folder("registry")


def _look_at(path: Path) -> _Glance:
    try:
        return _glance(path, path.stat().st_mtime_ns)
    except OSError as error:
        return _Glance({}, f"{path}: cannot be read: {error.strerror or error}")


@lru_cache(maxsize=1024)
def _glance(path: Path, modified: int) -> _Glance:
    try:
        data = read_quickly(read_text(path))
    except FileReadError as error:
        return _Glance({}, str(error))
    problem = "" if is_built_in(path) else _first_problem(path)
    return _Glance(data, problem) if _has_shape(data) else _Glance({}, problem or f"{path}: is no marker set")


def _first_problem(path: Path) -> str:
    try:
        load_file(path)
    except Exception as error:  # whatever is wrong with one file, it must not hide the others
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def _has_shape(data: object) -> bool:
    if not isinstance(data, dict):
        return False
    tables = [data.get(key, {}) for key in ("match", "media")]
    if not all(isinstance(table, dict) for table in tables):
        return False
    markers = data.get("markers", [])
    if not isinstance(markers, list) or not all(isinstance(marker, dict) for marker in markers):
        return False
    lists = [data.get("aliases", []), data.get("special_tokens", []), *(texts for table in tables for texts in table.values())]
    return all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists)


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
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    for path in found:
        if not path.is_file():
            logger.warning("skipped a malformed marker set: %s is no file", path)
    return [path for path in found if path.is_file()]


def _names(path: Path) -> list[str]:
    return list(dict.fromkeys([path.stem, *_look_at(path).data.get("aliases", [])]))


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

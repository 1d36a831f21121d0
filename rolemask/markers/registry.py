"""Finds the file of a marker set, by name, alias, model id or path: in your folders, the built-in registry, installed packages."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem, UnknownMarkerSetError
from rolemask.markers.folders import data_folder
from rolemask.markers.names import fold, nearest, other_versions
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_quickly, read_source, read_text
from rolemask.markers.spec import MarkerSet

logger = logging.getLogger("rolemask")

FOLDERS_VARIABLE = "ROLEMASK_REGISTRY"
"""Environment variable: folders of marker sets, separated like PATH. They take precedence over the built-in registry."""

ENTRY_POINTS = "rolemask.marker_sets"
"""Entry point group for packages with marker sets. Each entry names a package whose folder contains the YAML files."""


@dataclass(frozen=True)
class _Name:
    """One name of a file. `shared`: other formats are called so too, so that it alone says nothing."""

    spelling: str
    path: Path
    shared: bool = False


def load(name: str | Path, *, registry: str | Path | None = None) -> MarkerSet:
    """Load a marker set by name or alias, by the hub id of a model, or by the path to a YAML file.

    >>> import rolemask
    >>> rolemask.load("Gemma-4").name
    'gemma4'
    >>> rolemask.load("Qwen/Qwen3-0.6B").name
    'qwen3'

    In names, case, ``-``, ``_``, ``.`` and blanks don't count. What ends with ``.yaml`` or ``.yml`` is a path; anything else with a slash
    is a file, if there is one, or else a hub id, which the set must list in `match.model_id`.

    Names are looked up in the folder `registry`, then in the folders of the environment variable ROLEMASK_REGISTRY, then in the built-in
    registry and in installed packages (entry points `rolemask.marker_sets`). A file replaces any later one of the same name. Apart from
    that, two files must not share a name or alias.

    Raises:
        UnknownMarkerSetError: No marker set has this name or model id; or several have, and the message lists them.
        MarkerSetError: The file is malformed, or another file has the same name; lists every problem.
        FileReadError: The file or folder cannot be read.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")) or (os.sep in text and Path(text).is_file()):
        return load_file(Path(name))
    if "/" in text or os.sep in text:
        return _load_by_model(text, registry)
    index = _index(_levels(registry))
    if fold(text) not in index:
        raise UnknownMarkerSetError(_unknown(text, index, len(available(registry=registry))))
    first, *others = index[fold(text)]
    if first.shared and all(other.shared for other in others):
        formats = _listed(one.path for one in (first, *others))
        raise UnknownMarkerSetError(f"several formats are called {text!r}: {formats}. Load one of them, or use rolemask.detect(tokenizer)")
    if others:
        raise MarkerSetError([_clash(other, first) for other in others])
    return load_file(first.path)


def _load_by_model(model: str, registry: str | Path | None) -> MarkerSet:
    found = sets_of_model(model, registry=registry)
    if not found:
        raise UnknownMarkerSetError(
            f"no marker set names the model {model!r}, and there is no such file. "
            f"rolemask.detect(tokenizer) finds the set that follows its chat template; rolemask.detect({model!r}) loads the tokenizer too"
        )
    if len(found) > 1:
        raise UnknownMarkerSetError(f"several marker sets name the model {model!r}: {_listed(found)}. rolemask.detect(tokenizer) decides")
    return load_file(found[0])


def sets_of_model(model: str, *, registry: str | Path | None = None) -> list[Path]:
    """Return the files that list a hub id in `match.model_id`. Case doesn't count; ids in full win over those with a ``*``."""
    asked = model.lower()
    having = [path for path in registered(registry) if any(fnmatchcase(asked, one.lower()) for one in _model_ids(path))]
    in_full = [path for path in having if asked in map(str.lower, _model_ids(path))]
    return in_full or having


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


def _index(levels: Sequence[Sequence[Path]]) -> dict[str, list[_Name]]:
    """Return folded name -> who has it: one, unless they clash or share it. A broken file must not hide the others."""
    index: dict[str, list[_Name]] = {}
    for path in dict.fromkeys(_files_by_precedence(levels)):
        for key, name in _names(path).items():
            index.setdefault(key, []).append(name)
    return index


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    for path in found:
        if not path.is_file():
            logger.warning("skipped a malformed marker set: %s is no file", path)
    return [path for path in found if path.is_file()]


def _names(path: Path) -> dict[str, _Name]:
    """Return folded name -> name, of all that a file has."""
    own = [_Name(name, path) for name in (path.stem, *_texts(_look_at(path).data.get("aliases")))]
    shared = [_Name(name, path, shared=True) for name in _texts(_look_at(path).data.get("also_called"))]
    return {fold(name.spelling): name for name in reversed([*own, *shared])}


def _model_ids(path: Path) -> list[str]:
    match = _look_at(path).data.get("match")
    return _texts(match.get("model_id")) if isinstance(match, dict) else []


def _texts(found: object) -> list[str]:
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def clashes(paths: Sequence[Path]) -> list[Problem]:
    """Return a problem for every name or alias that two of the files share, or a file and the built-in registry.

    A file with the name of a built-in one replaces it, and may have its aliases too. Names in `also_called` are there to be shared, but
    must not be another's name or alias.
    """
    replaced = {path.stem for path in paths}
    built_in = [path for path in _files(data_folder("registry")) if path.stem not in replaced]
    owners = {key: name for path in built_in for key, name in _names(path).items()}
    problems = []
    for path in paths:
        for key, name in _names(path).items():
            other = owners.setdefault(key, name)
            if other.path.resolve() != path.resolve() and not (name.shared and other.shared):
                problems.append(_clash(name, other))
    return problems


def _clash(name: _Name, other: _Name) -> Problem:
    spelled = "" if name.spelling == other.spelling else f", as {other.spelling!r}"
    message = f"the name {name.spelling!r} is used by {other.path} too{spelled}"
    hint = "rename one of them" if name.shared == other.shared else "if both formats are called so, put it under `also_called` in both"
    try:
        return read_source(read_text(name.path), str(name.path)).problem(("also_called" if name.shared else "aliases",), message, hint)
    except (MarkerSetError, FileReadError):
        return Problem(Place(str(name.path), 1, 1), message, hint)


def _unknown(text: str, index: dict[str, list[_Name]], known: int) -> str:
    """Return the message for an unknown name. It proposes nothing of another version as if that were meant."""
    names = [name for entries in index.values() for name in entries]
    if versions := other_versions(text, sorted({name.path.stem for name in names})):
        hint = f"Other versions are other formats: {', '.join(versions)}. "
    else:
        close = nearest(text, [name.spelling for name in names])
        hint = f"Did you mean {close!r}? " if close else ""
    return f"no marker set {text!r} among the {known} known. {hint}See `rolemask list`, or use rolemask.detect(tokenizer)"


def _listed(paths: Iterable[Path]) -> str:
    """Return the names of files, each with its title."""
    return "; ".join(f"{path.stem} ({glance(path).get('title', path.stem)})" for path in paths)

"""YAML text -> plain data, with the line and column of every key and value."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rolemask.errors import FileReadError, MarkerSetError, Problem

KeyPath = tuple[str | int, ...]
"""Where a value stands in the document: ("markers", 0, "start")."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with `true` and `false` as the only booleans (`no`, `on` and dates stay text) and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Aliases allow documents that expand without end; no marker set needs one.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="found an alias, expected the value written out", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


@dataclass
class Source:
    """One YAML document: its data, and where each part of it stands."""

    path: str
    data: Any = None
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, at: KeyPath, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """Make a problem at the value (or, with `key`, at the key) of `at`, or at the nearest parent that has a place."""
        places = [self.keys.get(at)] if key else []
        places += [self.values.get(at[:length]) for length in range(len(at), -1, -1)]
        line, column = next((place for place in places if place), (1, 1))
        return Problem(self.path, line, column, message, hint)

    def where(self, at: KeyPath) -> str:
        """Return ``file:line`` of the value at `at`."""
        return f"{self.path}:{self.values[at][0]}"


def read_text(path: Path) -> str:
    """Read a UTF-8 file, its line ends as they are: a template is known by its hash.

    Raises:
        FileReadError: The file is missing, unreadable, or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FileReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileReadError(f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8") from error


def read_source(text: str, path: str) -> Source:
    """Parse one YAML document. Duplicate keys and keys that are not text go to `problems`.

    Raises:
        MarkerSetError: The text is not YAML at all.
    """
    source = Source(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        source.data = None if node is None else _build(loader, node, (), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise MarkerSetError([Problem(path, line, column, f"not valid YAML: {problem}")]) from error
    except ValueError as error:  # a scalar that looks like a number and is none
        raise MarkerSetError([Problem(path, 1, 1, f"not valid YAML: {error}", "quote the value")]) from error
    except RecursionError as error:
        raise MarkerSetError([Problem(path, 1, 1, "not a marker set: nested too deeply")]) from error
    return source


def _build(loader: _Loader, node: yaml.Node, at: KeyPath, source: Source) -> Any:
    source.values[at] = _place(node)
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*at, index), source) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        line, column = _place(key_node)
        if not isinstance(key, str):
            source.problems.append(Problem(source.path, line, column, f"found the key {key!r}, expected text", "quote it"))
            continue
        below = (*at, key)
        if key in built:
            first = source.keys[below][0]
            source.problems.append(
                Problem(source.path, line, column, f"found the key {key!r} again, expected it once", f"first on line {first}")
            )
        else:
            source.keys[below] = (line, column)
            built[key] = _build(loader, value_node, below, source)
    return built


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1

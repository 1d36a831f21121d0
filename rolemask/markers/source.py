"""YAML text -> plain data, with the place of every key and value."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem

KeyPath = tuple[str | int, ...]
"""The path to a value in the document: ("markers", 0, "start")."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with `true` and `false` as the only booleans (`no`, `on` and dates stay text) and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Aliases allow small documents that expand to huge ones; no marker set needs them.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="found an alias, expected the value written out", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))

# libyaml is ten times as fast and says the same places. Some builds of PyYAML lack it.
_CLoader: Any = getattr(yaml, "CSafeLoader", None)
_QuickLoader: Any = _CLoader and type("_QuickLoader", (_CLoader,), {"yaml_implicit_resolvers": _Loader.yaml_implicit_resolvers})


@dataclass
class Source:
    """One YAML document: its data, and the place of each part of it."""

    path: str
    data: Any = None
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, at: KeyPath, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """Make a problem at the value (or, with `key`, at the key) of `at`, or at the nearest parent that has a place."""
        return Problem(self.keys[at] if key and at in self.keys else self.place(at), message, hint)

    def place(self, at: KeyPath) -> Place:
        """Return the place of the value at `at`, or of the nearest parent that has one."""
        places = (self.values.get(at[:length]) for length in range(len(at), -1, -1))
        return next((place for place in places if place), Place(self.path, 1, 1))


def as_list(value: Any) -> list[Any]:
    """Return the value in a list, unless it is a list."""
    return value if isinstance(value, list) else [value]


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Line ends stay as they are: they count in the hash of a template.

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
        node = _compose_quickly(text) or loader.get_single_node()
        source.data = None if node is None else _build(loader, node, (), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = _place(path, mark) if mark else Place(path, 1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise MarkerSetError([Problem(place, f"not valid YAML: {problem}")]) from error
    except (ValueError, LookupError, AttributeError, ArithmeticError) as error:  # a scalar that is not what its tag or its look says
        raise MarkerSetError([Problem(Place(path, 1, 1), f"not valid YAML: {error}", "quote the value")]) from error
    except RecursionError as error:
        raise MarkerSetError([Problem(Place(path, 1, 1), "not a marker set: nested too deeply")]) from error
    return source


def read_quickly(text: str) -> Any:
    """Return the data of a YAML document without places, unchecked. None if it is not YAML."""
    try:
        return yaml.load(text, _QuickLoader or _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None


def _compose_quickly(text: str) -> yaml.Node | None:
    """Return the document as libyaml reads it; None if there is anything wrong, which PyYAML's own parser explains better."""
    try:
        if _QuickLoader is None or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _QuickLoader)):
            return None
        node: yaml.Node | None = _QuickLoader(text).get_single_node()
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return node


def _build(loader: _Loader, node: yaml.Node, at: KeyPath, source: Source) -> Any:
    source.values[at] = _place(source.path, node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*at, index), source) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        place = _place(source.path, key_node.start_mark)
        if not isinstance(key, str):
            source.problems.append(Problem(place, f"found the key {key!r}, expected text", "quote it"))
            continue
        below = (*at, key)
        if key in built:
            first = source.keys[below].line
            source.problems.append(Problem(place, f"found the key {key!r} again, expected it once", f"first on line {first}"))
        else:
            source.keys[below] = place
            built[key] = _build(loader, value_node, below, source)
    return built


def _place(path: str, mark: Any) -> Place:
    return Place(path, mark.line + 1, mark.column + 1)

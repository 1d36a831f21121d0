"""Checks documents against the JSON Schemas in `schemas/`, with messages in plain words."""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from rolemask.errors import Problem, did_you_mean
from rolemask.markers.folders import data_folder
from rolemask.markers.source import KeyPath, Source

_LONGEST_VALUE = 60  # characters of a wrong value in a message


@cache
def validator(name: str) -> Draft7Validator:
    """Return the validator of the schema `name`: ``marker-set`` or ``proofs``."""
    return Draft7Validator(json.loads((data_folder("schemas") / f"{name}.schema.json").read_text(encoding="utf-8")))


def schema_path() -> Path:
    """Return the file of the JSON Schema of marker sets, in the installed package."""
    return data_folder("schemas") / "marker-set.schema.json"


def schema_comment(folder: Path) -> str:
    """Return the first line of a YAML file in `folder`, which tells editors where the schema is: beside the folder, or installed."""
    beside = folder.resolve().parent / "schemas" / "marker-set.schema.json"
    where = "../schemas/marker-set.schema.json" if beside.is_file() else schema_path().resolve().as_uri()
    return f"# yaml-language-server: $schema={where}"


def schema_problems(source: Source, name: str) -> Iterator[Problem]:
    """Yield everything in a document that its schema does not allow."""
    schema = validator(name)
    for error in schema.iter_errors(source.data):
        yield from _explain(source, error, schema.schema)


def _explain(source: Source, error: ValidationError, root: Any) -> Iterator[Problem]:
    at: KeyPath = tuple(error.absolute_path)
    schema: Any = error.schema
    value: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = schema["properties"]
        for key in (key for key in instance if key not in known):
            hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
            yield source.problem((*at, key), f"found the unknown key {key!r}", hint, key=True)
    elif error.validator == "required":
        for key in (key for key in value if key not in instance):
            yield source.problem(at, f"the key {key!r} is missing", f"expected: {schema['properties'][key]['description']}")
    elif error.validator in ("anyOf", "oneOf", "allOf") and (inner := _deepest(error.context or ())):
        yield from _explain(source, inner, root)
    else:
        expected = schema.get("description") or _description(at, root)
        yield source.problem(at, f"found {_shown(instance)}, expected: {expected}")


def _deepest(errors: Iterable[ValidationError]) -> ValidationError | None:
    """Return the error inside the alternative of the right kind; None if the value is of no alternative's kind."""
    leaves = list(_leaves(errors))
    outer = min((len(error.absolute_path) for error in leaves), default=0)
    inside = [error for error in leaves if len(error.absolute_path) > outer or error.validator == "additionalProperties"]
    return max(inside, key=lambda error: len(error.absolute_path), default=None)


def _leaves(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    for error in errors:
        if error.context:
            yield from _leaves(error.context)
        else:
            yield error


def _description(at: KeyPath, root: Any) -> str:
    """Return the description of the property at `at`, found by the last key of the path."""
    names = [key for key in at if isinstance(key, str)]
    places = (root["properties"], *(part.get("properties", {}) for part in root["definitions"].values()))
    for properties in reversed(places):
        if names and names[-1] in properties and "description" in properties[names[-1]]:
            return str(properties[names[-1]]["description"])
    return str(root["description"])


def _shown(value: Any) -> str:
    text = repr(value) if value is not None else "nothing"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."

"""Checking files of marker sets: shape, meaning, clashes of names, and the examples."""

from collections.abc import Sequence
from pathlib import Path

from rolemask.errors import FileReadError, MarkerSetError, Problem
from rolemask.markers.registry import clashes, load_file
from rolemask.markers.source import read_source, read_text
from rolemask.markers.spec import MarkerSet
from rolemask.masking.examples import check_examples


def check_files(paths: Sequence[str | Path]) -> list[Problem]:
    """Check marker-set files and return every problem of every file, sorted; an empty list means that all is well.

    Needs no tokenizer: the examples run on one that is made from the marker set itself.
    """
    problems = []
    files = [Path(path) for path in paths]
    for path in files:
        try:
            markers = load_file(path)
            problems += check_examples(markers) + _check_verified(markers)
        except MarkerSetError as error:
            problems += error.problems
        except FileReadError as error:
            problems.append(Problem(str(path), 1, 1, str(error).removeprefix(f"{path}: ")))
    return sorted(set(problems + clashes([path for path in files if path.is_file()])))


def _check_verified(markers: MarkerSet) -> list[Problem]:
    """Return a problem where the markers have changed since they were verified."""
    if all(entry.markers == markers.fingerprint for entry in markers.verified):
        return []
    line, column = read_source(read_text(Path(markers.origin)), markers.origin).keys["verified",]
    hint = f"run rolemask verify {markers.name} with --tokenizer or --template, and --write; or remove the block"
    return [Problem(markers.origin, line, column, "found a proof of other markers: these have changed since they were verified", hint)]

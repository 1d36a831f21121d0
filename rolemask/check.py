"""Checking files of marker sets: shape, meaning, clashes of names, and the examples."""

from collections.abc import Sequence
from pathlib import Path

from rolemask.compiler import compile_rules
from rolemask.embedded import EmbeddedTokenizer
from rolemask.errors import FileReadError, MarkerSetError, Problem, RoleMaskError
from rolemask.policy import DEFAULT_ROLES, make_policy
from rolemask.registry import clashes, load_file
from rolemask.scan import mask
from rolemask.source import read_source, read_text
from rolemask.spec import IGNORE_INDEX, Example, MarkerSet


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


def check_examples(markers: MarkerSet) -> list[Problem]:
    """Run the examples of a marker set and return a problem for each that comes out otherwise."""
    problems = []
    for example in markers.examples:
        path, _, line = example.where.rpartition(":")
        try:
            trained = trained_texts(markers, example)
        except RoleMaskError as error:
            problems.append(Problem(path, int(line), 1, str(error)))
            continue
        if trained != list(example.trained):
            message = f"this example trains {trained}, expected {list(example.trained)}"
            problems.append(Problem(path, int(line), 1, message, f"rolemask explain {markers.name} shows why"))
    return problems


def trained_texts(markers: MarkerSet, example: Example) -> list[str]:
    """Return the stretches of an example's text that are trained with the default policy."""
    tokenizer = EmbeddedTokenizer(markers)  # single bytes and control tokens: exact to the character
    rules = compile_rules(markers, tokenizer.vocabulary)
    roles = [role for role in DEFAULT_ROLES if role in markers.roles]
    ids = tokenizer.encode(example.text)
    labels = mask(ids, rules, make_policy(markers.roles, roles_to_train=roles)).labels
    runs: list[list[int]] = []
    for at, label in enumerate(labels):
        if label != IGNORE_INDEX:
            if at == 0 or labels[at - 1] == IGNORE_INDEX:
                runs.append([])
            runs[-1].append(label)
    return [rules.vocabulary.text(run) for run in runs]

"""`rolemask check`: everything that can be wrong with files of marker sets and with their proofs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem
from rolemask.markers.proofs import is_proofs_path, orphans, proof_problems, set_path
from rolemask.markers.registry import clashes, load_file
from rolemask.masking.examples import check_examples


def check_files(paths: Sequence[str | Path]) -> list[Problem]:
    """Check files of marker sets, with their proofs, and return every problem, sorted; an empty list if all is well.

    For a proofs file, its marker set is checked. No tokenizer is needed: the examples run on one made from the marker set.
    """
    given = [Path(path) for path in paths]
    files = [path for path in dict.fromkeys(map(_set_file, given)) if path is not None]
    folders = {path.parent.parent if is_proofs_path(path) else path.parent for path in given}
    problems = [problem for path in files for problem in _check_set(path)]
    problems += [problem for folder in folders for problem in _check_orphans(folder)]
    problems += clashes([path for path in files if path.is_file()])
    return sorted(set(problems))


def _set_file(path: Path) -> Path | None:
    """Return the file to check: for a proofs file, that of its marker set, or None if there is none."""
    return set_path(path) if is_proofs_path(path) and path.is_file() else path


def _check_set(path: Path) -> Iterator[Problem]:
    try:
        markers = load_file(path)
        yield from check_examples(markers)
        yield from proof_problems(markers)
    except MarkerSetError as error:
        yield from error.problems
    except FileReadError as error:
        yield Problem(Place(str(path), 1, 1), str(error).removeprefix(f"{path}: "))


def _check_orphans(folder: Path) -> Iterator[Problem]:
    for path in orphans(folder):
        message = f"found proofs of {path.stem!r}, which is no marker set here"
        yield Problem(Place(str(path), 1, 1), message, "delete the file, or rename it like the set")

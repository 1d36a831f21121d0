"""`rolemask check`: everything that can be wrong with files of marker sets and with their proofs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rolemask.errors import FileReadError, MarkerSetError, Problem
from rolemask.markers.proofs import is_proofs_path, orphans, set_path, stale_proofs
from rolemask.markers.registry import clashes, load_file
from rolemask.masking.examples import check_examples


def check_files(paths: Sequence[str | Path]) -> list[Problem]:
    """Check marker-set files with their proofs, and return every problem of every file, sorted; an empty list if all is well.

    A proofs file may be given too: its marker set is checked. Needs no tokenizer: the examples run on one that is made from the set itself.
    """
    given = [Path(path) for path in paths]
    files = list(dict.fromkeys(found for path in given if (found := set_path(path) if is_proofs_path(path) and path.is_file() else path)))
    problems = [problem for path in files for problem in _check_file(path)]
    folders = {path.parent.parent if is_proofs_path(path) else path.parent for path in given}
    problems += [
        Problem(
            str(path), 1, 1, f"found proofs of {path.stem!r}, which is no marker set here", "delete the file, or rename it like the set"
        )
        for folder in folders
        for path in orphans(folder)
    ]
    return sorted(set(problems + clashes([path for path in files if path.is_file()])))


def _check_file(path: Path) -> Iterator[Problem]:
    try:
        markers = load_file(path)
        yield from check_examples(markers)
        yield from stale_proofs(markers)
    except MarkerSetError as error:
        yield from error.problems
    except FileReadError as error:
        yield Problem(str(path), 1, 1, str(error).removeprefix(f"{path}: "))

"""The proofs of a marker set: one JSON file per set, in the folder `proofs` beside its YAML file.

`rolemask verify --write` writes it, one line per proof; `rolemask check` finds the stale ones.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rolemask.errors import FileReadError, MarkerSetError, Place, Problem
from rolemask.markers.schema import schema_problems, validator
from rolemask.markers.source import Source, read_source, read_text
from rolemask.markers.spec import MarkerSet

SEMANTICS = 1
"""The number of the masking rules. Raise it when the same markers come to mean other labels: every proof is stale then."""

_FOLDER = "proofs"


@dataclass(frozen=True)
class Proof:
    """One marker set, verified on one chat template with one tokenizer.

    `passed`, `not_supported` and `masks_more` are names of scenarios; a proof has none that differs. `masks_more` are those in which only
    what the set masks on purpose is lost. `markers` is the set's fingerprint, `semantics` the
    number of the masking rules, `rolemask` the version, all at the time of the proof.
    """

    template: str
    sha256: str
    tokenizer: str
    passed: tuple[str, ...]
    not_supported: tuple[str, ...]
    markers: str
    semantics: int
    rolemask: str
    masks_more: tuple[str, ...] = ()

    def is_stale(self, markers: MarkerSet) -> bool:
        """Whether the markers, the masking rules or what the set masks on purpose have changed since."""
        forgives_no_more = bool(self.masks_more) and not markers.masks_more
        return self.markers != markers.fingerprint or self.semantics != SEMANTICS or forgives_no_more


def proofs_path(path: Path) -> Path:
    """Return the proofs file of the marker set in the YAML file `path`."""
    return path.parent / _FOLDER / f"{path.stem}.json"


def is_proofs_path(path: Path) -> bool:
    """Whether `path` is where the proofs of a set are kept."""
    return path.suffix == ".json" and path.parent.name == _FOLDER


def set_path(path: Path) -> Path | None:
    """Return the YAML file of the marker set that the proofs file `path` is about; None if there is none."""
    files = (path.parent.parent / f"{path.stem}{suffix}" for suffix in (".yaml", ".yml"))
    return next((file for file in files if file.is_file()), None)


def orphans(folder: Path) -> list[Path]:
    """Return the proofs files of a folder of marker sets that belong to no set."""
    return [path for path in sorted((folder / _FOLDER).glob("*.json")) if set_path(path) is None]


def read_proofs(path: Path) -> tuple[Proof, ...]:
    """Return the proofs of the marker set in the YAML file `path`; none if it has no proofs file.

    Raises:
        MarkerSetError: The proofs file is malformed; lists every problem.
        FileReadError: The proofs file cannot be read.
    """
    file = proofs_path(path)
    if not file.is_file():
        return ()
    text = read_text(file)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise MarkerSetError([Problem(Place(str(file), error.lineno, error.colno), f"not valid JSON: {error.msg}")]) from error
    except RecursionError as error:
        raise MarkerSetError([Problem(Place(str(file), 1, 1), "not a file of proofs: nested too deeply")]) from error
    if not validator("proofs").is_valid(data):
        raise MarkerSetError(sorted(set(schema_problems(_placed(text, file), "proofs"))))
    lists = ("passed", "not_supported", "masks_more")
    return tuple(Proof(**(proof | {key: tuple(proof.get(key, ())) for key in lists})) for proof in data["proofs"])


def write_proofs(path: Path, proofs: Sequence[Proof]) -> None:
    """Write the proofs of the marker set in the YAML file `path`, one line each, sorted; without proofs, remove the file.

    Raises:
        FileReadError: The file cannot be written.
    """
    file = proofs_path(path)
    lines = [_line(proof) for proof in sorted(proofs, key=lambda proof: (proof.template, proof.tokenizer))]
    try:
        if lines:
            file.parent.mkdir(exist_ok=True)
            file.write_text('{"proofs": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise FileReadError(f"{file}: cannot be written: {error.strerror or error}") from error


def _line(proof: Proof) -> str:
    return json.dumps({key: value for key, value in asdict(proof).items() if key != "masks_more" or value}, ensure_ascii=False)


def proof_problems(markers: MarkerSet) -> list[Problem]:
    """Return a problem if a set that was loaded from a file has stale proofs, or none in a folder where sets have proofs.

    A proofs file without any proof says that none could be made.

    Raises:
        MarkerSetError: The proofs file is malformed.
        FileReadError: The proofs file cannot be read.
    """
    path = Path(markers.origin)
    if proofs_path(path).parent.is_dir() and not proofs_path(path).is_file():
        hint = f"run rolemask verify {markers.name} with --tokenizer or --template, and --write"
        return [Problem(Place(str(path), 1, 1), "has no proofs, unlike the other sets of this folder", hint)]
    proofs = read_proofs(path)
    stale = [index for index, proof in enumerate(proofs) if proof.is_stale(markers)]
    if not stale:
        return []
    file = proofs_path(path)
    count = f"{len(stale)} of {len(proofs)} proofs {'is' if len(stale) == 1 else 'are'} stale"
    message = f"{count}: the markers or the masking rules have changed since"
    hint = f"run rolemask verify {markers.name} with --tokenizer or --template, and --write"
    return [_placed(read_text(file), file).problem(("proofs", stale[0]), message, hint)]


def proven_hashes(path: Path) -> frozenset[str]:
    """Return the SHA-256 of every chat template that the set in the YAML file `path` was verified on, stale or not.

    Quick and unchecked, like `rolemask.markers.registry.glance`: empty if there is no proofs file, or it is malformed.
    """
    file = proofs_path(path)
    return _proven_hashes(file, file.stat().st_mtime_ns) if file.is_file() else frozenset()


@lru_cache(maxsize=1024)
def _proven_hashes(file: Path, modified: int) -> frozenset[str]:
    try:
        data: Any = json.loads(read_text(file))
        return frozenset(str(proof["sha256"]) for proof in data["proofs"])
    except (FileReadError, ValueError, TypeError, KeyError, RecursionError):
        return frozenset()


def _placed(text: str, file: Path) -> Source:
    # JSON is YAML too, and the YAML reader knows where each value stands.
    return read_source(text, str(file))

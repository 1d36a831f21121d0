"""One test per file of the registry and per example: a failure names the file."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rolemask.check import check_files
from rolemask.markers.folders import data_folder
from rolemask.markers.names import fold
from rolemask.markers.proofs import orphans
from rolemask.markers.registry import available, load
from rolemask.masking.examples import trained_texts

FILES = sorted(data_folder("registry").glob("*.yaml"))
REQUIRED = [
    "gemma",
    "gemma3",
    "gemma3n",
    "gemma4",
    "llama3_2_vision",
    "llama4",
    "pixtral",
    "mistral_v7_tekken",
    "qwen2_vl",
    "qwen3_5",
    "voxtral",
    "smolvlm2",
    "mistral3",
    "internvl",
    "glm4v",
    "glm46v",
    "llava",
    "lfm2_vl",
    "chatml",
    "llama3",
    "qwen2_5",
    "qwen3",
]


@pytest.mark.parametrize("name", REQUIRED)
def test_the_families_the_project_grew_out_of_are_there(name: str) -> None:
    markers = load(name)
    assert markers.name == name
    assert "assistant" in markers.roles


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_well_formed(path: Path) -> None:
    assert [str(problem) for problem in check_files([path])] == []
    assert path.read_text().startswith("# yaml-language-server: $schema=../schemas/marker-set.schema.json\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_names_its_sources_and_has_two_examples(path: Path) -> None:
    markers = load(path)
    assert len(markers.examples) >= 2
    for source in markers.source:
        assert source.get("revision"), f"{path.name}: the source {source['repository']} has no revision"
    assert markers.source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_fits_on_a_screen(path: Path) -> None:
    """Without its sources and examples, a file has at most 60 lines: write long lists as `[a, b]`."""
    sections = re.split(r"^(?=[a-z_]+:)", path.read_text(), flags=re.MULTILINE)
    lines = [line for section in sections if not section.startswith(("source:", "examples:")) for line in section.splitlines()]
    assert len(lines) <= 60


def test_every_proofs_file_belongs_to_a_set() -> None:
    assert orphans(FILES[0].parent) == []


EXAMPLES = [pytest.param(path.stem, index, id=f"{path.name}-{index}") for path in FILES for index in range(len(load(path).examples))]


@pytest.mark.parametrize(("name", "index"), EXAMPLES)
def test_example_trains_what_it_says(name: str, index: int) -> None:
    markers = load(name)
    example = markers.examples[index]
    assert trained_texts(markers, example) == list(example.trained)


def test_every_alias_leads_to_its_set() -> None:
    for name in available():
        for alias in load(name).aliases:
            assert load(alias).name == name


NOT_FOR_A_CHECKPOINT = {
    "unsloth": "a format of Unsloth's own, put on any model",
    "spark2_5": "the template's source doesn't say which checkpoints have it",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_set_for_a_checkpoint_names_one_in_full(path: Path) -> None:
    in_full = [model for model in load(path).match.get("model_id", ()) if "*" not in model]
    assert bool(in_full) != (path.stem in NOT_FOR_A_CHECKPOINT), f"{path.name}: `match` needs a `model_id` in full, without `*`"
    for model in in_full:
        assert load(model).name == path.stem  # no other set has it in full


def test_a_name_that_several_formats_have_is_in_two_sets_or_more() -> None:
    shared = Counter(fold(name) for path in FILES for name in load(path).also_called)
    assert [name for name, count in shared.items() if count < 2] == []

"""The labels of every set are what they were: a change of labels shows in the diff of `tests/golden/`."""

import json

import pytest
from golden import FOLDER, golden

import rolemask


@pytest.mark.parametrize("name", rolemask.available())
def test_the_labels_of_a_set_are_the_golden_ones(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert golden(rolemask.load(name)) == expected, (
        "labels have changed. If that is meant: python tests/helpers/golden.py, and name it in CHANGELOG"
    )


def test_every_golden_file_belongs_to_a_set() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == rolemask.available()

"""docs/pages/without.yaml: the families without a set have none, and the sets that it calls unverified are so."""

import sys
from pathlib import Path

import pytest

from rolemask import UnknownMarkerSetError
from rolemask.markers.proofs import read_proofs
from rolemask.markers.registry import available, load

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from pages import models

WITHOUT = models.without()
REPAIRED = {"repaired", "dedented"}  # what the names of such copies end with


@pytest.mark.parametrize("name", [name for family in WITHOUT["families"] for name in family["names"]])
def test_a_family_without_a_set_loads_none(name: str) -> None:
    with pytest.raises(UnknownMarkerSetError):
        load(name)


def test_a_set_is_on_the_list_of_the_unverified_if_its_proof_is_on_a_repaired_copy() -> None:
    proofs = {name: read_proofs(Path(load(name).origin)) for name in available()}
    repaired = {name for name, of_set in proofs.items() if all(set(proof.template.split(".")[0].split("-")) & REPAIRED for proof in of_set)}
    assert set(WITHOUT["sets"]) == repaired

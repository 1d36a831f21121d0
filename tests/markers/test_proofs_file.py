"""Proofs files: malformed ones, those without a set, and quick lookups."""

import json
from pathlib import Path
from typing import Any

import pytest
from yaml_texts import GOOD

from rolemask.check import check_files
from rolemask.markers.proofs import SEMANTICS, Proof, proofs_path, proven_hashes, read_proofs, write_proofs
from rolemask.markers.registry import available, load_file


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(GOOD)
    return path


def proof(path: Path, template: str = "a.jinja", **changes: Any) -> Proof:
    fields = {
        "template": template,
        "sha256": "a" * 64,
        "tokenizer": "synthetic",
        "passed": ("one turn",),
        "not_supported": ("tools",),
        "markers": load_file(path).fingerprint,
        "semantics": SEMANTICS,
        "rolemask": "1",
    }
    return Proof(**(fields | changes))


def problems_of(path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path.parent}/") for problem in check_files([path])]


def test_what_is_written_is_read(toy: Path) -> None:
    assert read_proofs(toy) == ()
    proofs = (proof(toy, "ä.jinja"), proof(toy, "b.jinja", not_supported=()), proof(toy, "c.jinja", masks_more=("two",)))
    write_proofs(toy, proofs)
    assert read_proofs(toy) == tuple(sorted(proofs, key=lambda one: one.template))
    assert [line.count("masks_more") for line in proofs_path(toy).read_text().splitlines()] == [0, 0, 1, 0, 0]
    assert len(problems_of(toy)) == 1  # the set masks nothing on purpose
    write_proofs(toy, proofs[:2])
    assert problems_of(toy) == []
    write_proofs(toy, [])
    assert not proofs_path(toy).exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"passed"', '"pased"', "proofs/toy.json:2:1: the key 'passed' is missing (expected: A list of the scenarios"),
        ('"passed"', '"pased"', "proofs/toy.json:2:129: found the unknown key 'pased' (did you mean 'passed'?)"),
        ('"semantics": 1', '"semantics": "1"', "found '1', expected: The number of the masking rules"),
        ('["one turn"]', "[]", "found [], expected: A list of the scenarios in which"),
        ('["tools"]', '"tools"', "found 'tools', expected: A list of the scenarios that the template"),
        ("aaaa", "aaa", "expected: The SHA-256 of the template's text"),
        ('"proofs"', '"proof"', "found the unknown key 'proof' (did you mean 'proofs'?)"),
        ("]}", "]", "proofs/toy.json:4:1: not valid JSON: Expecting ',' delimiter"),
    ],
)
def test_a_malformed_file_is_a_problem_with_its_place(toy: Path, old: str, new: str, expected: str) -> None:
    write_proofs(toy, [proof(toy)])
    file = proofs_path(toy)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    found = problems_of(toy)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"proofs": 1}'])
def test_what_is_no_proofs_file_is_a_problem_and_no_traceback(toy: Path, text: str) -> None:
    proofs_path(toy).parent.mkdir()
    proofs_path(toy).write_text(text)
    assert problems_of(toy)
    assert proven_hashes(toy) == frozenset()


def test_stale_proofs_are_one_problem_at_the_first_of_them(toy: Path) -> None:
    write_proofs(toy, [proof(toy), *(proof(toy, name, markers="0" * 16) for name in ("b", "c"))])
    (problem,) = problems_of(toy)
    assert problem.startswith(
        "proofs/toy.json:3:1: 2 of 3 proofs are stale: the markers or the masking rules have changed since (run rolemask verify toy"
    )
    write_proofs(toy, [proof(toy, semantics=SEMANTICS + 1)])
    assert "1 of 1 proofs is stale" in problems_of(toy)[0]


def test_a_set_without_proofs_is_a_problem_where_other_sets_have_them(toy: Path) -> None:
    assert problems_of(toy) == []
    proofs_path(toy).parent.mkdir()
    (problem,) = problems_of(toy)
    assert problem.startswith("toy.yaml:1:1: has no proofs, unlike the other sets of this folder (run rolemask verify toy")
    proofs_path(toy).write_text('{"proofs": []}')  # none could be made
    assert problems_of(toy) == []


def test_proofs_without_a_set_are_a_problem(toy: Path) -> None:
    write_proofs(toy, [proof(toy)])
    toy.rename(toy.with_name("other.yaml"))
    toy.with_name("other.yaml").write_text(GOOD.replace("name: toy", "name: other"))
    expected = f"{proofs_path(toy)}:1:1: found proofs of 'toy', which is no marker set here (delete the file, or rename it like the set)"
    for given in (toy.with_name("other.yaml"), proofs_path(toy)):
        assert [str(problem) for problem in check_files([given])].count(expected) == 1


def test_a_proofs_file_may_be_checked_by_its_own_path(toy: Path) -> None:
    write_proofs(toy, [proof(toy, markers="0" * 16)])
    assert check_files([proofs_path(toy)]) == check_files([toy]) == check_files([toy, proofs_path(toy)])
    assert len(check_files([toy])) == 1
    assert "cannot be read" in str(check_files([proofs_path(toy).with_name("missing.json")])[0])


def test_proofs_are_no_marker_sets(toy: Path) -> None:
    write_proofs(toy, [proof(toy)])
    assert {"toy"} == set(available(registry=toy.parent)) - set(available())


def test_hashes_are_looked_up_anew_when_the_file_changes(toy: Path) -> None:
    assert proven_hashes(toy) == frozenset()
    write_proofs(toy, [proof(toy)])
    assert proven_hashes(toy) == {"a" * 64}
    proofs_path(toy).unlink()
    assert proven_hashes(toy) == frozenset()


def test_the_schema_describes_every_property() -> None:
    from rolemask.markers.schema import validator

    schema: Any = validator("proofs").schema
    properties = {**schema["properties"], **schema["definitions"]["proof"]["properties"]}
    assert all(entry.get("description") for entry in properties.values())
    assert set(schema["definitions"]["proof"]["properties"]) == set(Proof.__dataclass_fields__)
    assert json.dumps(schema)

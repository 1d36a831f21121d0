"""The names of other projects: each loads what docs/pages/names.yaml says, and what it says is so."""

import sys
from pathlib import Path
from typing import Any

import pytest
from real import given_folders

from rolemask import RoleMaskError, UnknownMarkerSetError, verify
from rolemask.markers.registry import load

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from pages import names as page

PROJECTS = page.projects()


def entries(key: str) -> list[Any]:
    found = [(project["project"], name, value) for project in PROJECTS for name, value in project.get(key, {}).items()]
    return [pytest.param(name, value, id=f"{project}-{name}") for project, name, value in found]


@pytest.mark.parametrize(("name", "expected"), entries("names"))
def test_a_name_of_another_project_loads_its_set(name: str, expected: str) -> None:
    assert load(name).name == expected


@pytest.mark.parametrize(("name", "expected"), entries("shared"))
def test_a_name_of_several_formats_is_an_error_that_lists_them(name: str, expected: str | list[str]) -> None:
    with pytest.raises(UnknownMarkerSetError, match=f"several formats are called '{name}'") as error:
        load(name)
    for one in [expected] if isinstance(expected, str) else expected:
        assert name in load(one).also_called
        assert f"{one} ({load(one).title})" in str(error.value)


@pytest.mark.parametrize(("name", "entry"), entries("other"))
def test_a_name_that_means_something_else_here_does_not_load_their_set(name: str, entry: dict[str, Any]) -> None:
    if entry["set"] is not None:
        load(entry["set"])
    try:
        found = load(name).name
    except RoleMaskError:
        return
    assert found != entry["set"]


WITHOUT = [
    pytest.param(name, id=f"{project['project']}-{name}")
    for project in PROJECTS
    for names in project.get("without", {}).values()
    for name in names
]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_name_without_a_set_loads_none(name: str) -> None:
    # If a set has it by now, the name goes to `names`, or to `other` if the format isn't the project's.
    with pytest.raises(UnknownMarkerSetError) as error:
        load(name)
    assert "several formats are called" not in str(error.value)


def test_no_name_stands_twice_in_a_project() -> None:
    for project in PROJECTS:
        names = [name for key in ("names", "shared", "other") for name in project.get(key, {})]
        names += [name for without in project.get("without", {}).values() for name in without]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["qwen_25", "phi_3", "phi_35", "phi_4", "mistral_v2v3", "nemotron_h", "gemma4_unified"])
def test_axolotls_spelling_loads(name: str) -> None:
    load(name)


AXOLOTL = {**PROJECTS[0]["names"], **PROJECTS[0]["shared"]}
DIFFERS = {"qwen3"}  # Axolotl's generation prompt opens the reasoning, as the model's own doesn't


@pytest.mark.parametrize("name", AXOLOTL)
def test_axolotls_template_follows_the_set(name: str) -> None:
    folders = given_folders("ROLEMASK_TEMPLATES")
    found = next((path for folder in folders if (path := folder / f"axolotl-{name}.jinja").exists()), None)
    if found is None:
        pytest.skip(f"axolotl-{name}.jinja is not at hand")
    assert all(one.ok for one in verify(load(AXOLOTL[name]), None, found)) != (name in DIFFERS)

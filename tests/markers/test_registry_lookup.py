"""Where a name is looked for: folders of one's own, other installed packages, the built-in registry; and what happens when two files share it."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from rolemask import MarkerSetError
from rolemask.markers.folders import data_folder
from rolemask.markers.registry import ENTRY_POINTS, FOLDERS_VARIABLE, available, load, registered

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_set(folder: str, name: str, *aliases: str) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / f"{name}.yaml"
        path.write_text(
            f"name: {name}\naliases: [{', '.join(aliases)}]\n" + 'markers: [{role: assistant, start: "A:", end: null}]\nexamples: []\n'
        )
        return path

    return write_set


def test_a_folder_of_ones_own_wins_over_the_built_in_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named = write("given", "gemma4"), write("named", "gemma4", "diffusion_gemma")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(named.parent))
    assert load("gemma4").origin == str(named)
    assert load("diffusion-gemma").origin == str(named)  # the alias of the file whose place it takes
    assert load("gemma4", registry=given.parent).origin == str(given)
    assert available().count("gemma4") == 1
    assert named in registered()


def test_an_alias_that_is_anothers_name_is_an_error_that_names_both(write: Write) -> None:
    path = write("given", "mine", "gemma4")
    with pytest.raises(MarkerSetError) as error:
        load("gemma4", registry=path.parent)
    assert str(error.value).startswith(f"{load('gemma4').origin}:")
    assert f"the name 'gemma4' is used by {path} too" in str(error.value)
    assert load("mine", registry=path.parent).name == "mine"  # what nobody else has can be had


def test_two_folders_of_one_level_may_not_share_a_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write("first", "mine"), write("second", "mine")
    monkeypatch.setenv(FOLDERS_VARIABLE, f"{first.parent}:{second.parent}")
    with pytest.raises(MarkerSetError, match="the name 'mine' is used by") as error:
        load("mine")
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a package importable, with the entry point that an installed one would have."""

    def make(package: str) -> Path:
        site = tmp_path / "site"
        folder = site / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('looking for marker sets must not run a package')\n")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            dedent(f"""\
            [{ENTRY_POINTS}]
            sets = {package}
            """)
        )
        monkeypatch.syspath_prepend(str(site))
        return folder

    return make


def test_an_installed_package_offers_its_sets(write: Write, install: Callable[[str], Path]) -> None:
    folder = install("their_sets")
    write(str(folder), "theirs", "their-format")
    assert load("theirs").name == "theirs"
    assert load("their-format").origin == str(folder / "theirs.yaml")
    assert "theirs" in available()
    assert "their_sets" not in sys.modules


def test_a_package_may_not_take_a_built_in_name(write: Write, install: Callable[[str], Path]) -> None:
    folder = install("bold_sets")
    write(str(folder), "gemma4")
    built_in = data_folder("registry") / "gemma4.yaml"
    with pytest.raises(MarkerSetError) as error:
        load("gemma4")
    assert str(built_in) in str(error.value)
    assert str(folder / "gemma4.yaml") in str(error.value)


def test_a_broken_file_hides_no_other(write: Write) -> None:
    path = write("given", "good", "fine")
    (path.parent / "bad.yaml").write_text("{")
    assert load("fine", registry=path.parent).name == "good"
    with pytest.raises(MarkerSetError, match="not valid YAML"):
        load("bad", registry=path.parent)


def test_a_newer_format_is_refused_with_a_clear_word(write: Write) -> None:
    path = write("given", "late")
    path.write_text("schema: 2\n" + path.read_text())
    with pytest.raises(
        MarkerSetError, match=r"found a marker set of format 2, expected 1 \(this rolemask is too old for it: pip install -U"
    ):
        load("late", registry=path.parent)

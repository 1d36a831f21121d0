"""Where a name is looked for: folders of one's own, other installed packages, the built-in registry; and what happens when two files share it."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from rolemask import MarkerSetError, UnknownMarkerSetError
from rolemask.markers.folders import data_folder
from rolemask.markers.registry import ENTRY_POINTS, FOLDERS_VARIABLE, available, clashes, load, registered

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


@pytest.mark.parametrize("spelling", ["Qwen3", "qwen-3", "QWEN_3", "qwen 3", "Qwen.3"])
def test_case_and_signs_do_not_count_in_names(spelling: str) -> None:
    assert load(spelling).name == "qwen3"


@pytest.mark.parametrize("spelling", ["Qwen_2.5", "qwen_25", "qwen2.5", "qwen2_5"])
def test_neither_do_they_between_the_digits_of_a_version(spelling: str) -> None:
    assert load(spelling).name == "qwen2_5"


def test_names_that_are_spelled_differently_clash(write: Write) -> None:
    first, second = write("given", "my_set"), write("given", "myset")
    with pytest.raises(MarkerSetError) as error:
        load("My-Set", registry=first.parent)
    message = f"the name 'myset' is used by {first} too, as 'my_set'"
    assert message in str(error.value)
    assert [message in str(problem) for problem in clashes([first, second])] == [True]
    third = write("given", "third", "my.set")
    assert any(f"the name 'my.set' is used by {first} too, as 'my_set'" in str(problem) for problem in clashes([first, third]))


def test_an_alias_that_a_built_in_set_has_in_another_spelling_clashes(write: Write) -> None:
    path = write("given", "mine", "qwen-2.5")
    assert any("used by" in str(problem) and "as 'qwen2_5'" in str(problem) for problem in clashes([path]))


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("gema3", "Did you mean 'gemma3'?"),
        ("opnhermes", "Did you mean 'openhermes'?"),
        ("gemma5", "Other versions are other formats: gemma, gemma3, gemma4."),
        ("llama-3.4", "Other versions are other formats: llama2, llama3, llama4."),
    ],
)
def test_the_hint_for_an_unknown_name_is_no_other_version(asked: str, hint: str) -> None:
    with pytest.raises(UnknownMarkerSetError) as error:
        load(asked)
    assert hint in str(error.value)
    assert "rolemask.detect(tokenizer)" in str(error.value)


@pytest.mark.parametrize("asked", ["gema5", "llama-31-x", "qwen_27x", "mistral_v9"])
def test_a_hint_has_the_digits_that_were_asked_for(asked: str) -> None:
    with pytest.raises(UnknownMarkerSetError) as error:
        load(asked)
    digits = [one for one in asked if one.isdigit()]
    message = str(error.value)
    if "Did you mean" in message:
        hint = message.partition("Did you mean ")[2].partition("?")[0]
        assert [one for one in hint if one.isdigit()] == digits


def shared_name(write: Write, *names: str) -> Path:
    for name in names:
        path = write("given", name)
        path.write_text(f"title: The {name}\nalso_called: [both-of-us]\n" + path.read_text())
    return path.parent


def test_a_name_that_several_formats_have_lists_them(write: Write) -> None:
    folder = shared_name(write, "one_of_us", "other_of_us")
    with pytest.raises(UnknownMarkerSetError, match="several formats are called 'Both_of_us'") as error:
        load("Both_of_us", registry=folder)
    assert "one_of_us (The one_of_us); other_of_us (The other_of_us)" in str(error.value)
    assert clashes(sorted(folder.glob("*.yaml"))) == []


def test_a_shared_name_must_not_be_the_name_of_another_set(write: Write) -> None:
    folder = shared_name(write, "one_of_us", "other_of_us")
    write("given", "third", "both_of_us")
    with pytest.raises(MarkerSetError, match="put it under `also_called` in both"):
        load("both_of_us", registry=folder)
    assert clashes(sorted(folder.glob("*.yaml"))) != []


def of_models(write: Write, name: str, *models: str) -> Path:
    path = write("given", name)
    path.write_text(path.read_text() + f"match: {{model_id: [{', '.join(map(repr, models))}]}}\n")
    return path.parent


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("qwen/qwen3-0.6b", "qwen3"),
        ("Qwen/Qwen3-32B-AWQ", "qwen3"),
        ("google/gemma-4-31B-it", "gemma4"),
        ("deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "deepseek_llm"),  # deepseek_coder has a pattern for it
    ],
)
def test_a_hub_id_loads_the_set_that_names_it(model: str, name: str) -> None:
    assert load(model).name == name


def test_of_sets_that_name_a_model_the_one_with_the_whole_id_wins(write: Write) -> None:
    folder = of_models(write, "wide", "us/model-*")
    of_models(write, "narrow", "us/model-7B")
    of_models(write, "middle", "us/*-7B")
    assert load("us/Model-7b", registry=folder).name == "narrow"
    with pytest.raises(
        UnknownMarkerSetError, match=r"several marker sets name the model 'us/model-8-7B': middle \(middle\); wide"
    ) as error:
        load("us/model-8-7B", registry=folder)
    assert "rolemask.detect(tokenizer)" in str(error.value)


def test_a_model_that_nobody_names_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UnknownMarkerSetError, match=r"no marker set names the model 'nobody/knows'.*rolemask\.detect\(tokenizer\)"):
        load("nobody/knows")


def test_a_path_is_a_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("given", "mine")
    monkeypatch.chdir(path.parent)
    (path.parent / "qwen3").write_text("no marker set\n")
    assert load("mine.yaml").name == load("./mine.yaml").name == load(path).name == "mine"
    plain = path.parent / "without_ending"
    plain.write_text(path.read_text())
    assert load(f"./{plain.name}").name == "mine"
    assert load("qwen3").name == "qwen3"  # a file without an ending, here by chance, is not what is meant

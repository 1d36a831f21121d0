"""Malformed marker sets: every problem, with its place, what was found, what was expected, and a hint."""

from pathlib import Path

import pytest
from yaml_texts import GOOD

from rolemask.check import check_files
from rolemask.errors import FileReadError, MarkerSetError, Place
from rolemask.markers.folders import data_folder
from rolemask.markers.registry import load_file
from rolemask.markers.spec import EndWord, TokenIds


def problems_of(folder: Path, text: str, name: str = "toy.yaml") -> list[str]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return [str(problem).removeprefix(f"{folder}/") for problem in check_files([path])]


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    start:", "    strat:", "toy.yaml:5:5: the key 'start' is missing (expected: The header"),
        ("    start:", "    strat:", "toy.yaml:6:5: found the unknown key 'strat' (did you mean 'start'?)"),
        ("    end:", "    colour: red\n    end:", "toy.yaml:7:5: found the unknown key 'colour' (known keys: role, start, end,"),
        ("name: toy", "name: Toy!", "toy.yaml:1:7: found 'Toy!', expected: The name to load it by"),
        ("name: toy", "name: toy\nname: toy", "toy.yaml:2:1: found the key 'name' again, expected it once (first on line 1)"),
        ("name: toy", "name: toy\n1: x", "toy.yaml:2:1: found the key 1, expected text (quote it)"),
        ("name: toy", "name: toy\nschema: 2", "toy.yaml:2:9: found a marker set of format 2, expected 1 (this rolemask is too old"),
        ("name: toy", "name: toy\nschema: one", "toy.yaml:2:9: found 'one', expected: The version of this file format"),
        ("<|e|>\"\nexamples", "<|e|>\"\n    include_end: no\nexamples", "toy.yaml:8:18: found 'no', expected: true or false: whether the end marker"),
        ("    end: \"<|e|>\"", "    end: 5", "toy.yaml:7:10: found 5, expected: What closes the turn"),
        ("    end: \"<|e|>\"", "    end: {ids: [1, -2]}", "toy.yaml:7:20: found -2, expected: A token id, 0 or greater"),
        ("    end: \"<|e|>\"", "    end: {idz: [1]}", "toy.yaml:7:11: found the unknown key 'idz' (did you mean 'ids'?)"),
        ("{{ role }}", "{{ rol }}", "toy.yaml:6:12: cannot render '<|s|>{{ rol }}\\n': 'rol' is undefined (only {{ role }} is known here)"),
        ("{{ role }}", "{{ role", "toy.yaml:6:12: cannot render"),
        ("{{ role }}", "{{ role.__class__.__mro__ }}", "toy.yaml:6:12: cannot render"),
        ("trained: [\"Yes<|e|>\"]", "trained: [\"Yes\"]", "toy.yaml:9:5: this example trains ['Yes<|e|>'], expected ['Yes'] (correct the markers, or what `trained` lists)"),
        ("name: toy", "name: [toy", "toy.yaml:2:15: not valid YAML: expected ',' or ']', but got ':'"),
        ("name: toy", "name: &a toy\ntitle: *a", "toy.yaml:2:8: not valid YAML: found an alias, expected the value written out"),
    ],
)  # fmt: skip
def test_each_problem_has_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = problems_of(tmp_path, GOOD.replace(old, new, 1))
    assert any(problem.startswith(expected) for problem in found), found


def test_all_problems_of_all_files_are_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(GOOD.replace("name: toy", f"name: {name}\ncolour: red\nshape: round"))
    found = [str(problem) for problem in check_files([tmp_path / "one.yaml", tmp_path / "two.yaml"])]
    assert [problem.count("unknown key") for problem in found] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "text", ["", "[]", "just text", "name: x", "null", "- 1", "{}", "a: {" * 3000, "markers: 1_0:0", "name: 12e5\nmarkers: []", "\x00"]
)
def test_whatever_is_no_marker_set_is_a_problem_and_no_traceback(tmp_path: Path, text: str) -> None:
    assert problems_of(tmp_path, text)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_bytes(b"name: \xff\xfe")
    assert "is not UTF-8 text (byte 6)" in str(check_files([tmp_path / "toy.yaml"])[0])
    with pytest.raises(FileReadError, match="is not UTF-8"):
        load_file(tmp_path / "toy.yaml")


def test_a_folder_or_nothing_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in str(check_files([tmp_path])[0])
    assert "cannot be read: No such file" in str(check_files([tmp_path / "nix.yaml"])[0])


def test_names_that_clash_with_the_registry_or_each_other(tmp_path: Path) -> None:
    assert "is used by" in problems_of(tmp_path, GOOD.replace("name: toy", "name: toy\naliases: [chatml]"))[0]
    mine = (data_folder("registry") / "gemma4.yaml").read_text()
    assert problems_of(tmp_path, mine, "gemma4.yaml") == []  # takes the place of the built-in one, aliases and all
    (tmp_path / "toy2.yaml").write_text(GOOD.replace("name: toy", "name: toy2\naliases: [toy]"))
    (tmp_path / "toy.yaml").write_text(GOOD)
    assert len(check_files([tmp_path / "toy.yaml", tmp_path / "toy2.yaml"])) == 1


def test_what_is_declared_is_what_is_loaded(tmp_path: Path) -> None:
    text = """\
name: full
title: Full
aliases: [full-set]
match: {model_type: [full], processor: [FullProcessor], model_id: ["full/*"]}
special_tokens: ["<|s|>", "[/I]"]
eos_token: "</s>"
role_names: {assistant: model}
markers:
  - role: assistant
    start: ["<|s|>{{ role }}", {ids: [5, 6]}]
    end: [eos_token, "<|s|>"]
    rewind: true
    header_end: "|"
  - {role: user, start: "[I]", end: "[/I]", include_end: false, include_start: true}
  - {role: other, start: "[/I]", end: next_start}
  - {role: system, start: "[S]", end: null}
  - {role: tool, within: assistant, start: "<t>", end: "</t>", start_owner: turn}
  - {role: reasoning, within: assistant, start: "<r>", end: "</r>", follows_turn: true}
media: {image: ["<img>"], audio: ["<a_*>"]}
source: {repository: some/where, revision: "1", path: a, note: b}
"""
    (tmp_path / "full.yaml").write_text(text)
    markers = load_file(tmp_path / "full.yaml")
    by_role = {marker.role: marker for marker in markers.markers}
    assert markers.roles == ("assistant", "user", "other", "system", "tool", "reasoning")
    assert by_role["assistant"].start == ("<|s|>model", TokenIds((5, 6)))
    assert by_role["assistant"].end == (EndWord.EOS_TOKEN, "<|s|>")
    assert by_role["assistant"].header_end == ("|",)
    assert [by_role[role].rewind for role in markers.roles] == [True, True, True, False, False, False]
    assert by_role["system"].end == ()
    assert (by_role["tool"].within, by_role["tool"].start_owner, by_role["reasoning"].follows_turn) == ("assistant", "turn", True)
    assert markers.media_tokens == ("<img>", "<a_*>")
    assert by_role["user"].where == Place(f"{tmp_path}/full.yaml", 14, 5)
    assert hash(markers) == hash(load_file(tmp_path / "full.yaml"))
    assert markers == load_file(tmp_path / "full.yaml")


def test_marker_set_errors_survive_pickling(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "toy.yaml").write_text("name: toy")
    with pytest.raises(MarkerSetError) as caught:
        load_file(tmp_path / "toy.yaml")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems

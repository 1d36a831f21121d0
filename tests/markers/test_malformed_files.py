"""A malformed file in one's own folder of marker sets: it is skipped with a warning, and hides nothing but itself."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import rolemask
from rolemask import MarkerSetError
from rolemask.cli.main import main
from rolemask.errors import FileReadError
from rolemask.markers.registry import FOLDERS_VARIABLE

FINE = 'name: x\nmarkers: [{role: assistant, start: "<|im_start|>assistant\\n", end: "<|im_end|>"}]\n'
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 30))

CONTENTS: dict[str, str | bytes] = {
    "empty": "",
    "white space": " \n\t\n",
    "a scalar": "x",
    "a list": "[x]",
    "not YAML": "name: {",
    "two documents": f"{FINE}---\n{FINE}",
    "binary junk": bytes(range(256)),
    "invalid UTF-8": FINE.encode() + b"# \xff",
    "UTF-16": FINE.encode("utf-16"),
    "a NUL": f"{FINE}# \0",
    "duplicate keys": f"{FINE}name: x\n",
    "a key that is no text": f"{FINE}1: x\n",
    "a key that is a list": f"{FINE}? [x]\n: x\n",
    "no markers": "name: x\n",
    "another name": FINE.replace("name: x", "name: y"),
    "nested deeply": f"{FINE}title: {'[' * 100_000}",
    "nested": f"{FINE}media: {'[' * 300}{']' * 300}\n",
    "nested mappings": f"{FINE}media: {'{a: ' * 400}x{'}' * 400}\n",
    "a bomb": f"{FINE}{BOMB}special_tokens: *a29\n",
    "a bomb of media": f"{FINE}{BOMB}media: {{image: *a29}}\n",
    "an anchor in itself": f"{FINE}media: &m {{image: *m}}\n",
    "an unknown tag": f"{FINE}title: !!python/object:os.system x\n",
    "a number that is none": f"{FINE}title: !!int ''\n",
    "a boolean that is none": f"{FINE}title: !!bool perhaps\n",
    "a time that is none": f"{FINE}title: !!timestamp x\n",
    "aliases: a number": f"{FINE}aliases: 5\n",
    "aliases: mappings": f"{FINE}aliases: [{{a: b}}]\n",
    "aliases: lists": f"{FINE}aliases: [[a]]\n",
    "aliases: null": f"{FINE}aliases:\n",
    "special_tokens: text": f"{FINE}special_tokens: '<|im_start|>'\n",
    "special_tokens: a number": f"{FINE}special_tokens: 5\n",
    "special_tokens: null": f"{FINE}special_tokens:\n",
    "special_tokens: numbers": f"{FINE}special_tokens: [1]\n",
    "match: a list": f"{FINE}match: [gemma4]\n",
    "match: text": f"{FINE}match: gemma4\n",
    "match: a number": f"{FINE}match: 5\n",
    "match: model_type: text": f"{FINE}match: {{model_type: gemma4}}\n",
    "match: model_id: numbers": f"{FINE}match: {{model_id: [5]}}\n",
    "match: model_id: a mapping": f"{FINE}match: {{model_id: {{a: b}}}}\n",
    "match: processor: null": f"{FINE}match: {{processor: }}\n",
    "media: a list": f"{FINE}media: [x]\n",
    "media: a number": f"{FINE}media: 5\n",
    "media: image: text": f"{FINE}media: {{image: x}}\n",
    "media: image: lists": f"{FINE}media: {{image: [[x]]}}\n",
    "masks_more: a list": f"{FINE}masks_more: [x]\n",
    "markers: text": "name: x\nmarkers: x\n",
    "markers: numbers": "name: x\nmarkers: [1, 2]\n",
    "a start that is no Jinja": FINE.replace("assistant\\n", "{{ role"),
    "a newer format": f"schema: 2\n{FINE}",
}


def no_permission(path: Path) -> None:
    path.write_text(FINE)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")


SHAPES: dict[str, Callable[[Path], Any]] = {
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "no permission": no_permission,
    "a pipe": os.mkfifo,
}
MAKERS: dict[str, Callable[[Path], Any]] = {
    **{kind: lambda path, content=content: path.write_bytes(content.encode() if isinstance(content, str) else content) for kind, content in CONTENTS.items()},
    **SHAPES,
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_a_malformed_file_is_skipped_with_a_warning_that_names_it(
    kind: str, small_tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    path = tmp_path / "x.yaml"
    MAKERS[kind](path)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    caplog.set_level(logging.WARNING)

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer_folder)
    assert rolemask.detect(tokenizer).name == "chatml"
    assert str(path) in caplog.text
    caplog.clear()
    names = rolemask.available()
    assert "x" not in names
    assert {"chatml", "qwen3"} <= set(names)
    assert str(path) in caplog.text

    with pytest.raises(rolemask.UnknownMarkerSetError, match="no marker set 'qwem3'"):
        rolemask.load("qwem3")
    with pytest.raises(rolemask.TokenizerMismatchError, match="The set nearest to this tokenizer is 'chatml'"):
        rolemask.load("gemma3").compile(tokenizer)
    assert rolemask.detect(type("Gemma4Config", (), {"model_type": "gemma4"})()).name == "gemma4"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|pad|>")
    with pytest.raises(rolemask.UndetectedError, match="The nearest is"):
        rolemask.detect(tokenizer)
    assert rolemask.detect(tokenizer, fallback="media").name == "media"

    own = (MarkerSetError, FileReadError)
    with pytest.raises(own if kind not in SHAPES else (*own, rolemask.UnknownMarkerSetError)):
        rolemask.load("x")
    if kind != "a pipe":  # whoever asks for a pipe waits for it
        with pytest.raises(own):
            rolemask.load(path)


def test_list_names_what_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text("name: x\n")
    (tmp_path / "y.yaml").write_text(FINE.replace("name: x", "name: y"))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0
    assert f"{tmp_path / 'x.yaml'}:1:1: the key 'markers' is missing" in result.stderr
    lines = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert "y" in lines
    assert "x" not in lines


def test_what_yaml_1_1_would_change_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text(f"{FINE}aliases: [no, 2001-01-01]\n")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    assert rolemask.load("no").name == "x"


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(FINE)
    first = rolemask.load(path)
    assert rolemask.load(path) is first
    path.write_text(FINE.replace("<|im_end|>", "<|im_sep|>"))
    assert rolemask.load(path).markers[0].end == ("<|im_sep|>",)

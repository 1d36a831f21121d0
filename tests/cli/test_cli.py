"""The command line, as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from yaml_texts import GOOD

from rolemask.cli.main import main

CHAT = Path(__file__).parents[2] / "docs" / "examples" / "weather.json"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_list_names_every_set() -> None:
    result = run("list")
    assert result.exit_code == 0
    for name in ("chatml", "gemma4", "qwen3"):
        assert name in result.output


def test_show_tells_the_markers() -> None:
    result = run("show", "gemma4")
    assert result.exit_code == 0
    assert "<|turn>model\\n" in result.output
    assert "within assistant" in result.output


def test_show_tells_the_ids_in_a_tokenizer(small_tokenizer_folder: Path) -> None:
    result = run("show", "chatml", "--tokenizer", str(small_tokenizer_folder))
    assert result.exit_code == 0, result.output
    assert "<|im_end|> [1]" in result.output


@pytest.mark.parametrize("name", ["gemma4", "chatml", "pixtral", "glm4v", "qwen3_5", "llava", "voxtral", "llama3"])
def test_explain_shows_what_is_trained(name: str, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer!"}] * 2
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    result = run("explain", name, str(tmp_path / "chat.json"))
    assert result.exit_code == 0, result.output
    assert result.output.count("[[") >= 3  # two answers and the legend
    assert "Answer!" in result.output
    assert "[[Question" not in result.output


def test_a_system_message_without_a_marker_goes_into_the_next_turn(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    result = run("explain", "gemma3", str(tmp_path / "chat.json"))
    assert "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn><start_of_turn>model\n[[Yo<end_of_turn>]]" in result.output


def test_explain_on_the_chat_of_the_readme() -> None:
    result = run("explain", "gemma4", str(CHAT))
    assert result.exit_code == 0
    assert "80 %" in result.output
    for part in result.output.split("[[")[1:]:
        trained, _, masked = part.partition("]]")
        assert "80 %" not in trained
        assert "Gern geschehen" not in masked


def test_explain_with_a_tokenizer_uses_its_chat_template(small_tokenizer_folder: Path) -> None:
    result = run("explain", "chatml", str(CHAT), "--tokenizer", str(small_tokenizer_folder))
    assert result.exit_code == 0, result.output
    assert "<|im_end|>\n<|im_start|>user" in result.output.replace("]]", "")


def test_explain_takes_policies(tmp_path: Path) -> None:
    result = run("explain", "chatml", str(CHAT), "--roles-to-train", "user", "--train-on-eos", "none", "--turns", "last")
    assert "[[Danke!]]" in result.output
    assert result.output.count("[[") == 2
    assert run("explain", "chatml", str(CHAT), "--roles-to-train", "usr").exit_code == 2


def test_explain_writes_one_self_contained_page(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(
        '[{"role": "user", "content": "<b>&"}]\n\n{"messages": [{"role": "assistant", "content": "<script>x"}]}\n'
    )
    result = run("explain", "chatml", str(tmp_path / "chat.jsonl"), "--html", str(tmp_path / "out.html"))
    assert result.exit_code == 0, result.output
    html = (tmp_path / "out.html").read_text()
    assert "&lt;script&gt;x" in html
    assert "<script" not in html
    assert "http" not in html
    assert "Chat 2: 6 of" in html or "Chat 2:" in html
    assert "<mark title=" in html


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "chat.json: is empty"),
        ("{", "chat.json:1:2: is neither JSON nor JSON Lines"),
        ('{"a": 1}', "chat.json:1: found nothing, expected a list of messages"),
        ("[]", "chat.json:1: found an empty list"),
        ("5", "chat.json:1: found 5, expected a list"),
        ('["hi"]', "chat.json:1: message 0 is 'hi', expected"),
        ('[{"content": "x"}]', "chat.json:1: message 0 is an object with the keys 'content'"),
        ('[{"role": "user", "content": "x"}]\n[{"role": 1}]', "chat.json:2: message 0"),
        ('[{"role": "user", "content": "x"}]\nnope', "chat.json:2:1: is neither JSON nor JSON Lines"),
        ('[{"role": "robot", "content": "x"}]', "'gemma4' has no marker for the role 'robot'"),
    ],
)
def test_what_is_no_chat_is_told_without_a_traceback(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(text)
    result = run("explain", "gemma4", str(tmp_path / "chat.json"))
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gema4"], "Did you mean 'gemma4'?"),
        (["show", "nix/gemma4.yaml"], "nix/gemma4.yaml: cannot be read"),
        (["explain", "gemma4", "nix.json"], "nix.json: cannot be read"),
        (["explain", "gemma4", str(CHAT), "--tokenizer", "nix/nowhere"], "cannot load the tokenizer 'nix/nowhere'"),
        (["explain", "gemma4", str(CHAT), "--html", "nix/nowhere/x.html"], "nix/nowhere/x.html: cannot be written"),
        (["explain", "gemma4", str(CHAT), "--train-on-eos", "trun"], "did you mean 'turn'?"),
        (["explode"], "No such command 'explode'"),
        (["check"], "Missing argument"),
    ],
)
def test_misuse_is_told_and_exits_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_check_exits_1_on_problems(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(GOOD)
    assert run("check", str(tmp_path / "toy.yaml")).exit_code == 0
    (tmp_path / "toy.yaml").write_text(GOOD.replace("start:", "strat:"))
    result = run("check", str(tmp_path / "toy.yaml"))
    assert result.exit_code == 1
    assert "toy.yaml:6:5: found the unknown key 'strat' (did you mean 'start'?)" in result.output


def test_verify_says_whose_tokenizer_it_takes() -> None:
    import rolemask

    result = run("verify", "qwen3")  # there is no network here, so it goes no further
    assert result.exit_code == 2
    model = rolemask.load("qwen3").match["model_id"][0]
    assert f"with the tokenizer of {model}, the first model that 'qwen3' names" in result.stderr
    assert run("verify", "qwen3", "--tokenizer", "no/tokenizer").stderr.startswith("rolemask: cannot load the tokenizer 'no/tokenizer'")


def test_a_users_folder_wins_over_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rolemask

    mine: Any = GOOD.replace("name: toy", "name: chatml\naliases: [mine]")
    (tmp_path / "chatml.yaml").write_text(mine)
    assert rolemask.load("chatml", registry=tmp_path).roles == ("user", "assistant")
    assert "tool" in rolemask.load("chatml").roles
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    assert rolemask.load("mine").roles == ("user", "assistant")
    assert rolemask.load(tmp_path / "chatml.yaml") == rolemask.load("mine")
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path / "nix"))
    with pytest.raises(rolemask.FileReadError, match="is not a folder of marker sets"):
        rolemask.load("chatml")

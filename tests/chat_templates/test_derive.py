"""Deriving sets: from every template that comes with trl, and from templates that nobody has seen."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rolemask import ChatError, derive, verify
from rolemask.check import check_files
from rolemask.cli.main import main
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_source

TRL = sorted(path.name for path in (files("trl") / "chat_templates").iterdir() if path.name.endswith(".jinja"))
# What these write that no rule of thumb reads off; `derive` says so itself.
UNSETTLED = {
    "deepseek_r1_distill.jinja": "two tool results: ",
    "deepseek_r1_distill_training.jinja": "two tool results: ",
    "gemma4_v5.jinja": "reasoning and tools: ",
    "glm4moe_training.jinja": "what a tool's result begins with: ",
    "deepseekv3.jinja": "two tool results: ",
    "deepseekv3_training.jinja": "two tool results: ",
    "diffusion_gemma.jinja": "tools: ",
    "diffusion_gemma_training.jinja": "tools: ",
    "muse_glimmer.jinja": "parallel calls: ",
    "muse_glimmer_training.jinja": "parallel calls: ",
}


@pytest.mark.parametrize("name", TRL)
def test_what_is_derived_passes_check_and_verify_or_says_what_is_not_settled(name: str, tmp_path: Path) -> None:
    inference = derive(Path(str(files("trl") / "chat_templates" / name)), name="derived")
    path = tmp_path / "derived.yaml"
    path.write_text(inference.text)
    assert inference.markers.examples
    if name not in UNSETTLED:
        assert inference.unsettled == ()
        assert check_files([path]) == []
        assert all(one.ok for one in verify(path, template=Path(str(files("trl") / "chat_templates" / name))))
    else:
        assert any(problem.startswith(UNSETTLED[name]) for problem in inference.unsettled)


LOOP = "{% for m in messages %}"
PROMPT = "{% if add_generation_prompt %}"
UNSEEN = {
    "words for roles": (
        LOOP + "<|turn:{{ 'bot' if m.role == 'assistant' else m.role }}|>\n{{ m.content }}<|over|>\n{% endfor %}" + PROMPT + "<|turn:bot|>\n{% endif %}",
        {"system": ["<|turn:system|>\n"], "user": ["<|turn:user|>\n"], "assistant": ["<|turn:bot|>\n"]},
        ["<|over|>"],
    ),
    "one marker for two": (
        "<s>" + LOOP + "{% if m.role == 'user' %}[ASK]{{ m.content }}[/ASK]{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}",
        {"user": ["[ASK]"], "assistant": ["[/ASK]"]},
        ["eos_token"],
    ),
    "the next header stops": (
        LOOP + "<|{{ m.role }}|>\n{{ m.content }}{% endfor %}" + PROMPT + "<|assistant|>{% endif %}",
        {"user": ["<|user|>\n"], "assistant": ["<|assistant|>"]},
        ["<|user|>"],
    ),
    "text alone": (
        LOOP + "{% if m.role == 'user' %}Human: {{ m.content }}\n\n{% elif m.role == 'assistant' %}Robot: {{ m.content }}</s>\n{% endif %}{% endfor %}" + PROMPT + "Robot:{% endif %}",
        {"user": ["Human: "], "assistant": ["Robot:"]},
        ["eos_token"],
    ),
    "empty reasoning": (
        LOOP + "<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        + PROMPT + "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}",
        {"assistant": ["<|im_start|>assistant\n", "<|im_start|>assistant\n<think></think>"], "reasoning": ["<think>"], "other": ["<|im_start|>"]},
        ["<|im_end|>"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_a_template_never_seen_is_read(name: str) -> None:
    source, starts, end = UNSEEN[name]
    inference = derive(source)
    assert inference.unsettled == ()
    found = {marker.role: list(marker.start) for marker in inference.markers.markers}
    assert {role: found[role] for role in starts} == starts
    assistant = next(marker for marker in inference.markers.markers if marker.role == "assistant")
    assert [str(one) for one in assistant.end] == end


def test_tools_images_and_calls_are_read() -> None:
    source = LOOP + (
        "<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text if p.type == 'text' else '<|picture|>' }}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    inference = derive(source)
    assert inference.unsettled == ()
    assert set(inference.markers.roles) == {"system", "user", "assistant", "tool", "tool_call", "other"}
    assert inference.markers.media == {"image": ("<|picture|>",)}


def test_what_a_tokenizer_calls_special_is_special(small_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    inference = derive(AutoTokenizer.from_pretrained(small_tokenizer_folder))
    assert inference.unsettled == ()
    assert inference.markers.special_tokens == ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('never') }}", "does not write three questions and answers: TemplateError: never"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "nothing stands before a user's words"),
    ],
)
def test_what_cannot_be_read_is_said(source: str, reason: str) -> None:
    with pytest.raises(ChatError, match=reason):
        derive(source)


OPEN_ENDED = (
    "{% for m in messages if m.role != 'system' %}{{ 'Human: ' if m.role == 'user' else 'Robot: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Robot: {% endif %}"
)


def test_a_missing_stop_token_is_told() -> None:
    inference = derive(OPEN_ENDED)
    assert inference.unsettled == ("the template writes no stop token behind an answer, so none is trained",)


def run(*words: str) -> Any:
    return CliRunner().invoke(main, list(words))


def test_the_commands(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(UNSEEN["words for roles"][0])
    printed = run("derive", str(template), "--name", "mine")
    assert printed.exit_code == 0, printed.output
    assert parse_marker_set(read_source(printed.stdout, "mine.yaml")).name == "mine"

    new = run("new", "mine", "--from", str(template), "--folder", str(tmp_path))
    assert new.exit_code == 0, new.output
    assert (tmp_path / "mine.yaml").read_text() == printed.stdout
    assert check_files([tmp_path / "mine.yaml"]) == []
    again = run("new", "mine", "--folder", str(tmp_path))
    assert again.exit_code == 2
    assert "exists already" in again.output

    empty = run("new", "toy", "--folder", str(tmp_path))
    assert empty.exit_code == 0
    assert check_files([tmp_path / "toy.yaml"]) == []

    template.write_text(OPEN_ENDED)
    open_ended = run("derive", str(template))
    assert open_ended.exit_code == 1
    assert "not settled: the template writes no stop token" in open_ended.stderr
    nowhere = run("new", "lost", "--folder", str(tmp_path / "nowhere"))
    assert nowhere.exit_code == 2
    assert "cannot be written" in nowhere.output


def given_templates() -> list[Any]:
    folder = os.environ.get("ROLEMASK_TEMPLATES")
    if not folder:
        reason = pytest.mark.skip(reason="ROLEMASK_TEMPLATES is not set: no sets were derived from further templates")
        return [pytest.param(None, marks=reason)]
    return [pytest.param(path, id=path.name) for path in sorted(Path(folder).glob("*.jinja"))]


@pytest.mark.parametrize("path", given_templates())
def test_any_template_gives_a_set_or_a_reason(path: Path, tmp_path: Path) -> None:
    refused = None
    try:
        inference = derive(path)
    except ChatError as reason:
        refused = str(reason)
    if refused is not None:
        assert path.name in refused
        return
    written = tmp_path / "inferred.yaml"
    written.write_text(inference.text)
    if not inference.unsettled:
        assert check_files([written]) == []
        assert all(one.ok for one in verify(written, template=path))

"""Deriving marker sets, from the templates of trl and from made-up ones."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from real import given_folders

from rolemask import ChatError, derive, verify
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.check import check_files
from rolemask.cli.main import main
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_source

TRL = sorted(path.name for path in (files("trl") / "chat_templates").iterdir() if path.name.endswith(".jinja"))
# What `derive` cannot settle in these, and says so.
UNSETTLED = {
    "deepseek_r1_distill.jinja": "two tool results",
    "deepseek_r1_distill_training.jinja": "two tool results",
    "gemma4_v5.jinja": "reasoning and tools",
    "deepseekv3.jinja": "two tool results",
    "deepseekv3_training.jinja": "two tool results",
    "diffusion_gemma.jinja": "tools",
    "diffusion_gemma_training.jinja": "tools",
    "muse_glimmer.jinja": "parallel calls",
    "muse_glimmer_training.jinja": "parallel calls",
}


@pytest.mark.parametrize("name", TRL)
def test_a_derived_set_passes_check_and_verify_or_says_what_is_not_settled(name: str, tmp_path: Path) -> None:
    derived = derive(Path(str(files("trl") / "chat_templates" / name)), name="derived")
    path = tmp_path / "derived.yaml"
    path.write_text(derived.text)
    assert derived.markers.examples
    if name not in UNSETTLED:
        assert derived.unsettled == ()
        assert check_files([path]) == []
        assert all(one.ok for one in verify(path, template=Path(str(files("trl") / "chat_templates" / name))))
    else:
        assert UNSETTLED[name] in {about for one in derived.unsettled for about in one.about.split(", ")}


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
def test_deriving_from_made_up_templates(name: str) -> None:
    source, starts, end = UNSEEN[name]
    derived = derive(source)
    assert derived.unsettled == ()
    found = {marker.role: list(marker.start) for marker in derived.markers.markers}
    assert {role: found[role] for role in starts} == starts
    assistant = next(marker for marker in derived.markers.markers if marker.role == "assistant")
    assert [str(one) for one in assistant.end] == end


def test_a_start_that_ends_every_question_may_stand_behind_one_that_nobody_answered() -> None:
    source, _, _ = UNSEEN["one marker for two"]
    assistant = next(marker for marker in derive(source).markers.markers if marker.role == "assistant")
    assert assistant.unanswered == "user"
    source, _, _ = UNSEEN["words for roles"]
    assert [marker.unanswered for marker in derive(source).markers.markers if marker.unanswered] == []


def test_tools_calls_and_images_are_found() -> None:
    source = LOOP + (
        "<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text if p.type == 'text' else '<|picture|>' }}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    derived = derive(source)
    assert derived.unsettled == ()
    assert set(derived.markers.roles) == {"system", "user", "assistant", "tool", "tool_call", "other"}
    assert derived.markers.media == {"image": ("<|picture|>",)}


def test_a_tokenizers_special_tokens_are_used(small_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    derived = derive(AutoTokenizer.from_pretrained(small_tokenizer_folder))
    assert derived.unsettled == ()
    assert derived.markers.special_tokens == ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('never') }}", "does not render three questions and answers: TemplateError: never"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "renders nothing but white space before a user's message"),
        ("{% for m in messages %}{{ m.content }}\n\n{% endfor %}", "renders nothing but white space before a user's message"),
    ],
)
def test_why_nothing_can_be_derived(source: str, reason: str) -> None:
    with pytest.raises(ChatError, match=reason):
        derive(source)


def test_white_space_alone_is_no_header() -> None:
    preamble = "{% if loop.first %}Be brief.\n\n{% else %}<|{{ m.role }}|>\n{% endif %}"
    derived = derive(LOOP + preamble + "{{ m.content }}</s>{% endfor %}" + PROMPT + "<|assistant|>\n{% endif %}")
    assert {marker.role: marker.start for marker in derived.markers.markers}["user"] == ("<|user|>\n",)
    assert derived.unsettled == ()


# An answer has no stop token, so the next question's start stops it; behind a question that nobody answered it is trained too.
LEAKING = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content }}{% endfor %}"


def test_what_is_trained_too_much_is_told_from_what_is_lost() -> None:
    (problem,) = [problem for problem in derive(LEAKING).unsettled if problem.trains_too_much]
    assert problem.about == "two questions in a row, two questions, an answer, a question"
    assert "'[INST]' is trained, but the model never generates it" in str(problem)


OPEN_ENDED = (
    "{% for m in messages if m.role != 'system' %}{{ 'Human: ' if m.role == 'user' else 'Robot: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Robot: {% endif %}"
)


def test_a_missing_stop_token_is_reported() -> None:
    derived = derive(OPEN_ENDED)
    assert derived.unsettled == ()
    assert derived.notes == ("stop token: the template renders none after an answer, so none is trained",)
    assert derived.text.endswith("# Notes:\n# - stop token: the template renders none after an answer, so none is trained\n")


def test_derive_finds_the_ground_truth_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    find = GroundTruthFinder.find
    monkeypatch.setattr(GroundTruthFinder, "find", lambda self, scenario: (found.append(scenario.name), find(self, scenario))[1])
    derive(OPEN_ENDED)
    assert sorted(found) == sorted(scenario.name for scenario in SCENARIOS)


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
    assert f"`rolemask verify {tmp_path / 'mine.yaml'} --template {template}`" in new.output
    schema, _, text = (tmp_path / "mine.yaml").read_text().partition("\n")
    assert text == printed.stdout.partition("\n")[2]
    assert Path(schema.rpartition("$schema=file://")[2]).is_file()
    assert check_files([tmp_path / "mine.yaml"]) == []
    again = run("new", "mine", "--folder", str(tmp_path))
    assert again.exit_code == 2
    assert "exists already" in again.output

    empty = run("new", "toy", "--folder", str(tmp_path))
    assert empty.exit_code == 0
    assert check_files([tmp_path / "toy.yaml"]) == []

    template.write_text(OPEN_ENDED)
    open_ended = run("derive", str(template))
    assert open_ended.exit_code == 0
    assert "note: stop token: the template renders none after an answer" in open_ended.stderr
    nowhere = run("new", "lost", "--folder", str(tmp_path / "nowhere"))
    assert nowhere.exit_code == 2
    assert "cannot be written" in nowhere.output


def given_templates() -> list[Any]:
    folders = given_folders("ROLEMASK_TEMPLATES")
    if not folders:
        reason = pytest.mark.skip(reason="ROLEMASK_TEMPLATES is not set: no sets are derived from further templates")
        return [pytest.param(None, marks=reason)]
    return [pytest.param(path, id=path.name) for folder in folders for path in sorted(folder.glob("*.jinja"))]


@pytest.mark.parametrize("path", given_templates())
def test_every_template_gives_a_set_or_a_reason(path: Path, tmp_path: Path) -> None:
    refused = None
    try:
        derived = derive(path)
    except ChatError as reason:
        refused = str(reason)
    if refused is not None:
        assert path.name in refused
        return
    path_of_set = tmp_path / "inferred.yaml"
    path_of_set.write_text(derived.text)
    if not derived.unsettled:
        assert check_files([path_of_set]) == []
        assert all(one.ok for one in verify(path_of_set, template=path))

"""The check in `compile`, which refuses a set that disagrees with the tokenizer's own chat template."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

import rolemask
from rolemask import TemplateMismatchError
from rolemask.chat_templates.self_check import first_problem
from rolemask.chat_templates.template import templates_of
from rolemask.matching.compiler import rules_for


@pytest.fixture
def tokenizer(small_tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_tokenizer_folder)


def test_a_set_that_fits_is_compiled(tokenizer: Any) -> None:
    assert rolemask.load("chatml").compile(tokenizer).markers.name == "chatml"


def test_a_template_that_disagrees_is_refused_with_both_texts(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}").replace(
        "{{ m.content }}", "{{ '<think>\n' if m.role == 'assistant' }}{{ m.content }}"
    )
    with pytest.raises(TemplateMismatchError) as refused:
        rolemask.load("chatml").compile(tokenizer)
    message = str(refused.value)
    assert "'chatml' does not fit the chat template" in message
    assert "'<think>\\n' is trained, but the model never generates it" in message
    assert "<|im_start|>assistant\n[[<think>\nReply1.<|im_end|>]]" in message
    assert "<|im_start|>assistant\n<think>\n[[Reply1.<|im_end|>]]" in message
    assert "self_check='warn' or 'off'" in message


def test_a_template_that_renders_only_a_prompt_is_compared_with_a_verdict(tokenizer: Any) -> None:
    judged = "{% for m in messages %}{{ 'Agent' if m.role == 'assistant' else 'User' }}: {{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = "<|im_start|>user\nJudge.\n" + judged + "Is it safe?<|im_end|>\n<|im_start|>assistant{{ '\\n' }}"
    assert rolemask.load("chatml").compile(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|im_start|>judge")
    with pytest.raises(TemplateMismatchError, match="is not trained, but the model generates it"):
        rolemask.load("chatml").compile(tokenizer)


def test_it_can_be_a_warning_or_nothing(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|pad|>\n")
    rolemask.load("chatml").compile(tokenizer, self_check="off")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    rolemask.load("chatml").compile(tokenizer, self_check="warn")
    assert "does not fit" in caplog.text
    with pytest.raises(rolemask.PolicyError, match="self_check is 'loud'"):
        rolemask.load("chatml").compile(tokenizer, self_check="loud")


def test_without_a_template_nothing_is_checked(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    rolemask.load("chatml").compile(tokenizer)


def test_a_set_without_an_assistant_is_not_checked(tokenizer: Any) -> None:
    boundaries = [{"role": "user", "start": "<|im_start|>user\n", "end": "<|im_end|>"}]
    rolemask.MarkerSet.from_role_boundaries(boundaries).compile(tokenizer, roles_to_train=["user"])


def test_overrides_are_checked_as_well(tokenizer: Any) -> None:
    boundaries = [
        {"role": "user", "start": "<|im_start|>user\n", "end": "<|im_end|>"},
        {"role": "assistant", "start": "<|im_start|>assistant\n", "end": "<|im_end|>\n"},
    ]
    with pytest.raises(TemplateMismatchError, match="is trained, but the model never generates it"):
        rolemask.MarkerSet.from_role_boundaries(boundaries).compile(tokenizer)


def test_the_result_is_cached(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    markers = rolemask.load("chatml")
    markers.compile(tokenizer)
    compared = []
    monkeypatch.setattr("rolemask.chat_templates.self_check.compare_labels", lambda *_: compared.append(1) or [])
    (template,) = templates_of(tokenizer)
    assert first_problem(markers, rules_for(markers, tokenizer), template) is None
    markers.compile(tokenizer, train_on_eos="all")
    assert compared == []
    tokenizer.chat_template += " "  # another template: checked again
    markers.compile(tokenizer)
    assert compared == [1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda source: "{% if policy.strict %}{% endif %}" + source, "UndefinedError: 'policy' is undefined"),
        (lambda source: "{% if %}" + source, "TemplateSyntaxError: Expected an expression"),
        (lambda source: "{{ raise_exception('no chats today') }}" + source, "TemplateError: no chats today"),
        (lambda source: "{{ messages | unheard_of }}" + source, "TemplateAssertionError: No filter named 'unheard_of'"),
        (lambda source: "{% macro deeper() %}{{ deeper() }}{% endmacro %}{{ deeper() }}" + source, "RecursionError"),
        (lambda source: "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}" + source, "RecursionError"),
        (lambda source: "{% for n in range(10 ** 9) %}{% endfor %}" + source, "OverflowError: Range too big"),
        (lambda source: "\ue0a1\ue0a0" + source, "IndexError"),  # they stand for the edges of `generation` blocks
        (lambda source: "   ", "the template leaves out 'Query1' of message 0, user"),
    ],
)
def test_a_template_that_renders_no_chat_is_a_warning_with_the_reason(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, change: Any, reason: str
) -> None:
    tokenizer.chat_template = change(tokenizer.chat_template)
    rolemask.load("chatml").compile(tokenizer)
    assert "'chatml' could not be checked against the chat template" in caplog.text
    assert reason in caplog.text
    assert "chat_template_kwargs={...}" in caplog.text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (5, "is of the type int, expected Jinja text"),
        (b"{{ messages }}", "is of the type bytes, expected Jinja text"),
        (["{{ messages }}"], "is of the type list, expected Jinja text"),
        ([{"name": "default"}], "is of the type list, expected Jinja text"),
        ([{"name": "default", "template": 5}], ", 'default', is of the type int, expected Jinja text"),
        ({"default": None}, ", 'default', is of the type NoneType, expected Jinja text"),
        ("{{ '\ud800' }}", "has half a surrogate pair, so it is no text"),
    ],
)
def test_a_template_that_is_no_text_is_a_warning_here_and_an_error_elsewhere(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, template: Any, reason: str
) -> None:
    tokenizer.chat_template = template
    masker = rolemask.load("chatml").compile(tokenizer)
    assert masker.markers.name == "chatml"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("'chatml' could not be checked: the chat template")
    assert reason in warning
    assert "self_check='off'" in warning
    for function in (rolemask.detect, rolemask.derive, lambda tokenizer: rolemask.verify("chatml", tokenizer)):
        with pytest.raises(rolemask.ChatError, match=re.escape(reason)):
            function(tokenizer)


@pytest.mark.parametrize("several", [lambda text: {"default": text}, lambda text: [{"name": "default", "template": text}]])
def test_of_several_templates_the_default_is_checked(tokenizer: Any, several: Any) -> None:
    tokenizer.chat_template = several(tokenizer.chat_template)
    rolemask.load("chatml").compile(tokenizer)
    tokenizer.chat_template = several("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(TemplateMismatchError):
        rolemask.load("chatml").compile(tokenizer)


def test_variables_that_the_template_needs_can_be_passed(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.chat_template = "{% if policy.strict %}{% endif %}" + tokenizer.chat_template
    rolemask.load("chatml").compile(tokenizer, chat_template_kwargs={"policy": {"strict": True}})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

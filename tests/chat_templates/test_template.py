"""Templates render as in Transformers, `generation` blocks included."""

import re
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rolemask import ChatTemplate
from rolemask.chat_templates.scenarios import REASONING, SYSTEM, THREE_TURNS, TOOLS, forms_of
from rolemask.chat_templates.template import _compiled, read_templates, templates_of
from rolemask.errors import ChatError, FileReadError

TRL = sorted((files("trl") / "chat_templates").iterdir(), key=lambda path: path.name)
TRL = [path for path in TRL if path.name.endswith(".jinja")]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("path", TRL, ids=lambda path: path.name)
def test_the_text_is_that_of_transformers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rolemask.chat_templates.template._NOW", datetime.now())
    _compiled.cache_clear()
    source = path.read_text()
    template = ChatTemplate(source, path.name, VARIABLES)
    compared = 0
    cases = [
        (form, prompt)
        for scenario in (THREE_TURNS, SYSTEM, TOOLS, REASONING)
        for variants in forms_of(scenario)
        for form in variants
        for prompt in (False, True)
    ]
    for form, prompt in cases:
        messages, tools = list(form.messages), list(form.tools) or None
        try:
            texts, spans = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=source,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=template.marks_generation,
                **VARIABLES,
            )
        except Exception as theirs:
            with pytest.raises(ChatError, match=re.escape(str(theirs))):
                template.render(messages, prompt=prompt, tools=tools)
            continue
        rendering = template.render(messages, prompt=prompt, tools=tools)
        assert rendering.text == texts[0]
        if template.marks_generation:
            assert list(rendering.generated) == spans[0]
        compared += 1
    _compiled.cache_clear()
    assert compared


def test_tojson_does_not_escape_html() -> None:
    template = ChatTemplate("{{ messages | tojson }}", "toy", {})
    assert template.render([{"role": "user", "content": "<é>'&\""}]).text == '[{"role": "user", "content": "<é>\'&\\""}]'


def test_the_date_is_fixed() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}", "toy", {}).render([]).text == "2026"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "TemplateError: Roles must alternate"),
        ("{{ messages[7].content.x }}", "UndefinedError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% set _ = messages.append(1) %}", "SecurityError"),
    ],
)
def test_a_failing_template_is_named_with_its_own_message(source: str, reason: str) -> None:
    with pytest.raises(ChatError, match=rf"^broken\.jinja: {reason}"):
        ChatTemplate(source, "broken.jinja", {}).render([{"role": "user", "content": "x"}])


def test_a_template_is_read_from_jinja_from_json_or_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ bos_token }}")
    (tmp_path / "b.json").write_text('{"chat_template": "x{{ bos_token }}"}')
    (tmp_path / "c.json").write_text('{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}')
    read = [[(one.name, one.source) for one in read_templates(tmp_path / name, {})] for name in ("a.jinja", "b.json", "c.json")]
    assert read == [
        [("a.jinja", "{{ bos_token }}")],
        [("b.json", "x{{ bos_token }}")],
        [("c.json default", "d"), ("c.json tool_use", "t")],
    ]
    assert read_templates("{{ eos_token }}", {"eos_token": "!"})[0].render([]).text == "!"


def test_files_without_a_template(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"chat_template": 5}')
    with pytest.raises(ChatError, match=r"the chat template in .*odd\.json is of the type int, expected Jinja text"):
        read_templates(tmp_path / "odd.json", {})
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ChatError, match="is not JSON with the key 'chat_template'"):
        read_templates(tmp_path / "a.json", {})
    with pytest.raises(FileReadError, match="No such file"):
        read_templates(tmp_path / "missing.jinja", {})


def test_the_templates_of_tokenizers_and_processors_are_found() -> None:
    tokenizer = SimpleNamespace(chat_template="own", special_tokens_map={"bos_token": "<s>"}, name_or_path="org/model")
    assert [(one.source, one.name, one.variables) for one in templates_of(tokenizer)] == [
        ("own", "the chat template of org/model", {"bos_token": "<s>"})
    ]
    older = SimpleNamespace(chat_template=None, tokenizer=tokenizer)
    newer = SimpleNamespace(chat_template={"tool_use": "t", "default": "d"}, tokenizer=tokenizer)
    assert [one.source for one in templates_of(older)] == ["own"]
    assert [one.source for one in templates_of(newer)] == ["d", "t"]
    assert templates_of(SimpleNamespace(chat_template=None)) == []

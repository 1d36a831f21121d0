"""Finding the registered set of a model, and what happens if there is none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rolemask
from rolemask import UndetectedError, detect
from rolemask.chat_templates.template import templates_of
from rolemask.markers.registry import load


@pytest.fixture
def tokenizer(small_tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_tokenizer_folder)


FOREIGN = (
    "{% for m in messages %}<|im_start|>{{ m.role }} says\n{{ m.content }}<|pad|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant says\n{% endif %}"
)


def test_the_template_decides_if_nothing_else_is_known(tokenizer: Any) -> None:
    assert detect(tokenizer).name == "chatml"


def test_the_hash_of_the_template_comes_first(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (template,) = templates_of(tokenizer)
    text = Path(load("chatml").origin).read_text()
    text = (
        text.replace("name: chatml", "name: mine").partition("aliases:")[0]
        + text.partition(
            "\n",
        )[2].partition("special_tokens")[1]
    )
    own = (
        "name: mine\nspecial_tokens: [\"<|im_start|>\", \"<|im_end|>\"]\nmarkers:\n"
        "  - {role: [system, user, assistant], start: \"<|im_start|>{{ role }}\\n\", end: \"<|im_end|>\"}\n"
        f"verified:\n  - {{template: t, sha256: \"{template.sha256}\", tokenizer: x, markers: \"{'0' * 16}\", rolemask: \"1\", shapes: [one turn]}}\n"
    )  # fmt: skip
    (tmp_path / "mine.yaml").write_text(own)
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    assert detect(tokenizer).name == "mine"


def test_a_model_id_does_not_overrule_the_template(tokenizer: Any) -> None:
    tokenizer.name_or_path = "Qwen/Qwen2.5-0.5B-Instruct"
    tokenizer.chat_template = FOREIGN
    with pytest.raises(UndetectedError, match=r"no registered marker set fits its chat template\. The nearest is"):
        detect(tokenizer)


def test_a_model_or_a_configuration_is_found_by_its_type_and_id() -> None:
    config = SimpleNamespace(model_type="gemma4", _name_or_path="somewhere/else")
    assert detect(config).name == "gemma4"
    assert detect(SimpleNamespace(config=config)).name == "gemma4"
    with pytest.raises(UndetectedError, match="no marker set names it"):
        detect(SimpleNamespace(model_type="unheard_of"))


def test_the_files_of_a_local_folder_are_read(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4"}))
    assert detect(SimpleNamespace(name_or_path=str(tmp_path))).name == "gemma4"


def test_detect_does_not_guess_among_equal_matches() -> None:
    PixtralProcessor = type("PixtralProcessor", (), {})  # of several families
    sharing = [name for name in rolemask.available() if "PixtralProcessor" in load(name).match.get("processor", ())]
    if len(sharing) > 1:
        with pytest.raises(UndetectedError, match="it may follow"):
            detect(PixtralProcessor())
    else:
        assert detect(PixtralProcessor()).name == sharing[0]


def test_fallback_derive(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.chat_template = FOREIGN
    markers = detect(tokenizer, fallback="derive")
    assert "Derived a set" in caplog.text
    masker = markers.compile(tokenizer)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "world"}], tokenize=False
    )  # fmt: skip
    labels = masker(tokenizer.encode(text, add_special_tokens=False))
    assert tokenizer.decode([label for label in labels if label != -100]) == "world<|pad|>"


def test_fallback_media_warns_every_time(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.chat_template = FOREIGN
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<my_picture>"]})
    tokenizer.image_token = "<my_picture>"
    for _ in range(2):
        markers = detect(tokenizer, fallback="media")
    assert caplog.text.count("EVERYTHING EXCEPT MEDIA AND PADDING IS TRAINED") == 2
    ids = tokenizer.encode("Hello<image><my_picture>world<|pad|>", add_special_tokens=False)
    labels = markers.compile(tokenizer)(ids)
    assert tokenizer.decode([label for label in labels if label != -100]) == "Helloworld"


def test_an_unknown_fallback_is_refused(tokenizer: Any) -> None:
    with pytest.raises(rolemask.PolicyError, match="fallback is 'guess'"):
        detect(tokenizer, fallback="guess")

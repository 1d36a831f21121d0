"""Finding the registered set of a model, and what happens if there is none."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from real import template_text, tokenizer_folder

import rolemask
from rolemask import ChatTemplate, MissingExtraError, UndetectedError, detect
from rolemask.chat_templates.detect import nearest_set
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.loading import load_processor
from rolemask.chat_templates.template import templates_of
from rolemask.markers.proofs import Proof, write_proofs
from rolemask.markers.registry import load
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary


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
    )  # fmt: skip
    (tmp_path / "mine.yaml").write_text(own)
    write_proofs(tmp_path / "mine.yaml", [Proof("t", template.sha256, "x", ("one turn",), (), "0" * 16, 1, "1")])
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    assert detect(tokenizer).name == "mine"


def test_a_folder_is_loaded(small_tokenizer_folder: Path) -> None:
    assert detect(small_tokenizer_folder).name == "chatml"
    assert detect(str(small_tokenizer_folder)).name == "chatml"


@pytest.mark.parametrize(("folder", "name"), [("gemma3", "gemma3"), ("qwen3", "qwen3")])
def test_a_folder_of_a_real_model_is_loaded(folder: str, name: str) -> None:
    assert detect(tokenizer_folder(folder)).name == name


def test_without_a_network_an_id_is_decided_by_name_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert detect("Qwen/Qwen3-123B").name == "qwen3"
    (record,) = [record for record in caplog.records if record.name == "rolemask"]
    assert record.levelname == "WARNING"
    assert "cannot load the tokenizer 'Qwen/Qwen3-123B'" in record.getMessage()
    assert "by the model's name alone: its chat template was not compared" in record.getMessage()


def test_without_a_network_an_id_that_one_set_alone_does_not_name_is_not_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndetectedError, match=r"cannot load the tokenizer 'no/body'.*; and no marker set names it"):
        detect("no/body", fallback="media")
    for name in ("one", "two"):
        text = chatml_named(name, "").replace("model_id:\n", 'model_id:\n    - "acme/*-chat"\n')
        (tmp_path / f"{name}.yaml").write_text(text.partition("aliases:")[0] + "match:" + text.partition("match:")[2])
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    with pytest.raises(UndetectedError, match="several marker sets name it: one, two"):
        detect("acme/tiny-chat")


def test_an_id_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"detect\('Qwen/Qwen3-0.6B'\) needs the package 'transformers'"):
        detect("Qwen/Qwen3-0.6B")


def test_a_processor_that_cannot_be_made_leaves_its_tokenizer(
    tokenizer: Any, small_tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    class Processor:
        @staticmethod
        def from_pretrained(name: str) -> Any:
            raise ImportError("needs a package for images")

    monkeypatch.setattr(transformers, "AutoProcessor", Processor)
    assert load_processor(str(small_tokenizer_folder), needed_for="the test").name_or_path == str(small_tokenizer_folder)  # type: ignore[attr-defined]
    images_only, whole = SimpleNamespace(), SimpleNamespace(tokenizer=tokenizer)
    monkeypatch.setattr(Processor, "from_pretrained", staticmethod(lambda name: images_only))
    assert load_processor(str(small_tokenizer_folder), needed_for="the test") is not images_only
    monkeypatch.setattr(Processor, "from_pretrained", staticmethod(lambda name: whole))
    assert load_processor(str(small_tokenizer_folder), needed_for="the test") is whole


def chatml_named(name: str, media: str) -> str:
    text = Path(load("chatml").origin).read_text()
    media = f"media: {{image: [{media}]}}\n" if media else ""
    return text.replace("name: chatml\n", f"name: {name}\n{media}")


def test_of_sets_that_fit_alike_the_one_that_knows_the_placeholders_is_taken(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rolemask.chat_templates.detect.registered", lambda: sorted(tmp_path.glob("*.yaml")))
    media = {"a": '"<|pad|>"', "b": '"<|picture|>", "<|film|>"', "c": '"<|picture|>"', "d": ""}  # the pad token is no placeholder
    for name, tokens in media.items():
        (tmp_path / f"{name}.yaml").write_text(chatml_named(name, tokens))
    assert detect(tokenizer).name == "d"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|picture|>"]})
    assert detect(tokenizer).name == "c"
    tokenizer.add_tokens(["<|film|>"])
    assert detect(tokenizer).name == "b"


@pytest.mark.parametrize("name", ["axolotl-qwen3.jinja", "axold-qwen3.jinja"])
def test_a_qwen_3_tokenizer_with_anothers_template_does_not_train_placeholders(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder("qwen3"))
    tokenizer.chat_template = template_text(name)
    masker = detect(tokenizer).compile(tokenizer)
    ids = tokenizer.encode(
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nSee <|vision_start|><|image_pad|><|vision_end|>it.<|im_end|>"
    )
    assert tokenizer.decode([label for label in masker(ids) if label != -100]) == "See it.<|im_end|>"


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


def test_fallback_derive_refuses_a_set_that_trains_too_much(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content }}{% endfor %}"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    with pytest.raises(
        UndetectedError, match="A set derived from its chat template would train what the model never generates: two questions in a row, "
    ) as refused:
        detect(tokenizer, fallback="derive")
    assert "`rolemask new` writes it to a file, to be corrected" in str(refused.value)


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


@pytest.mark.parametrize("with_vocabulary", [True, False])
def test_the_template_is_rendered_as_often_for_many_candidates_as_for_one(
    with_vocabulary: bool, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renders = []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda self, *args, **options: (renders.append(self), render(self, *args, **options))[1])
    monkeypatch.setattr("rolemask.chat_templates.detect.registered", lambda: sorted(tmp_path.glob("*.yaml")))
    processor = tokenizer if with_vocabulary else SimpleNamespace(chat_template=tokenizer.chat_template)
    text = Path(load("chatml").origin).read_text()
    counts = []
    for number in range(4):  # equal matches, so each one is compared
        (tmp_path / f"chatml{number}.yaml").write_text(text.replace("name: chatml\n", f"name: chatml{number}\n"))
        renders.clear()
        assert detect(processor).name == f"chatml{number}"
        counts.append(len(renders))
    assert counts[0] > 0
    assert counts == counts[:1] * 4


def test_falling_back_to_derive_renders_nothing_twice(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = FOREIGN
    found = []
    find_all = GroundTruthFinder.find_all
    monkeypatch.setattr(GroundTruthFinder, "find_all", lambda self, scenarios: (found.append(self), find_all(self, scenarios))[1])
    detect(tokenizer, fallback="derive")
    assert len(found) == 1


def test_a_broken_file_that_alone_names_the_model_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.yaml").write_text("name: broken\nmatch: {model_type: [broken]}\n")
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    with pytest.raises(UndetectedError, match=r"broken\.yaml is malformed: run `rolemask check`"):
        detect(SimpleNamespace(model_type="broken"))


def test_the_nearest_set_has_most_of_its_special_tokens_in_the_vocabulary(tokenizer: Any) -> None:
    assert nearest_set(read_vocabulary(tokenizer)) in rolemask.available()
    assert nearest_set(Vocabulary("bytes", {}, {})) is None

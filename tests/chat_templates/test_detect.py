"""Finding the registered set of a model, and what happens if there is none."""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from real import template_text, tokenizer_folder

import rolemask
from rolemask import ChatTemplate, MissingExtraError, TokenizerMismatchError, UndetectedError, detect
from rolemask.chat_templates.compare import score_labels
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.loading import load_processor
from rolemask.chat_templates.template import templates_of
from rolemask.chat_templates.undetected import nearest_set
from rolemask.errors import UndetectedReason
from rolemask.markers.proofs import SEMANTICS, Proof, write_proofs
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


# --- three turns above all


def marker_set(name: str, assistant: str = "<|im_start|>assistant\\n", end: str = "<|im_end|>", more: str = "") -> str:
    return (
        f'name: {name}\nspecial_tokens: ["<|im_start|>", "<|im_end|>"]\n{more}markers:\n'
        '  - {role: user, start: "<|im_start|>user\\n", end: "<|im_end|>"}\n'
        f'  - {{role: assistant, start: "{assistant}", end: "{end}"}}\n'
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one's own instead of the built-in one."""
    monkeypatch.setattr("rolemask.chat_templates.detect.registered", lambda: sorted(tmp_path.glob("*.yaml")))
    return tmp_path


def only(condition: str) -> str:
    """A template that refuses chats in which a condition does not hold."""
    return (
        f"{{% if not ({condition}) %}}{{{{ raise_exception('no such chats') }}}}{{% endif %}}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def test_a_set_must_be_right_on_three_turns(tokenizer: Any, registry: Path) -> None:
    (registry / "first.yaml").write_text(marker_set("first", "1<|im_end|>\\n<|im_start|>assistant\\n"))  # in one turn only
    with pytest.raises(UndetectedError, match=r"The nearest is 'first': "):
        detect(tokenizer)
    (registry / "second.yaml").write_text(marker_set("second"))
    assert detect(tokenizer).name == "second"


def test_where_three_turns_cannot_be_written_one_turn_decides(tokenizer: Any, registry: Path) -> None:
    tokenizer.chat_template = only("messages|length < 4")
    (registry / "early.yaml").write_text(marker_set("early", "<|im_start|>assistant\\nReply"))
    with pytest.raises(UndetectedError, match="The nearest is 'early': one turn: "):
        detect(tokenizer)
    (registry / "right.yaml").write_text(marker_set("right"))
    assert detect(tokenizer).name == "right"


def test_where_neither_can_be_written_the_others_decide(tokenizer: Any, registry: Path) -> None:
    tokenizer.chat_template = only("messages[0].role == 'system'")
    (registry / "right.yaml").write_text(marker_set("right"))
    assert detect(tokenizer).name == "right"


# --- the nearest set


def test_the_nearest_set_is_the_one_with_most_scenarios_right_then_most_tokens(tokenizer: Any, registry: Path) -> None:
    tokenizer.chat_template = only("true").replace("<|im_end|>\n{% endfor %}", "<|im_end|>\n{{ '<|pad|>' if loop.last }}{% endfor %}")
    (registry / "a_far.yaml").write_text(marker_set("a_far", "<|im_start|>assistant\\nReply"))  # most of the answer is lost
    (registry / "c_near.yaml").write_text(marker_set("c_near", end="<|pad|>"))
    with pytest.raises(UndetectedError) as near:
        detect(tokenizer)
    (registry / "d_no_stop.yaml").write_text(marker_set("d_no_stop", "<|im_start|>assistant\\nReply", "next_start"))
    with pytest.raises(UndetectedError) as refused:
        detect(tokenizer)
    assert near.value.nearest == refused.value.nearest
    assert near.value.nearest != "a_far"
    message = str(refused.value)
    for part in (f"The nearest is {refused.value.nearest!r}: one turn: ", "tokens differ", "`rolemask new`", "fallback='derive'"):
        assert part in message


def test_the_nearest_registered_set_is_not_the_first_of_the_alphabet(tokenizer: Any) -> None:
    tokenizer.chat_template = FOREIGN
    with pytest.raises(UndetectedError) as refused:
        detect(tokenizer)
    assert refused.value.nearest is not None
    assert "<|im_start|>" in load(refused.value.nearest).special_tokens


def without_template(kind: str) -> Any:
    from mistral import packaged
    from real import byte_level, deepseek

    made: dict[str, Any] = {
        "qwen3": lambda: byte_level("qwen3"),
        "llama3": lambda: byte_level("llama3"),
        "llama4": lambda: byte_level("llama4"),
        "deepseek": deepseek,
        "mistral v1": lambda: packaged("tokenizer.model.v1"),
        "mistral v3": lambda: packaged("mistral_instruct_tokenizer_240323.model.v3"),
        "mistral v7": lambda: packaged("mistral_instruct_tokenizer_241114.model.v7"),
        "mistral Tekken": lambda: packaged("tekken_240911.json"),
    }
    return made[kind]()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("qwen3", {"qwen3"}),
        ("llama3", {"llama3", "llama3_2_vision"}),
        ("llama4", {"llama4"}),
        ("deepseek", {"deepseek_v3", "deepseek_v3_1", "deepseek_v4"}),
        ("mistral v1", {"mistral_v1"}),
        ("mistral v3", {"mistral_v3"}),
        ("mistral v7", {"mistral_v7_tekken", "mistral3"}),
        ("mistral Tekken", {"mistral_v3", "mistral_v7_tekken", "mistral3"}),
    ],
)
def test_a_wrong_tokenizer_without_a_template_is_told_its_familys_set(kind: str, names: set[str]) -> None:
    with pytest.raises(TokenizerMismatchError) as caught:
        load("gemma4").compile(without_template(kind))
    assert any(f"The set nearest to this tokenizer is {name!r}" in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize(("folder", "name"), [("qwen3", "qwen3"), ("llama3_1", "llama3"), ("gemma3", "gemma3")])
@pytest.mark.parametrize("has_template", [True, False])
def test_a_wrong_tokenizer_is_told_the_set_of_its_template(folder: str, name: str, has_template: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(folder))
    if not has_template:
        tokenizer.chat_template = None
    with pytest.raises(TokenizerMismatchError, match=f"The set nearest to this tokenizer is {name!r}"):
        load("gemma4").compile(tokenizer)


# --- templates that decide nothing


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}\n{{ m.content }\n{% endfor %}", r"broken: line 2: TemplateSyntaxError: unexpected '}'\. Repair"),
        ("\n\n{{ messages|no_filter }}", r"broken: line 3: TemplateAssertionError: No filter named 'no_filter'"),
        ("{% for m in messages %}\n{{ nothing.role }}{% endfor %}", r"broken: line 2: UndefinedError: 'nothing' is undefined"),
        ("{{ raise_exception('never') }}", r"broken: line 1: TemplateError: never\. "),
    ],
)
@pytest.mark.parametrize("fallback", [None, "derive"])
def test_a_broken_template_is_said_to_be_broken(template: str, message: str, fallback: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UndetectedError, match=message) as refused:
        detect(tokenizer, fallback=fallback)
    assert refused.value.reason == "broken-template"
    assert detect(tokenizer, fallback="media").name == "media"


def test_a_template_that_leaves_a_part_of_every_chat_out_is_not_called_broken(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages|length }}"
    with pytest.raises(UndetectedError, match=r"writes no chat in full that it is asked for: the template leaves out 'Query1'") as refused:
        detect(tokenizer)
    assert refused.value.reason == "silent-template"


def test_a_template_of_another_model_than_the_tokenizer_is_told(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    with pytest.raises(
        UndetectedError, match="the vocabulary lacks its special tokens '<|start_header_id|>'".replace("|", r"\|")
    ) as refused:
        detect(tokenizer)
    assert refused.value.reason == "other-vocabulary"
    assert refused.value.nearest == "llama3"


# --- known by its hash


def proven(path: Path, template: ChatTemplate, **changes: Any) -> None:
    proof = Proof("t", template.sha256, "x", ("one turn", "three turns"), (), rolemask.load(path).fingerprint, SEMANTICS, "1")
    write_proofs(path, [replace(proof, **changes)])


def test_a_template_known_by_its_hash_is_rendered_for_three_turns_only(
    tokenizer: Any, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (template,) = templates_of(tokenizer)
    found = []
    find = GroundTruthFinder.find
    monkeypatch.setattr(GroundTruthFinder, "find", lambda self, scenario: (found.append(scenario.name), find(self, scenario))[1])
    (registry / "a.yaml").write_text(marker_set("a"))
    (registry / "z.yaml").write_text(marker_set("z"))
    proven(registry / "a.yaml", template)
    assert detect(tokenizer).name == "a"
    assert found == ["three turns"]

    found.clear()
    proven(registry / "z.yaml", template)
    assert detect(tokenizer).name == "z"  # the usual preference
    assert found == ["three turns"]

    proven(registry / "z.yaml", template, passed=("one turn",))
    assert detect(tokenizer).name == "a"  # more scenarios

    for stale in ({"markers": "0" * 16}, {"semantics": SEMANTICS + 1}):
        proven(registry / "z.yaml", template)
        proven(registry / "a.yaml", template, **stale)
        found.clear()
        assert detect(tokenizer).name == "z"
        assert len(found) > 20  # everything was compared


def test_a_proof_that_three_turns_belie_is_not_trusted(tokenizer: Any, registry: Path) -> None:
    (template,) = templates_of(tokenizer)
    (registry / "wrong.yaml").write_text(marker_set("wrong", "<|im_start|>assistant\\nReply"))
    proven(registry / "wrong.yaml", template)
    with pytest.raises(UndetectedError, match="The nearest is 'wrong'"):
        detect(tokenizer)
    (registry / "right.yaml").write_text(marker_set("right"))
    assert detect(tokenizer).name == "right"


def test_a_set_that_could_not_be_better_is_not_compared_in_full(tokenizer: Any, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    monkeypatch.setattr(
        "rolemask.chat_templates.fit.score_labels", lambda rules, *args: (scored.append(rules.name), score_labels(rules, *args))[1]
    )
    for name in "abc":
        (registry / f"{name}.yaml").write_text(marker_set(name))
    (registry / "far.yaml").write_text(marker_set("far", "<|assistant|>"))  # nothing of the kind is in the text
    assert detect(tokenizer).name == "c"
    assert [scored.count(name) for name in ("a", "b", "far")] == [1, 1, 0]
    assert scored.count("c") > 20


# --- names


def test_a_processors_class_may_be_a_subclass(monkeypatch: pytest.MonkeyPatch) -> None:
    Glm4vProcessor = type("Glm4vProcessor", (), {})
    (name,) = [name for name in rolemask.available() if "Glm4vProcessor" in load(name).match.get("processor", ())]
    assert detect(type("Mine", (type("Ours", (Glm4vProcessor,), {}),), {})()).name == name


def test_of_two_classes_the_nearer_one_names_the_set() -> None:
    Gemma3Processor = type("Gemma3Processor", (), {})
    Glm4vProcessor = type("Glm4vProcessor", (Gemma3Processor,), {})
    assert "Glm4vProcessor" in detect(Glm4vProcessor()).match["processor"]


@pytest.mark.parametrize(
    ("file", "version", "name"),
    [
        ("tokenizer.model.v1", "v1", "mistral_v1"),
        ("mistral_instruct_tokenizer_240216.model.v2", "v2", "mistral_v3"),
        ("mistral_instruct_tokenizer_240323.model.v3", "v3", "mistral_v3"),
        ("tekken_240911.json", "v3", "mistral_v3"),
        ("mistral_instruct_tokenizer_241114.model.v7", "v7", "mistral_v7_tekken"),
    ],
)
def test_mistral_common_is_told_the_set_for_its_version(file: str, version: str, name: str) -> None:
    from mistral import packaged

    made = packaged(file)
    for one in (made, made.instruct_tokenizer.tokenizer, SimpleNamespace(tokenizer=made)):
        with pytest.raises(UndetectedError, match=f"{version} -> {name}.*rolemask.load") as refused:
            detect(one)
        assert (refused.value.reason, refused.value.nearest) == ("mistral-version", name)


@pytest.mark.parametrize("version", [11, 13, 15])
def test_later_versions_of_mistral_common_are_told_too(version: int) -> None:
    from mistral import tekken

    with pytest.raises(UndetectedError, match=f"v{version} -> mistral_v7_tekken"):
        detect(tekken(version))


# --- the reasons


def test_every_reason_says_what_to_do_next(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistral import packaged

    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(marker_set(name, more="match: {model_type: [both]}\n"))
    (tmp_path / "broken.yaml").write_text("name: broken\nmatch: {model_type: [broken]}\n")
    (tmp_path / "named.yaml").write_text(marker_set("named", more="match: {model_type: [named]}\n").replace("<|im_start|>", "<|turn|>"))
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(tmp_path))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    no_template = SimpleNamespace(tokenizer=tokenizer, model_type="named")
    seen = {}
    for thing, template, fallback in [
        (SimpleNamespace(model_type="unheard_of"), None, None),
        (SimpleNamespace(model_type="both"), None, None),
        (SimpleNamespace(model_type="broken"), None, None),
        (no_template, None, None),
        (packaged("tekken_240911.json"), None, None),
        (tokenizer, "{{", None),
        (tokenizer, "x", None),
        (tokenizer, FOREIGN, None),
        (tokenizer, "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content }}{% endfor %}", "derive"),
    ]:  # fmt: skip
        tokenizer.chat_template = template
        with pytest.raises(UndetectedError) as refused:
            detect(thing, fallback=fallback)
        seen[refused.value.reason] = str(refused.value)
        copy = pickle.loads(pickle.dumps(refused.value))
        assert (str(copy), copy.reason, copy.nearest) == (str(refused.value), refused.value.reason, refused.value.nearest)
    assert set(seen) == set(get_args(UndetectedReason))
    for reason, message in seen.items():
        assert f'"{reason}"' in (UndetectedError.__doc__ or "")
        assert any(step in message for step in ("rolemask.load", "`rolemask new`", "`rolemask check`")), message
    assert "'named' names it, but its vocabulary lacks its special token '<|turn|>'" in seen["other-vocabulary"]


def test_the_tokenizers_own_eos_token_ends_the_turns_of_a_set_that_names_none(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ '### Instruction:\n' if m.role == 'user' else '### Response:\n' }}{{ m.content }}"
        "{{ '\n\n' if m.role == 'user' else eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    )
    markers = detect(tokenizer)
    assert "### Response:" in str(markers.markers)
    masker = markers.compile(tokenizer)
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "world"}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
    assert tokenizer.decode([label for label in masker(ids) if label != -100]) == "world<|im_end|>"

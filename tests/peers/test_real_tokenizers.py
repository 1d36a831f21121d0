"""Real tokenizers and real chat templates: labels equal what the model would have to generate, and not a token more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from marked import EMOJI, WHITE_SPACE, ids_of, read_vocabulary, show, stretches, unmarked
from real import byte_level, from_folder, template_text

import rolemask
from rolemask import ChatTemplate
from rolemask.chat_templates.compare import ScenarioResult
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS, Scenario, forms_of
from rolemask.chat_templates.template import _compiled, templates_of, variables_of
from rolemask.errors import ChatError

NAMED = {scenario.name: scenario for scenario in SCENARIOS}
# What a template can write -> the scenarios that it then has to come out right on; what every template can write is under "".
NEEDS = {
    "": "one turn, three turns, code, CJK, emoji, newlines at the edges, blanks at the edges, punctuation at the edges, an empty answer",
    "system": "system",
    "row": "answers in a row",
    "image": "image",
    "tools": "tools, two tool results, a call at the end",
    "parallel": "parallel calls",
    "words-and-calls": "words before a call",
    "reasoning": "reasoning, reasoning in earlier turns",
    "off": "reasoning off",
    "on": "reasoning on, none given",
}


@dataclass(frozen=True, eq=False)
class Family:
    """A marker set with a real tokenizer and a chat template.

    `takes` names what the template can write (see NEEDS); `stops` are the texts at which generation stops.
    """

    marker_set: str
    tokenizer: Callable[[], Any]
    template: str
    stops: tuple[str, ...]
    takes: frozenset[str] = frozenset()
    variables: dict[str, str] = field(default_factory=dict)  # what the template is given, in place of the tokenizer's own

    @property
    def id(self) -> str:
        return f"{self.marker_set}-{self.template.removesuffix('.jinja').replace('/', '-') or 'own'}"

    @property
    def scenarios(self) -> set[str]:
        """What has to come out right."""
        names = {name for need in ("", *self.takes) for name in NEEDS[need].split(", ")}
        return names | ({"reasoning and tools"} if {"tools", "reasoning"} <= self.takes else set())

    @property
    def chat_template(self) -> ChatTemplate:
        if not self.template:
            return templates_of(self.tokenizer())[0]
        return ChatTemplate(template_text(self.template), self.template, variables_of(self.tokenizer()) | self.variables)


def family(marker_set: str, tokenizer: Any, template: str, stops: str, takes: str = "", **more: Any) -> Family:
    return Family(marker_set, tokenizer, template, tuple(stops.split()), frozenset(takes.split()), **more)


def qwen(base: str = "qwen3", *specials: str) -> Callable[[], Any]:
    return lambda: byte_level(base, specials, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama(base: str) -> Callable[[], Any]:
    return lambda: byte_level(base, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>" if base == "llama3" else "<|eot|>")


@cache
def masker_of(marker_set: str, tokenizer: Any) -> rolemask.Masker:
    return rolemask.load(marker_set).compile(tokenizer, on_empty="ignore")


def folder(name: str) -> Callable[[], Any]:
    return lambda: from_folder(name)


GLM = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM_STOPS = "<|user|> <|observation|> <|endoftext|>"
SMOLVLM = ["<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<row_1_col_1>"]
GEMMA_4 = [
    "<|turn>",
    "<turn|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool>",
    "<tool|>",
]
QWEN_TAKES = "system row tools parallel words-and-calls"
VISION_TAKES = "system row image"
GEMMA_4_TAKES = "system image tools parallel reasoning on"
FAMILIES = [
    family("chatml", qwen(), "trl/qwen2_5.jinja", "<|im_end|>", QWEN_TAKES),
    family("qwen2_5", qwen("qwen2_5"), "trl/qwen2_5.jinja", "<|im_end|>", QWEN_TAKES),
    family("qwen2_vl", qwen("qwen2_5"), "trl/qwen2_5_vl.jinja", "<|im_end|>", VISION_TAKES),
    family("qwen3", qwen(), "trl/qwen3.jinja", "<|im_end|>", f"{QWEN_TAKES} reasoning off"),
    family("qwen3", folder("qwen3"), "", "<|im_end|>", f"{QWEN_TAKES} reasoning off"),
    family("qwen3", qwen(), "trl/qwen3_instruct_2507.jinja", "<|im_end|>", QWEN_TAKES),
    family("qwen3_5", qwen("qwen3_6"), "trl/qwen3_5_think.jinja", "<|im_end|>", f"{QWEN_TAKES} image reasoning off"),
    family("qwen3_5", qwen("qwen3_6"), "trl/qwen3_5_nothink.jinja", "<|im_end|>", f"{QWEN_TAKES} image reasoning on"),
    family("qwen3_5", qwen("qwen3_6"), "trl/qwen3_6.jinja", "<|im_end|>", f"{QWEN_TAKES} image reasoning off"),
    family("internvl", qwen("qwen2_5", "<img>", "</img>", "<IMG_CONTEXT>"), "hf-internvl-conv.jinja", "<|im_end|>", VISION_TAKES),
    family("gemma", lambda: from_folder("gemma3"), "trl/gemma.jinja", "<end_of_turn>"),
    family("gemma3", folder("gemma3"), "", "<end_of_turn>", "system image"),
    family("gemma3", qwen("qwen2_5", "<bos>", "<start_of_turn>", "<end_of_turn>"), "trl/gemma3.jinja", "<end_of_turn>", "system image"),
    family("gemma3n", folder("gemma3"), "hf-gemma3n-conv.jinja", "<end_of_turn>", "system image"),
    family("gemma4", folder("gemma4"), "", "<turn|> <|tool_response>", GEMMA_4_TAKES),
    family("gemma4", folder("gemma4"), "gemma4-upstream-12B-it.jinja", "<turn|> <|tool_response>", GEMMA_4_TAKES),
    family("gemma4", qwen("qwen2_5", "<bos>", *GEMMA_4), "trl/gemma4_v5.jinja", "<turn|> <|tool_response>", GEMMA_4_TAKES),
    family("llama3", folder("llama3_1"), "", "<|eot_id|> <|eom_id|>", "system row"),
    family("llama3", llama("llama3"), "trl/llama3.jinja", "<|eot_id|> <|eom_id|>", "system row"),
    family("llama3", llama("llama3"), "trl/llama3_1.jinja", "<|eot_id|> <|eom_id|>", "system row tools"),
    family(
        "llama3_2_vision", llama("llama3"), "hfjs-Llama-3.2-11B-Vision-Instruct.jinja", "<|eot_id|> <|eom_id|>", f"{VISION_TAKES} tools"
    ),
    family("llama4", llama("llama4"), "hf-llama4-conv.jinja", "<|eot|> <|eom|>", f"{QWEN_TAKES} image"),
    family("llava", qwen("qwen2_5", "<s>", "</s>", "<image>"), "hf-llava-test.jinja", "", VISION_TAKES),
    family(
        "llava",
        qwen("qwen2_5", "<s>", "</s>", "<image>"),
        "unsloth-vicuna.jinja",
        "</s>",
        "system row",
        variables={"bos_token": "<s>", "eos_token": "</s>"},
    ),
    family("smolvlm2", qwen("qwen2_5", *SMOLVLM), "trl/smolvlm.jinja", "<end_of_utterance>", VISION_TAKES),
    family("smolvlm2", qwen("qwen2_5", *SMOLVLM), "hfjs-SmolVLM-Instruct.jinja", "<end_of_utterance>", VISION_TAKES),
    family("glm4v", qwen("qwen2_5", *GLM), "GLM-4.1V-9B-Thinking.jinja", GLM_STOPS, VISION_TAKES),
    family("glm46v", qwen("qwen2_5", *GLM, "<think>", "</think>"), "GLM-OCR.jinja", GLM_STOPS, f"{QWEN_TAKES} image reasoning off"),
    family(
        "lfm2_vl",
        qwen("qwen2_5", "<|startoftext|>", "<image>"),
        "trl/lfm2_2_5_vl.jinja",
        "<|im_end|>",
        f"{QWEN_TAKES} image reasoning",
    ),
    family("lfm2_vl", qwen("qwen2_5", "<|startoftext|>", "<image>"), "hf-lfm2_vl-test.jinja", "<|im_end|>", VISION_TAKES),
]


@cache
def proof(family: Family) -> dict[str, ScenarioResult]:
    (one,) = rolemask.verify(family.marker_set, family.tokenizer(), family.chat_template)
    return {result.scenario: result for result in one.scenarios}


@pytest.mark.parametrize("scenario", NAMED)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.id)
def test_labels_are_what_the_model_has_to_generate(family: Family, scenario: str) -> None:
    result = proof(family)[scenario]
    if result.status == "not supported":
        assert scenario not in family.scenarios, result.detail
        return
    assert result.trained == result.expected
    assert result.status == "ok", result.detail
    assert "[[" in result.expected
    tokenizer = family.tokenizer()
    ids = ids_of(tokenizer, result.expected)
    assert show(tokenizer, ids, masker_of(family.marker_set, tokenizer)(ids)) == result.expected


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Templates write today's date, as they do in Transformers."""
    monkeypatch.setattr("rolemask.chat_templates.template._NOW", datetime.now())
    _compiled.cache_clear()
    yield
    _compiled.cache_clear()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.id)
def test_generation_stops_where_the_family_stops(family: Family, today: None) -> None:
    """The ground truth finds stop tokens by itself; here they are known. And what it compares is what Transformers writes."""
    tokenizer = family.tokenizer()
    finder = GroundTruthFinder(family.chat_template, read_vocabulary(tokenizer).special_tokens)
    found = 0
    for scenario in SCENARIOS:
        try:
            truth, (accepted, _) = finder.find(scenario), finder.renderer.render_in_accepted_form(scenario)
        except UnsupportedScenarioError:
            continue
        found += 1
        assert truth.regions
        followers = [after["role"] for before, after in pairwise((*accepted.messages, {"role": ""})) if before["role"] == "assistant"]
        for follower, region in zip(followers, truth.region_texts, strict=True):
            inside, stop = next(((region[: -len(stop)], stop) for stop in family.stops if region.endswith(stop)), (region, ""))
            assert not any(other in inside for other in family.stops)
            # The last one may be left open, and GLM's before what it does not wait for.
            assert stop or not family.stops or follower in ("", "assistant", "system")
        written = tokenizer.apply_chat_template(
            list(accepted.messages),
            tools=list(accepted.tools) or None,
            chat_template=finder.renderer.template.source,
            tokenize=False,
            **(accepted.options | family.variables),
        )
        assert written == truth.text
    assert found >= 9


# By hand: what the model writes is in brackets, from the user's first words on.
LLAMA_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n".format
BY_HAND: list[tuple[str, str, str]] = [
    (
        "qwen3-trl-qwen3",
        "reasoning in earlier turns",
        "Query1?<|im_end|>\n<|im_start|>assistant\n[[Reply1.<|im_end|>]]\n<|im_start|>user\nQuery2?<|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\nThought2.\n</think>\n\nReply2.<|im_end|>]]\n",
    ),
    ("qwen3-trl-qwen3", "reasoning off", "Query1?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[[Reply1.<|im_end|>]]\n"),
    (
        "qwen3_5-trl-qwen3_5_think",  # whose prompt opens the reasoning
        "reasoning in earlier turns",
        "Query1?<|im_end|>\n<|im_start|>assistant\n[[Reply1.<|im_end|>]]\n<|im_start|>user\nQuery2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n[[Thought2.\n</think>\n\nReply2.<|im_end|>]]\n",
    ),
    (
        "gemma3-trl-gemma3",
        "system",
        "Query1?<end_of_turn>\n<start_of_turn>model\n[[Reply1.<end_of_turn>]]\n<start_of_turn>user\nQuery2?<end_of_turn>\n"
        "<start_of_turn>model\n[[Reply2.<end_of_turn>]]\n",
    ),
    (
        "gemma4-trl-gemma4_v5",  # which stops once for both calls
        "parallel calls",
        'Query1?<turn|>\n<|turn>model\n[[<|tool_call>call:get_weather{city:<|"|>Place1<|"|>}<tool_call|>'
        '<|tool_call>call:get_weather{city:<|"|>Place2<|"|>}<tool_call|><|tool_response>]]'
        'response:get_weather{value:<|"|>Result1<|"|>}<tool_response|>'
        '<|tool_response>response:get_weather{value:<|"|>Result2<|"|>}<tool_response|>[[Reply1.<turn|>]]\n',
    ),
    (
        "llama3-trl-llama3_1",
        "tools",
        f"Query1?<|eot_id|>{LLAMA_HEADER('assistant')}"
        '[[{"name": "get_weather", "parameters": {"city": "Place1"}}<|eot_id|>]]'
        f'{LLAMA_HEADER("ipython")}"Result1"<|eot_id|>{LLAMA_HEADER("assistant")}[[Reply1.<|eot_id|>]]'
        f"{LLAMA_HEADER('user')}Query2<|eot_id|>{LLAMA_HEADER('assistant')}[[Reply2<|eot_id|>]]",
    ),
    (
        "glm46v-GLM-OCR",  # which stops at the header of the next turn
        "two tool results",
        "Query1?<|assistant|>\n<think></think>\n"
        "[[<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Place1</arg_value>\n</tool_call><|observation|>]]"
        "\n<tool_response>\nResult1\n</tool_response>\n<|assistant|>\n<think></think>\n"
        "[[<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Place2</arg_value>\n</tool_call><|observation|>]]"
        "\n<tool_response>\nResult2\n</tool_response>\n<|assistant|>\n<think></think>\n[[Reply1.]]",
    ),
    (
        "lfm2_vl-trl-lfm2_2_5_vl",
        "words before a call",
        "Query1?<|im_end|>\n<|im_start|>assistant\n"
        "[[Reply1.<|tool_call_start|>[get_weather(city='Place1')]<|tool_call_end|><|im_end|>]]\n"
        "<|im_start|>tool\nResult1<|im_end|>\n<|im_start|>assistant\n[[Reply2.<|im_end|>]]\n",
    ),
    ("llava-unsloth-vicuna", "one turn", "Query1 ASSISTANT:[[ Reply1!</s>]]"),
    (
        "smolvlm2-trl-smolvlm",
        "image",
        "Query1?<end_of_utterance>\nAssistant:[[ Reply1.<end_of_utterance>]]\n"
        "User: Query2?<end_of_utterance>\nAssistant:[[ Reply2.<end_of_utterance>]]\n",
    ),
]
# What the truth does not tell: contents without a word to find them by, calls that a template leaves out.
UNTOLD: list[tuple[str, Scenario, str]] = [
    (
        "qwen3-own",  # of newlines that are one token, the first is the header's
        WHITE_SPACE,
        "- a\n\n<|im_end|>\n<|im_start|>assistant\n\n\n[[first\n<|im_end|>]]\n<|im_start|>user\n\n\n\n<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n[[\tsecond \n\n<|im_end|>]]\n",
    ),
    (
        "qwen3-own",
        EMOJI,
        "👋🏽<|im_end|>\n<|im_start|>assistant\n[[🎉👨‍👩‍👧‍👦<|im_end|>]]\n<|im_start|>user\nok ✅<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n[[🙂<|im_end|>]]\n",
    ),
    (
        "gemma3-own",
        WHITE_SPACE,
        "- a<end_of_turn>\n<start_of_turn>model\n[[first<end_of_turn>]]\n<start_of_turn>user\n<end_of_turn>\n"
        "<start_of_turn>model\n[[second<end_of_turn>]]\n",
    ),
    ("gemma4-own", WHITE_SPACE, "- a<turn|>\n<|turn>model\n[[first<turn|>]]\n<|turn>user\n<turn|>\n<|turn>model\n[[second<turn|>]]\n"),
    (
        "llama3-trl-llama3",
        WHITE_SPACE,
        f"- a<|eot_id|>{LLAMA_HEADER('assistant')}[[first<|eot_id|>]]{LLAMA_HEADER('user')}<|eot_id|>"
        f"{LLAMA_HEADER('assistant')}[[second<|eot_id|>]]",
    ),
    (
        "glm4v-GLM-4.1V-9B-Thinking",
        WHITE_SPACE,
        "- a\n\n<|assistant|>\n\n\n[[first\n<|user|>]]\n\n\n\n<|assistant|>\n[[\tsecond \n\n]]",
    ),
    *(
        ("qwen2_vl-trl-qwen2_5_vl", NAMED[scenario], f"Query1?<|im_end|>\n<|im_start|>assistant\n[[{words}<|im_end|>]]\n{rest}")
        for scenario, words, rest in [
            (
                "tools",
                "",
                "<|im_start|>tool\nResult1<|im_end|>\n<|im_start|>assistant\n[[Reply1.<|im_end|>]]\n"
                "<|im_start|>user\nQuery2<|im_end|>\n<|im_start|>assistant\n[[Reply2<|im_end|>]]\n",
            ),
            (
                "two tool results",
                "",
                "<|im_start|>tool\nResult1<|im_end|>\n<|im_start|>assistant\n[[<|im_end|>]]\n"
                "<|im_start|>tool\nResult2<|im_end|>\n<|im_start|>assistant\n[[Reply1.<|im_end|>]]\n",
            ),
            (
                "parallel calls",
                "",
                "<|im_start|>tool\nResult1<|im_end|>\n<|im_start|>tool\nResult2<|im_end|>\n<|im_start|>assistant\n[[Reply1.<|im_end|>]]\n",
            ),
            (
                "words before a call",
                "Reply1.",
                "<|im_start|>tool\nResult1<|im_end|>\n<|im_start|>assistant\n[[Reply2.<|im_end|>]]\n",
            ),
        ]
    ),
    *(
        ("llama3-own", NAMED[scenario], f"Query1?<|eot_id|>{LLAMA_HEADER('assistant')}[[<|eot_id|>]]{rest}")
        for scenario, rest in [
            (
                "tools",
                f"{LLAMA_HEADER('tool')}Result1<|eot_id|>{LLAMA_HEADER('assistant')}[[Reply1.<|eot_id|>]]"
                f"{LLAMA_HEADER('user')}Query2<|eot_id|>{LLAMA_HEADER('assistant')}[[Reply2<|eot_id|>]]",
            ),
            (
                "two tool results",
                f"{LLAMA_HEADER('tool')}Result1<|eot_id|>{LLAMA_HEADER('assistant')}[[<|eot_id|>]]"
                f"{LLAMA_HEADER('tool')}Result2<|eot_id|>{LLAMA_HEADER('assistant')}[[Reply1.<|eot_id|>]]",
            ),
        ]
    ),
]
BY_ID = {family.id: family for family in FAMILIES}


def assert_trains(family: Family, text: str, marked: str) -> None:
    """Hold the labels of a text to what was written by hand; nothing before that is trained."""
    tokenizer = family.tokenizer()
    assert text.endswith(unmarked(marked))
    ids = ids_of(tokenizer, text)
    expected = text.removesuffix(unmarked(marked)) + marked
    assert show(tokenizer, ids, masker_of(family.marker_set, tokenizer)(ids)) == expected


@pytest.mark.parametrize(("family", "scenario", "marked"), [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in BY_HAND])
def test_the_truth_is_what_was_written_by_hand(family: str, scenario: str, marked: str) -> None:
    one = BY_ID[family]
    truth = GroundTruthFinder(one.chat_template, read_vocabulary(one.tokenizer()).special_tokens).find(NAMED[scenario])
    assert truth.region_texts == stretches(marked)
    assert_trains(one, truth.text, marked)


@pytest.mark.parametrize(("family", "scenario", "marked"), [pytest.param(*case, id=f"{case[0]}-{case[1].name}") for case in UNTOLD])
def test_labels_by_hand_where_the_truth_is_silent(family: str, scenario: Scenario, marked: str) -> None:
    one = BY_ID[family]
    written = one.chat_template.render(scenario.messages, tools=list(scenario.tools) or None, **scenario.options)
    assert_trains(one, written.text, marked)


@pytest.mark.parametrize("scenario", [WHITE_SPACE, EMOJI], ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.id)
def test_contents_without_a_word(family: Family, scenario: Scenario) -> None:
    """The ground truth finds contents by their words. Without any: the two answers are trained, the stop tokens after them, and nothing else."""
    answers = [message["content"].strip() for message in scenario.messages if message["role"] == "assistant"]
    texts = (rendered_or_none(family.chat_template, put) for ways in forms_of(scenario) for put in ways)
    text = next(text for text in texts if text is not None and all(answer in text for answer in answers))
    tokenizer = family.tokenizer()
    ids = ids_of(tokenizer, text)
    trained = stretches(show(tokenizer, ids, masker_of(family.marker_set, tokenizer)(ids)))
    assert len(trained) == len(answers)
    for answer, stretch in zip(answers, trained, strict=True):
        is_open = not family.stops or text.endswith(stretch)  # the last one may have no stop token
        assert stretch.lstrip().startswith(answer)
        assert stretch.lstrip().removeprefix(answer).strip() in (*family.stops, *([""] if is_open else []))


def rendered_or_none(template: ChatTemplate, scenario: Scenario) -> str | None:
    try:
        return template.render(scenario.messages, tools=list(scenario.tools) or None).text
    except ChatError:
        return None

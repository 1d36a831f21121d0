"""Differences are data: what differs, where, and how much."""

from dataclasses import replace

from rolemask import ChatTemplate, load
from rolemask.chat_templates.compare import Difference, ScenarioResult, Status, compare_labels, compare_with_toy_tokenizer
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS, THREE_TURNS
from rolemask.markers.spec import MarkerSet
from rolemask.matching.compiler import compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRUTHS = GroundTruthFinder(ChatTemplate(CHATML, "toy", {}), ["<|im_start|>", "<|im_end|>"]).truths


def first(markers: MarkerSet) -> ScenarioResult:
    return next(compare_labels(compile_rules(markers, ToyTokenizer(markers).vocabulary), TRUTHS))


def with_assistant(**changes: object) -> MarkerSet:
    markers = load("chatml")
    return replace(markers, markers=tuple(replace(one, **changes) if one.role == "assistant" else one for one in markers.markers))


def test_labels_that_agree() -> None:
    result = first(load("chatml"))
    assert (result.scenario, result.status, result.difference, result.detail) == ("one turn", Status.OK, None, "")
    assert result.trained == result.expected


def test_tokens_that_are_trained_and_should_not_be() -> None:
    difference = first(with_assistant(include_start=True)).difference
    assert difference == Difference(
        tokens=11, kind="extra", text="<|im_start|>assistant\n", before="<|im_start|>user\nQuery1<|im_end|>\n", after="Reply1!<|im_end|>\n"
    )
    assert str(difference).startswith("11 tokens differ. '<|im_start|>assistant\\n' is trained, but the model never generates it: ")


def test_tokens_that_are_not_trained_and_should_be() -> None:
    result = first(with_assistant(include_end=False))
    assert result.status == "differs"
    assert result.difference is not None
    assert (result.difference.tokens, result.difference.kind, result.difference.text) == (1, "missing", "<|im_end|>")
    assert result.detail.startswith("1 token differs. '<|im_end|>' is not trained, but the model generates it: ")


def test_a_scenario_without_ground_truth_keeps_its_reason() -> None:
    reason = UnsupportedScenarioError("it has no roles")
    (result,) = compare_with_toy_tokenizer(load("chatml"), [(THREE_TURNS, reason)])
    assert result == ScenarioResult("three turns", Status.NOT_SUPPORTED, reason="it has no roles")
    assert result.detail == "it has no roles"
    assert str(result.status) == "not supported"


def test_every_scenario_has_a_truth_or_a_reason() -> None:
    assert [scenario for scenario, _ in TRUTHS] == list(SCENARIOS)

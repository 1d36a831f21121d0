"""The ground truth: what the model must generate, from after the generation prompt through its stop token.

Uses the chat template alone, no marker set. For assistant message k, the template renders messages 0 to k-1 with the generation prompt:
the model's input. In the rendering of the whole scenario, the text that continues this prompt is what the model must generate. Sentinels
find the same place in both texts.

- A template may change earlier messages (Qwen3 drops earlier reasoning, Mistral moves the system prompt). So texts are compared from the
  last sentinel of the message before, not from their beginning.
- What a generation prompt contains in any thinking mode belongs to the prompt.
- The stop token is the EOS token, or else the last special token, that the template renders after an answer whatever follows. If there is
  none (GLM), it is the special token that starts the next turn.

`rolemask.chat_templates.turn_edges` has the rules for both ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rolemask.chat_templates.rendering import AmbiguousScenarioError, Renderer, UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS, THINKING_OFF, THINKING_ON, Scenario, sentinels
from rolemask.chat_templates.template import ChatTemplate
from rolemask.chat_templates.turn_edges import find_start, find_stop, position_after


@dataclass(frozen=True)
class GroundTruth:
    """A rendered scenario, and which parts of it the model must generate. Positions count characters.

    Attributes:
        text: What the template renders.
        regions: The ranges [start, stop) of the text that the model must generate, one per answer.
        generated: The ranges inside the template's own `generation` blocks.
        prefix_stable: Whether each message only adds to the text of those before it.
        is_verdict: The template renders only a prompt (Llama Guard); a verdict was appended to it.
    """

    text: str
    regions: tuple[tuple[int, int], ...]
    generated: tuple[tuple[int, int], ...]
    prefix_stable: bool
    is_verdict: bool = False

    @property
    def region_texts(self) -> list[str]:
        """What the model must generate, answer by answer."""
        return [self.text[start:stop] for start, stop in self.regions]


ScenarioTruth = tuple[Scenario, GroundTruth | UnsupportedScenarioError]
"""A scenario with its ground truth, or with the reason why it has none."""


class GroundTruthFinder:
    """Finds the ground truth of scenarios with one chat template.

    Args:
        template: The chat template.
        special_tokens: The texts of the tokenizer's special tokens. Generation can only stop at one of them.
    """

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str]) -> None:
        self.renderer = Renderer(template, special_tokens)

    @cached_property
    def truths(self) -> list[ScenarioTruth]:
        """The ground truth of every scenario of `rolemask verify`, or the reason why there is none.

        This renders each scenario dozens of times, so it is done once: compare every marker set with the same list.
        """
        return self.find_all(SCENARIOS)

    def find_all(self, scenarios: Iterable[Scenario]) -> list[ScenarioTruth]:
        """Return the ground truth of each scenario, or the reason why there is none."""
        return [(scenario, self._find_or_reason(scenario)) for scenario in scenarios]

    def _find_or_reason(self, scenario: Scenario) -> GroundTruth | UnsupportedScenarioError:
        try:
            return self.find(scenario)
        except UnsupportedScenarioError as reason:
            return reason.with_traceback(None)

    def find(self, scenario: Scenario) -> GroundTruth:
        """Return the ground truth of one scenario.

        Raises:
            UnsupportedScenarioError: The template refuses it, or leaves a part of it out.
            AmbiguousScenarioError: The template renders all of it, but contradicts itself on which part the model generates.
        """
        scenario, text = self.renderer.render_in_accepted_form(scenario)
        if self.renderer.renders_prompt_only:
            return self._with_verdict(scenario)
        if scenario.options in (THINKING_OFF, THINKING_ON) and not self.renderer.options_have_effect(scenario):
            raise UnsupportedScenarioError("the template has no option for reasoning")
        regions: list[tuple[int, int]] = []
        at = 0  # the end of the last sentinel so far
        for index, message in enumerate(scenario.messages):
            if message["role"] == "assistant":
                start = find_start(self.renderer, text, at, scenario, index)
                if regions and not text[regions[-1][1] : start].strip() and scenario.messages[index - 1]["role"] == "assistant":
                    raise AmbiguousScenarioError("the template renders nothing between two answers, so they read as one turn")
                stop = find_stop(self.renderer, text, at, start, scenario, index)
                if self._starts_again(text[start:stop], scenario):  # DeepSeek R1's distillations, with words and a call
                    raise AmbiguousScenarioError(f"the template renders message {index} as two turns")
                if self._reads_on(text, stop, scenario, index + 1):
                    raise AmbiguousScenarioError("the template renders no header before a system turn, so it reads as part of the answer")
                regions.append((start, stop))
                at = start
            if message["role"] == "system":
                continue  # some templates render it in a later turn (Mistral)
            at = max([at, *(position_after(sentinel, text, at) for sentinel in sentinels(message) if sentinel in text[at:])])
        generated = self.renderer.render(scenario).generated
        return GroundTruth(text, tuple(regions), generated, self.renderer.is_prefix_stable(scenario, text))

    def _reads_on(self, text: str, stop: int, scenario: Scenario, index: int) -> bool:
        """Whether message `index` is the system's and follows the answer that ends at `stop` without a header of its own."""
        if [message["role"] for message in scenario.messages[index : index + 1]] != ["system"]:
            return False
        at = text.find(sentinels(scenario.messages[index])[0], stop)
        return at >= 0 and text[stop:at].strip() in ("", self.renderer.user_end_and_header(scenario)[1].strip())

    def _with_verdict(self, scenario: Scenario) -> GroundTruth:
        prompt = self.renderer.try_render(scenario, prompt=True) or ""
        text = prompt + "No.\n- S1" + (self.renderer.template.variables.get("eos_token") or "")
        return GroundTruth(text, ((len(prompt), len(text)),), (), prefix_stable=True, is_verdict=True)

    def _starts_again(self, region: str, scenario: Scenario) -> bool:
        """Whether the header follows the EOS token inside what should be one turn."""
        eos = self.renderer.template.variables.get("eos_token")
        openers = self.renderer.find_special_tokens(self.renderer.user_end_and_header(scenario)[1])
        return bool(eos and openers) and openers[0].group() in region.partition(str(eos))[2]


def lies_within(start: int, stop: int, regions: Sequence[tuple[int, int]]) -> bool:
    """Whether all of [start, stop) lies in one of the regions."""
    return any(first <= start and stop <= last for first, last in regions)

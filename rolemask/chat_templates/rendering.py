"""Rendering scenarios with a chat template, and how the template separates turns. Knows nothing about marker sets."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rolemask.chat_templates.scenarios import (
    FOLLOW_UP,
    IMAGE,
    REASONING,
    SYSTEM,
    THINKING_MODES,
    THREE_TURNS,
    TOOLS,
    Scenario,
    forms_of,
    sentinels,
)
from rolemask.chat_templates.template import ChatTemplate, Message, RenderError, Rendering
from rolemask.markers.lints import PROBE_WORD

# What special tokens usually look like: <|x|>, <｜x｜>, <|x>, <x|>, <start_of_x>, </s>, [INST], [|x|].
LOOKS_SPECIAL = re.compile(
    r"<\|[^<>|\s{}'\"]+\|?>|<[^<>|\s{}'\"/]+\|>|<｜[^<>｜{}'\"]+｜>|<(?:start|end)_\w+>|<[A-Z]+_\d+>|<extra_id_\d+>|</?s>|<[bB][oO][sS](?:_TOKEN)?>|\[\|\w+\|\]|\[/?[A-Z]{2,}(?:_[A-Z]+)*\]"
)

_TAG = re.compile(r"<\w+>|\[[A-Z]+\]")
_SOME_TAG = re.compile(r"<[\w:/]+>")
_EMPTY_BLOCK = re.compile(r"<(\w+)>\s*</\1>")


class UnsupportedScenarioError(Exception):
    """The template refuses a scenario, or leaves a part of it out. The message says why."""


class AmbiguousScenarioError(UnsupportedScenarioError):
    """The template renders all of a scenario, but contradicts itself on which part the model generates."""


class Renderer:
    """Renders scenarios with one chat template, and finds out how the template separates turns.

    Args:
        template: The chat template.
        special_tokens: The texts of the tokenizer's special tokens. Generation can only stop at one of them.
    """

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str]) -> None:
        self.template = template
        eos = template.variables.get("eos_token")
        self._special_tokens = sorted({*special_tokens, *([eos] if eos else [])}, key=len, reverse=True)
        self._closes_answers: dict[tuple[bool, bool], bool] = {}
        self._user_end_and_header: dict[tuple[Any, ...], tuple[str, str]] = {}

    # --- scenarios to text

    def render_in_accepted_form(self, scenario: Scenario) -> tuple[Scenario, str]:
        """Return the scenario in the form in which the template renders all of it, and the rendered text.

        Raises:
            UnsupportedScenarioError: There is no such form.
        """
        reasons: list[str] = []
        for variants in forms_of(scenario):
            accepted: list[tuple[Scenario, str]] = []
            for variant in variants:
                try:
                    text = self.render(variant).text
                except RenderError as error:
                    reasons.append(error.reason)
                    continue
                reason = self._what_is_missing(variant, text)
                if reason is None:
                    accepted.append((variant, text))
                else:
                    reasons.append(reason)
            if accepted:  # of content "" and content None, the longer text has something added: an empty answer, or the word None
                return min(accepted, key=lambda variant_and_text: len(variant_and_text[1]))
        raise UnsupportedScenarioError(reasons[0].splitlines()[0])

    def render(self, scenario: Scenario, *, prompt: bool = False, **options: Any) -> Rendering:
        """Render a scenario, with the generation prompt at the end if `prompt`.

        Raises:
            RenderError: The template refuses it.
        """
        settings = {"guideline": "Do no harm.", **scenario.options, **options}  # ShieldGemma needs a guideline
        return self.template.render(scenario.messages, prompt=prompt, tools=list(scenario.tools) or None, **settings)

    def try_render(self, scenario: Scenario, *, prompt: bool = False, **options: Any) -> str | None:
        """Return the rendered text, or None if the template refuses the scenario."""
        try:
            return self.render(scenario, prompt=prompt, **options).text
        except RenderError:
            return None

    def render_with_follow_up(self, scenario: Scenario) -> str | None:
        """Return the text with one more question at the end, or None if the template refuses that."""
        return self.try_render(scenario.with_message(_in_form_of(scenario, FOLLOW_UP)))

    def _what_is_missing(self, scenario: Scenario, text: str) -> str | None:
        if any(f"{quote}type{quote}: {quote}{kind}{quote}" in text for quote in "'\"" for kind in ("text", "image")):
            return "the template renders lists of parts as they are"
        at = 0
        for index, message in enumerate(scenario.messages):
            reasoning = sentinels({"role": "", "content": None, "reasoning_content": message.get("reasoning_content")})
            may_miss = reasoning if scenario.may_drop_reasoning and index + 1 < len(scenario.messages) else []
            for sentinel in sentinels(message):
                if sentinel not in text and sentinel not in may_miss:
                    return f"the template leaves out {sentinel!r} of message {index}, {message['role']}"
            if message["role"] != "system":
                places = [text.find(sentinel, at) for sentinel in sentinels(message)]
                if places and max(places) < 0:
                    return f"the template renders message {index} before the one that precedes it"
                at = max([at, *places])
        if any(_has_image(message) for message in scenario.messages):
            without_images = tuple(_without_image(message) for message in scenario.messages)
            if self.try_render(replace(scenario, messages=without_images)) == text:
                return "the template renders nothing for an image"
        return None

    def options_have_effect(self, scenario: Scenario) -> bool:
        """Whether the scenario's options change anything in the text."""
        without = replace(scenario, options={})
        if self.try_render(scenario) != self.try_render(without):
            return True
        return self.try_render(scenario.through(1), prompt=True) != self.try_render(without.through(1), prompt=True)

    def is_prefix_stable(self, scenario: Scenario, text: str) -> bool:
        """Whether each message only adds to the text of those before it."""
        parts = (self.try_render(scenario.through(count)) for count in range(1, len(scenario.messages)))
        return all(part is None or text.startswith(part) for part in parts)

    # --- special tokens in text

    def find_special_tokens(self, text: str) -> list[re.Match[str]]:
        """Return the special tokens in a text, from left to right."""
        # One pattern of all special tokens would take longer to compile than this: Gemma has thousands.
        present = [token for token in self._special_tokens if token in text]
        return list(re.finditer("|".join(map(re.escape, present)), text)) if present else []

    def common_start(self, texts: Sequence[str]) -> str:
        """Return the longest text that all of them start with and that cuts no special token."""
        common = common_prefix(texts)
        for text in texts:
            cut = next((found for found in self.find_special_tokens(text) if found.start() < len(common) < found.end()), None)
            common = common if cut is None else common[: cut.start()]
        return common

    def last_stop_token(self, text: str) -> re.Match[str] | None:
        """Return the last EOS token in a text, or else the last special token."""
        found = self.find_special_tokens(text)
        ends = [match for match in found if match.group() == self.template.variables.get("eos_token")]
        return next(reversed(ends or found), None)

    # --- how the template separates turns

    @cached_property
    def renders_prompt_only(self) -> bool:
        """Whether the template asks for a verdict on the conversation and never renders the verdict itself (Llama Guard)."""
        try:
            question, prompt = self.render_in_accepted_form(THREE_TURNS.through(1))
            _, answered = self.render_in_accepted_form(THREE_TURNS.through(2))
        except UnsupportedScenarioError:
            return False
        with_header = self.try_render(question, prompt=True)
        if with_header is None or not with_header.startswith(prompt):
            return False
        gap = answered.partition("Query1")[2].partition("Reply1")[0]
        if header := with_header[len(prompt) :]:
            # Granite Guardian: the verdict has a header, and an answer that is judged has only words before it.
            place = self.own(self.render(question), question, 0)
            asked = prompt.partition("Query1")[2] if place is None else prompt[place[1] :]
            has_words = all(any(char.isalpha() for char in text) for text in (gap, asked))
            return has_words and bool(self.find_special_tokens(header)) and not self.find_special_tokens(gap)
        if not common_prefix([prompt[::-1], answered[::-1]]).strip():
            return False
        # Other templates also render the same text with and without a generation prompt: always a header, or never one. In those, the text
        # after the question is there before the answer too, or it is only what ends the question.
        tail = prompt.partition("Query1")[2]
        if gap.startswith(tail) and (len(self.find_special_tokens(tail)) < 2 or self._ends_with_special_token(tail)):
            return False
        own = gap[len(self.common_start([gap, tail])) :]
        for token in self.find_special_tokens(own):
            own = own.replace(token.group(), "")
        return any(char.isalpha() for char in own)

    def _ends_with_special_token(self, text: str) -> bool:
        return any(not text[token.end() :].strip() for token in self.find_special_tokens(text))

    def closes_answers(self, scenario: Scenario) -> bool:
        """Whether the template renders a special token after an answer, whatever follows."""
        form = _has_parts(scenario), bool(scenario.tools)
        if form not in self._closes_answers:
            turn = self._one_turn_like(scenario)
            tails = [text.partition("Reply1")[2] for text in (self.try_render(turn), self.render_with_follow_up(turn)) if text is not None]
            self._closes_answers[form] = bool(self.find_special_tokens(self.cut_dangling_header(self.common_start(tails), turn)))
        return self._closes_answers[form]

    def stops_at_next_header(self, scenario: Scenario) -> bool:
        """Whether answers have no stop token of their own, so that generation stops at the token that starts the next turn (GLM)."""
        after = self._tokens_after_answer(scenario)
        if self.closes_answers(scenario) or len(after) != 1:
            return False
        # The token between answer and question is a header only if the first question starts with it too.
        before = self.find_special_tokens((self.try_render(self._one_turn_like(scenario)) or "").partition("Query1")[0])
        return [match.group() for match in before[-1:]] == after

    def token_before_user(self, scenario: Scenario) -> str:
        """Return the special token after an answer that a question follows, or an empty text."""
        return next(iter(self._tokens_after_answer(scenario)), "")

    def _tokens_after_answer(self, scenario: Scenario) -> list[str]:
        """Return the special tokens between an answer and the next question."""
        text = self.render_with_follow_up(self._one_turn_like(scenario)) or ""
        return [match.group() for match in self.find_special_tokens(text.partition("Reply1")[2].partition("Query9")[0])]

    def user_end_and_header(self, scenario: Scenario) -> tuple[str, str]:
        """Return what ends a user's turn, white space after it included, and the assistant's header.

        The header is empty if one marker is both (Mistral).
        """
        form = _has_parts(scenario), bool(scenario.tools), *sorted(scenario.options.items())
        if form not in self._user_end_and_header:
            self._user_end_and_header[form] = self._find_user_end_and_header(scenario)
        return self._user_end_and_header[form]

    def headers_after_question(self, scenario: Scenario) -> tuple[str, ...]:
        """Return the assistant's header in each thinking mode, as the prompt after a question has it."""
        question = self._one_turn_like(scenario).through(1)
        user_end = self.user_end_and_header(scenario)[0]
        headers = []
        for options in THINKING_MODES:
            settings = scenario.options | options
            prompt, without = (self.try_render(question, prompt=prompt, **settings) or "" for prompt in (True, False))
            tail = text_after(question.messages[0], prompt)
            if user_end and tail.startswith(user_end):
                headers.append(tail.removeprefix(user_end))
            elif prompt.startswith(without):  # an option may change the question (GLM's `/nothink`)
                headers.append(prompt[len(without) :])
        return tuple(filter(None, headers))

    def lacks_prompt(self, scenario: Scenario) -> bool:
        """Whether the template has no generation prompt: headers before earlier answers, and nothing for the model to continue."""
        turn = self._one_turn_like(scenario)
        written, question = self._written_for_user(turn), turn.through(1)
        if written is None or not self.header_in_history(scenario):
            return False
        prompts = (self.try_render(question, prompt=True, **(scenario.options | options)) for options in THINKING_MODES)
        return all(prompt is None or text_after(question.messages[0], prompt).rstrip() == written.rstrip() for prompt in prompts)

    def _find_user_end_and_header(self, scenario: Scenario) -> tuple[str, str]:
        turn = replace(self._one_turn_like(scenario), options=scenario.options)
        question = turn.through(1)
        prompt, without = (text_after(question.messages[0], self.try_render(question, prompt=prompt) or "") for prompt in (True, False))
        written = self._written_for_user(turn)
        if (
            written is not None
            and prompt.startswith(written)
            and (prompt == without or written.startswith(self.common_start([prompt, without])))
        ):
            header = self.header_in_history(scenario) if self.lacks_prompt(scenario) else prompt[len(written) :]
            space = len(header) - len(header.lstrip())
            return written + header[:space], header[space:]
        user_end = self.common_start([prompt, without])
        header = prompt[len(user_end) :]
        special_tokens = [match.group() for match in self.find_special_tokens(header or prompt)]
        if header and len(special_tokens) > 1 and special_tokens[0] == self.token_before_user(scenario):
            # Qwen1.5 leaves the last message open unless a prompt follows: the end marker comes with the prompt.
            user_end = prompt[: prompt.index(special_tokens[0], len(user_end)) + len(special_tokens[0])]
        elif not header and len(special_tokens) > 1:  # Command-A renders a header with and without a prompt
            user_end = prompt[: prompt.index(special_tokens[0]) + len(special_tokens[0])]
        elif not header and not special_tokens:
            user_end = ""
        rest = prompt[len(user_end) :]
        user_end += rest[: len(rest) - len(rest.lstrip())]
        return user_end, prompt[len(user_end) :]

    def _written_for_user(self, turn: Scenario) -> str | None:
        """Return what the template writes for a question behind its words, when an answer follows; None if that is not known."""
        try:
            rendering = self.render(turn)
        except RenderError:
            return None
        own = self.own(rendering, turn, 0)
        return None if own is None else text_after(turn.messages[0], rendering.text[: own[1]])

    def header_in_history(self, scenario: Scenario) -> str:
        """Return what the template writes for an answer before its words; empty if that is not known, or no header.

        What is closed again is no header: Hunyuan writes `<answer>` and `</answer>` around an answer. A tag around questions too is one.
        """
        turn = replace(self._one_turn_like(scenario), options=scenario.options)
        try:
            rendering = self.render(turn)
        except RenderError:
            return ""
        question, answer = (self.own(rendering, turn, index) for index in (0, 1))
        if question is None or answer is None:
            return ""
        before, _, after = rendering.text[answer[0] : answer[1]].partition("Reply1")
        own_tags = set(_TAG.findall(before)) - set(_TAG.findall(rendering.text[question[0] : question[1]]))
        closed = any(f"{tag[0]}/{tag[1:]}" in after for tag in own_tags)
        # The model writes the blank that its first word begins with.
        return "" if closed or not _EMPTY_BLOCK.sub("", before).strip() else before.removesuffix(" ")

    def text_around_contents(self) -> str:
        """Return what the template writes for a question and its answer besides their words; empty if that is not known."""
        try:
            turn = self.render_in_accepted_form(THREE_TURNS.through(2))[0]
        except UnsupportedScenarioError:
            return ""
        rendering = self.render(turn)
        places = [self.own(rendering, turn, index) for index in (0, 1)]
        written = "".join(rendering.text[start:stop] for start, stop in filter(None, places))
        return PROBE_WORD.sub("", written)

    def own(self, rendering: Rendering, scenario: Scenario, index: int) -> tuple[int, int] | None:
        """Return the range [start, stop) of a text that was written for message `index`, if that is known: it has all its words.

        A message without words is only known to be where it seems to be if all others are.
        """
        if sentinels(scenario.messages[index]):
            return _own(rendering, scenario, index)
        others = [at for at, message in enumerate(scenario.messages) if at != index and message["role"] != "system"]
        return rendering.own(index) if all(_own(rendering, scenario, other) is not None for other in others) else None

    def cut_dangling_header(self, text: str, scenario: Scenario, *, of_any_role: bool = False) -> str:
        """Cut the text after an answer where the assistant's header starts, which Command-A renders even after the last answer.

        With `of_any_role`, also where another role's header starts, if headers share their first special token.
        """
        header = self.user_end_and_header(scenario)[1]
        for opener in self.find_special_tokens(text) if header else ():
            rest = text[opener.start() :]
            role = header.removeprefix(opener.group())
            is_others = of_any_role and role != header and role.strip()
            if is_others or rest.startswith(header) or header.startswith(rest):
                return text[: opener.start()]
        return text

    def _one_turn_like(self, scenario: Scenario) -> Scenario:
        """Return a question and an answer, in the scenario's form and with its tools."""
        messages = ({"role": "user", "content": "Query1"}, {"role": "assistant", "content": "Reply1"})
        return Scenario("", tuple(_in_form_of(scenario, message) for message in messages), tools=scenario.tools)


def _own(rendering: Rendering, scenario: Scenario, index: int) -> tuple[int, int] | None:
    own = rendering.own(index)
    words = [word for word in sentinels(scenario.messages[index]) if word in rendering.text]
    return own if own is not None and all(word in rendering.text[own[0] : own[1]] for word in words) else None


def common_prefix(texts: Sequence[str]) -> str:
    """Return the longest text that all of them start with."""
    first, last = min(texts, default=""), max(texts, default="")  # what these two share, all in between share
    return first[: next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def text_after(message: Message, text: str) -> str:
    """Return what follows the last sentinel of `message`, in a text that has no later message."""
    return text[max((text.rfind(sentinel) + len(sentinel) for sentinel in sentinels(message) if sentinel in text), default=len(text)) :]


def _has_parts(scenario: Scenario) -> bool:
    return isinstance(scenario.messages[0]["content"], list)


def _in_form_of(scenario: Scenario, message: Message) -> Message:
    """Return a message of text, with its content as parts if the scenario has parts."""
    return message | {"content": [{"type": "text", "text": message["content"]}]} if _has_parts(scenario) else message


def _has_image(message: Message) -> bool:
    content = message["content"]
    return isinstance(content, list) and any(part["type"] == "image" for part in content)


def _without_image(message: Message) -> Message:
    if not _has_image(message):
        return message
    return message | {"content": [part for part in message["content"] if part["type"] != "image"]}


def guess_special_tokens(template: ChatTemplate) -> set[str]:
    """Return what looks like a special token in a template and its renderings, for use without a tokenizer."""
    texts = [template.source]
    for scenario in (SYSTEM, THREE_TURNS, TOOLS, REASONING, IMAGE):
        try:
            texts.append(Renderer(template, ()).render_in_accepted_form(scenario)[1])
        except UnsupportedScenarioError:
            continue
    return {token for text in texts for token in LOOKS_SPECIAL.findall(text)}


def guess_more_special_tokens(template: ChatTemplate) -> set[str]:
    """Return `guess_special_tokens`, and if none of them stands around contents, the tags that do (Seed-OSS: `<seed:eos>`)."""
    found = guess_special_tokens(template)
    around = Renderer(template, ()).text_around_contents()
    return found if any(token in around for token in found) else {*found, *_SOME_TAG.findall(around)}

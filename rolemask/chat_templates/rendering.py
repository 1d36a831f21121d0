"""A chat template, asked: what it writes of a conversation, and what its habits are. Nothing here knows of marker sets."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rolemask.chat_templates.scenarios import FOLLOW_UP, IMAGE, REASONING, SYSTEM, THREE_TURNS, TOOLS, Scenario, forms_of, sentinels
from rolemask.chat_templates.template import ChatTemplate, Message, Rendering
from rolemask.errors import ChatError

# What a special token looks like, where no tokenizer tells: <|x|>, <｜x｜>, <|x>, <x|>, <start_of_x>, </s>, [INST], [|x|].
LOOKS_SPECIAL = re.compile(
    r"<\|[^<>|\s{}'\"]+\|?>|<[^<>|\s{}'\"/]+\|>|<｜[^<>｜{}'\"]+｜>|<(?:start|end)_\w+>|<[A-Z]+_\d+>|<extra_id_\d+>|</?s>|<[bB][oO][sS](?:_TOKEN)?>|\[\|\w+\|\]|\[/?[A-Z]{2,}(?:_[A-Z]+)*\]"
)


class UnsupportedScenarioError(Exception):
    """The template does not take a conversation, or leaves something of it out. The reason is for people."""


class AmbiguousScenarioError(UnsupportedScenarioError):
    """The template writes a conversation, and contradicts itself on which of it is the model's."""


class Renderer:
    """Writes conversations with one chat template, and tells its habits.

    Args:
        template: The chat template.
        special_tokens: The texts of the tokenizer's special tokens: generation can only stop at one of these.
    """

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str]) -> None:
        self.template = template
        eos = template.variables.get("eos_token")
        self._known = sorted({*special_tokens, *([eos] if eos else [])}, key=len, reverse=True)
        self._closes: dict[tuple[bool, bool], bool] = {}
        self._between: dict[tuple[Any, ...], tuple[str, str]] = {}

    def put(self, conversation: Scenario) -> tuple[Scenario, str]:
        """Return the conversation in the form in which the template writes all of it, and what it writes.

        Raises:
            UnsupportedScenarioError: In no form it does.
        """
        reasons: list[str] = []
        for ways in forms_of(conversation):
            taken: list[tuple[Scenario, str]] = []
            for way in ways:
                try:
                    text = self.write(way).text
                except ChatError as error:
                    reasons.append(str(error).removeprefix(f"{self.template.name}: "))
                    continue
                reason = self._what_is_missing(way, text)
                if reason is None:
                    taken.append((way, text))
                else:
                    reasons.append(reason)
            if taken:  # what a template makes of no content (an empty answer, the word None) is more than the least it writes
                return min(taken, key=lambda way_and_text: len(way_and_text[1]))
        raise UnsupportedScenarioError(reasons[0].splitlines()[0])

    def write(self, conversation: Scenario, *, prompt: bool = False, **options: Any) -> Rendering:
        """Write a conversation.

        Raises:
            ChatError: The template does not take it.
        """
        settings = {"guideline": "Do no harm.", **conversation.options, **options}  # by which ShieldGemma judges
        return self.template.write(conversation.messages, prompt=prompt, tools=list(conversation.tools) or None, **settings)

    def text(self, conversation: Scenario, *, prompt: bool = False, **options: Any) -> str | None:
        """Return what the template writes, None where it does not take the conversation."""
        try:
            return self.write(conversation, prompt=prompt, **options).text
        except ChatError:
            return None

    def _what_is_missing(self, conversation: Scenario, text: str) -> str | None:
        if any(f"{quote}type{quote}: {quote}{kind}{quote}" in text for quote in "'\"" for kind in ("text", "image")):
            return "the template writes lists of parts as they are"
        at = 0
        for index, message in enumerate(conversation.messages):
            thoughts = sentinels({"role": "", "content": None, "reasoning_content": message.get("reasoning_content")})
            may_miss = thoughts if conversation.may_lose_thoughts and index + 1 < len(conversation.messages) else []
            for sentinel in sentinels(message):
                if sentinel not in text and sentinel not in may_miss:
                    return f"the template leaves out {sentinel!r} of message {index}, {message['role']}"
            if message["role"] != "system":
                places = [text.find(sentinel, at) for sentinel in sentinels(message)]
                if places and max(places) < 0:
                    return f"the template writes message {index} before the one that precedes it"
                at = max([at, *places])
        if any(_has_image(message) for message in conversation.messages):
            bare = tuple(_without_image(message) for message in conversation.messages)
            if self.text(replace(conversation, messages=bare)) == text:
                return "the template writes nothing for an image"
        return None

    def knows_switch(self, conversation: Scenario) -> bool:
        """Whether the options of a conversation change anything in what is written."""
        bare = replace(conversation, options={})
        head = conversation.through(1)
        return self.text(conversation) != self.text(bare) or self.text(head, prompt=True) != self.text(
            replace(head, options={}), prompt=True
        )

    def is_prefix_stable(self, conversation: Scenario, text: str) -> bool:
        """Whether each message only adds to the text of those before."""
        parts = (self.text(conversation.through(count)) for count in range(1, len(conversation.messages)))
        return all(part is None or text.startswith(part) for part in parts)

    def special_tokens(self, text: str) -> list[re.Match[str]]:
        """Return the special tokens in a text, in their order."""
        # A pattern of all that a tokenizer has takes longer to compile than this takes: Gemma has thousands.
        present = [control for control in self._known if control in text]
        return list(re.finditer("|".join(map(re.escape, present)), text)) if present else []

    def common(self, texts: Sequence[str]) -> str:
        """Return what all texts begin with, in whole special tokens."""
        common = common_prefix(texts)
        for text in texts:
            cut = next((found for found in self.special_tokens(text) if found.start() < len(common) < found.end()), None)
            common = common if cut is None else common[: cut.start()]
        return common

    def last_control(self, text: str) -> re.Match[str] | None:
        """Return the last EOS token of a text, failing that its last special token."""
        found = self.special_tokens(text)
        ends = [match for match in found if match.group() == self.template.variables.get("eos_token")]
        return next(reversed(ends or found), None)

    # --- habits

    @cached_property
    def writes_prompts_only(self) -> bool:
        """Whether the template writes a prompt alone: it asks for a verdict on the conversation, and does not write that (Llama Guard)."""
        try:
            asked, prompt = self.put(THREE_TURNS.through(1))
            _, judged = self.put(THREE_TURNS.through(2))
        except UnsupportedScenarioError:
            return False
        if self.text(asked, prompt=True) != prompt or not common_prefix([prompt[::-1], judged[::-1]]).strip():
            return False
        # Other templates write a prompt whether asked for one or not, or never one. They have it before the answer as well, or what ends a
        # question and nothing else.
        tail, gap = prompt.partition("Query1")[2], judged.partition("Query1")[2].partition("Reply1")[0]
        if gap.startswith(tail) and (len(self.special_tokens(tail)) < 2 or self._ends_with_control(tail)):
            return False
        own = gap[len(self.common([gap, tail])) :]
        for control in self.special_tokens(own):
            own = own.replace(control.group(), "")
        return any(letter.isalpha() for letter in own)

    def _ends_with_control(self, text: str) -> bool:
        return any(not text[control.end() :].strip() for control in self.special_tokens(text))

    def next_header_stops(self, conversation: Scenario) -> bool:
        """Whether generation stops at the special token that is the header of the next turn (GLM), and not at one of the answer's own."""
        behind = self._behind_answer(conversation)
        if self.closes_answers(conversation) or len(behind) != 1:
            return False
        # What opens the question behind the answer must open the first question too.
        before = self.special_tokens((self.text(self._plain(conversation)) or "").partition("Query1")[0])
        return [match.group() for match in before[-1:]] == behind

    def _behind_answer(self, conversation: Scenario) -> list[str]:
        """Return the special tokens between an answer and the question behind it."""
        followed = self.followed(self._plain(conversation)) or ""
        return [match.group() for match in self.special_tokens(followed.partition("Reply1")[2].partition("Query9")[0])]

    def plain_stop(self, conversation: Scenario) -> str:
        """Return the special token behind an answer that a user follows: what another answer begins with is no stop token."""
        return next(iter(self._behind_answer(conversation)), "")

    def closes_answers(self, conversation: Scenario) -> bool:
        """Whether the template itself writes a special token behind an answer, whatever follows."""
        form = _has_parts(conversation), bool(conversation.tools)
        if form not in self._closes:
            plain = self._plain(conversation)
            tails = [text.partition("Reply1")[2] for text in (self.text(plain), self.followed(plain)) if text is not None]
            self._closes[form] = bool(self.special_tokens(self.without_header(self.common(tails), plain)))
        return self._closes[form]

    def followed(self, conversation: Scenario) -> str | None:
        """Return what is written when one more question follows, None where the template does not take that."""
        return self.text(conversation.with_message(_in_form_of(conversation, FOLLOW_UP)))

    def _plain(self, conversation: Scenario) -> Scenario:
        """Return a question and an answer, in the form that the conversation has."""
        messages = ({"role": "user", "content": "Query1"}, {"role": "assistant", "content": "Reply1"})
        return Scenario("", tuple(_in_form_of(conversation, message) for message in messages), tools=conversation.tools)

    def between(self, conversation: Scenario) -> tuple[str, str]:
        """Return what ends a user's turn, with the white space behind it, and the assistant's header: nothing where one marker is both."""
        form = _has_parts(conversation), bool(conversation.tools), *sorted(conversation.options.items())
        if form not in self._between:
            self._between[form] = self._find_between(conversation)
        return self._between[form]

    def _find_between(self, conversation: Scenario) -> tuple[str, str]:
        asked = replace(self._plain(conversation).through(1), options=conversation.options)
        prompt, bare = (tail_of(self.text(asked, prompt=prompt) or "", asked.messages[0]) for prompt in (True, False))
        ended = self.common([prompt, bare])
        header = prompt[len(ended) :]
        special_tokens = [match.group() for match in self.special_tokens(header or prompt)]
        if header and len(special_tokens) > 1 and special_tokens[0] == self.plain_stop(conversation):
            # The last message is left open unless a prompt follows (Qwen1.5): the end marker came with the prompt.
            ended = prompt[: prompt.index(special_tokens[0], len(ended)) + len(special_tokens[0])]
        elif not header and len(special_tokens) > 1:  # a header whether one is asked for or not (Command-A)
            ended = prompt[: prompt.index(special_tokens[0]) + len(special_tokens[0])]
        elif not header and not special_tokens:
            ended = ""
        rest = prompt[len(ended) :]
        ended += rest[: len(rest) - len(rest.lstrip())]
        return ended, prompt[len(ended) :]

    def without_header(self, text: str, conversation: Scenario, *, of_others: bool = False) -> str:
        """Cut off a header that the template leaves dangling behind an answer (Command-A), or the beginning of one that others share."""
        header = self.between(conversation)[1]
        for opener in self.special_tokens(text) if header else ():
            rest = text[opener.start() :]
            role = header.removeprefix(opener.group())  # where the header begins with a token, and goes on, that opens others' turns too
            is_others = of_others and role != header and role.strip()
            if is_others or rest.startswith(header) or header.startswith(rest):
                return text[: opener.start()]
        return text


def common_prefix(texts: Sequence[str]) -> str:
    """Return the longest text that all of them begin with."""
    first, last = min(texts, default=""), max(texts, default="")  # in the order of letters: what these two share, all share
    return first[: next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def _has_parts(conversation: Scenario) -> bool:
    return isinstance(conversation.messages[0]["content"], list)


def _in_form_of(conversation: Scenario, message: Message) -> Message:
    """Return a message of text in the form that the messages of a conversation have."""
    return message | {"content": [{"type": "text", "text": message["content"]}]} if _has_parts(conversation) else message


def tail_of(text: str, message: Message) -> str:
    """Return what stands behind the last word of the message with which `text` ends."""
    return text[max((text.rfind(sentinel) + len(sentinel) for sentinel in sentinels(message) if sentinel in text), default=len(text)) :]


def _has_image(message: Message) -> bool:
    content = message["content"]
    return isinstance(content, list) and any(part["type"] == "image" for part in content)


def _without_image(message: Message) -> Message:
    if not _has_image(message):
        return message
    return message | {"content": [part for part in message["content"] if part["type"] != "image"]}


def looks_special(template: ChatTemplate) -> set[str]:
    """Return what looks like a special token, in a template and in what it writes: a guess, where no tokenizer tells."""
    texts = [template.source]
    for conversation in (SYSTEM, THREE_TURNS, TOOLS, REASONING, IMAGE):
        try:
            texts.append(Renderer(template, ()).put(conversation)[1])
        except UnsupportedScenarioError:
            continue
    return {token for text in texts for token in LOOKS_SPECIAL.findall(text)}

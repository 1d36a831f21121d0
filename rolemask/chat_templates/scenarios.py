"""The scenarios: small conversations that chat templates are asked to render.

Every content has a sentinel, a word of its own (``Query1``, ``Reply2``), to find it again in the rendered text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rolemask.chat_templates.template import Message
from rolemask.markers.lints import PROBE_WORD

THINKING_OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False}
THINKING_ON: dict[str, Any] = {"enable_thinking": True, "thinking": True}
THINKING_MODES: tuple[dict[str, Any], ...] = ({}, THINKING_OFF, THINKING_ON)
"""Options for reasoning: unset, off, on. A template uses one of the two names, or neither."""


@dataclass(frozen=True)
class Scenario:
    """Messages, tools and options for a template to render."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    may_drop_reasoning: bool = False
    """Whether a template may leave out the reasoning of earlier turns. It must render that of the last one."""

    def through(self, count: int) -> "Scenario":
        """Return the first `count` messages."""
        return replace(self, messages=self.messages[:count])

    def with_message(self, message: Message) -> "Scenario":
        """Return the scenario with one more message."""
        return replace(self, messages=(*self.messages, message))


def sentinels(message: Message) -> list[str]:
    """Return the sentinels in a message: in its reasoning, its content and its calls."""
    parts = [message.get("reasoning_content") or "", message.get("content") or "", *(message.get("tool_calls") or ())]
    return [sentinel for part in parts for sentinel in PROBE_WORD.findall(part if isinstance(part, str) else json.dumps(part))]


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


def _user(content: Any) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str, thought: str = "", calls: Sequence[int] = ()) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [_call(number) for number in calls]
    return message


def _call(number: int) -> dict[str, Any]:
    return {"type": "function", "id": f"callid{number:03}", "function": {"name": "get_weather", "arguments": {"city": f"Place{number}"}}}


def _result(number: int) -> Message:
    return {"role": "tool", "name": "get_weather", "tool_call_id": f"callid{number:03}", "content": f"Result{number}"}


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "a city"}}, "required": ["city"]},
    },
}
_CODE = "```python\ndef {}(x):\n    return {{'a': x}}  # <tag>\n```"

FOLLOW_UP = _user("Query9?")
"""A question to append, to see what a template renders after an answer that is not the last."""


def _tools(name: str, *messages: Message) -> Scenario:
    return Scenario(name, messages, tools=(_WEATHER,))


def _plain(name: str, *contents: str) -> Scenario:
    """Return a scenario in which user and assistant alternate."""
    return Scenario(name, tuple((_assistant if index % 2 else _user)(content) for index, content in enumerate(contents)))


ONE_TURN = _plain("one turn", "Query1", "Reply1!")
THREE_TURNS = _plain("three turns", "Query1?", "Reply1.", "Query2?", "Reply2.", "Query3?", "Reply3.")
SYSTEM = Scenario("system", (_system("Order1."), _user("Query1?"), _assistant("Reply1."), _user("Query2?"), _assistant("Reply2.")))
TOOLS = _tools(
    "tools", _user("Query1?"), _assistant("", calls=[1]), _result(1), _assistant("Reply1."), _user("Query2"), _assistant("Reply2")
)
REASONING = Scenario("reasoning", (_user("Query1?"), _assistant("Reply1.", "Thought1.")))
REASONING_AND_TOOLS = Scenario(
    "reasoning and tools",
    (_user("Query1?"), _assistant("", "Thought1.", calls=[1]), _result(1), _assistant("Reply1.", "Thought2.")),
    tools=(_WEATHER,),
    may_drop_reasoning=True,
)
IMAGE = Scenario(
    "image",
    (_user([{"type": "image"}, {"type": "text", "text": "Query1?"}]), _assistant("Reply1."), _user("Query2?"), _assistant("Reply2.")),
)
ANSWERS_IN_A_ROW = Scenario(
    "answers in a row", (_user("Query1."), _assistant("Reply1."), _assistant("Reply2."), _user("Query2."), _assistant("Reply3."))
)
SYSTEM_IN_THE_MIDDLE = Scenario(
    "a system turn in the middle",
    (_user("Query1?"), _assistant("Reply1."), _system("Order1."), _user("Query2?"), _assistant("Reply2.")),
)
# Chats in which questions and answers do not simply alternate.
UNEVEN: tuple[Scenario, ...] = (
    Scenario("two questions in a row", (_user("Query1?"), _user("Query2?"), _assistant("Reply1."))),
    Scenario("two questions, an answer, a question", (_user("Query1?"), _user("Query2?"), _assistant("Reply1."), _user("Query3?"))),
    SYSTEM_IN_THE_MIDDLE,
    Scenario("an answer that opens the chat", (_assistant("Reply1."), _user("Query1?"), _assistant("Reply2."))),
    _plain("a question at the end", "Query1?", "Reply1.", "Query2?"),
)

SCENARIOS: tuple[Scenario, ...] = (
    ONE_TURN,
    THREE_TURNS,
    SYSTEM,
    _plain("code", _CODE.format("Query1"), _CODE.format("Reply1"), "Query2", "Reply2:\n\nx\n\ny."),
    _plain("CJK", "你好 Query1，世界！", "こんにちは Reply1。", "안녕 Query2", "您 Reply2 好！"),
    _plain("emoji", "👋🏽 Query1", "🎉Reply1👨‍👩‍👧‍👦", "✅ Query2", "🙂Reply2🙂"),
    _plain("newlines at the edges", "\n- Query1\n\n", "\n\nReply1\n", "\nQuery2", "\tReply2 \n\n"),
    _plain("blanks at the edges", "  Query1  ", " Reply1 ", " Query2", "   Reply2   "),
    _plain("punctuation at the edges", "...Query1?!", "...Reply1?", "-Query2", "- Reply2\n- b."),
    _plain("an empty answer", "Query1.", "", "Query2.", "Reply2."),
    ANSWERS_IN_A_ROW,
    TOOLS,
    _tools(
        "two tool results",
        *(_user("Query1?"), _assistant("", calls=[1]), _result(1), _assistant("", calls=[2]), _result(2), _assistant("Reply1.")),
    ),
    _tools("parallel calls", _user("Query1?"), _assistant("", calls=[1, 2]), _result(1), _result(2), _assistant("Reply1.")),
    _tools("words before a call", _user("Query1?"), _assistant("Reply1.", calls=[1]), _result(1), _assistant("Reply2.")),
    _tools("a call at the end", _user("Query1?"), _assistant("", calls=[1])),
    REASONING,
    Scenario("reasoning off", (_user("Query1?"), _assistant("Reply1.")), options=THINKING_OFF),
    Scenario("reasoning on, none given", (_user("Query1?"), _assistant("Reply1.")), options=THINKING_ON),
    Scenario(
        "reasoning in earlier turns",
        (_user("Query1?"), _assistant("Reply1.", "Thought1."), _user("Query2?"), _assistant("Reply2.", "Thought2.")),
        may_drop_reasoning=True,
    ),
    REASONING_AND_TOOLS,
    IMAGE,
    *UNEVEN,
)
"""All scenarios of `rolemask verify`. Proofs quote their names: don't rename them."""


def forms_of(scenario: Scenario) -> Iterator[list[Scenario]]:
    """Yield the scenario in each form that templates expect: content as text or as parts, arguments as a mapping or as JSON text.

    Each item is one scenario, or two if there are tool calls: a message with calls only has an empty text as its content, or None.

    Reasoning is given under three names, as Transformers does, or as a part of the content (Ministral 3). The last forms of a scenario
    without tools have one, for templates that need tools.
    """
    has_calls = any("tool_calls" in message for message in scenario.messages)
    has_reasoning = any("reasoning_content" in message for message in scenario.messages)
    for tools in (scenario.tools,) if scenario.tools else ((), (_WEATHER,)):
        for content in ("text", "parts", "reasoning as parts") if has_reasoning else ("text", "parts"):
            for arguments_as_json in (False, True) if has_calls else (False,):
                yield [
                    replace(
                        scenario,
                        messages=tuple(
                            _reformat(message, content, arguments_as_json=arguments_as_json, empty=empty) for message in scenario.messages
                        ),
                        tools=tools,
                    )
                    for empty in (("", None) if has_calls else ("",))
                ]


def _reformat(message: Message, content: str, *, arguments_as_json: bool, empty: str | None) -> Message:
    message = dict(message)
    if "tool_calls" in message:
        message["content"] = message["content"] or empty
        if arguments_as_json:
            message["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
    if content != "text" and isinstance(message["content"], str):
        message["content"] = [{"type": "text", "text": message["content"]}]
    if "reasoning_content" in message:
        message |= {"reasoning": message["reasoning_content"], "thinking": message["reasoning_content"]}
        if content == "reasoning as parts":
            message["content"] = [{"type": "thinking", "thinking": message["reasoning_content"]}, *(message["content"] or ())]
    return message

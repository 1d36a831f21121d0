"""Conversations of many shapes, which a chat template is asked to write.

Every content holds one word of its own (``Query1``, ``Reply2``), by which it is found again in what the template writes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rolemask.chat_templates.template import Message

# A digit, so that no template has the word by itself; a capital, so that a word is not part of another.
_CORE = re.compile(r"(?:Order|Query|Reply|Thought|Place|Result)\d")

THINKING_OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False}
THINKING_ON: dict[str, Any] = {"enable_thinking": True, "thinking": True}
SWITCHES: tuple[dict[str, Any], ...] = ({}, THINKING_OFF, THINKING_ON)
"""What can be told a template about reasoning: nothing, off, on. Each template knows one of the names, or neither."""


@dataclass(frozen=True)
class Scenario:
    """Messages, the tools a template is told of, and its options. `name` is the shape's."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    may_lose_thoughts: bool = False
    """Templates drop the reasoning of earlier turns: only the last one has to be there."""

    def through(self, count: int) -> "Scenario":
        """Return the first `count` messages."""
        return replace(self, messages=self.messages[:count])

    def with_message(self, message: Message) -> "Scenario":
        """Return the conversation with one more message."""
        return replace(self, messages=(*self.messages, message))


def sentinels(message: Message) -> list[str]:
    """Return the words by which a message is found: of its reasoning, its content, its calls."""
    parts = [message.get("reasoning_content") or "", message.get("content") or "", *(message.get("tool_calls") or ())]
    return [sentinel for part in parts for sentinel in _CORE.findall(part if isinstance(part, str) else json.dumps(part))]


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
"""What is asked after a conversation, to see how a template goes on behind an answer."""


def _tools(name: str, *messages: Message) -> Scenario:
    return Scenario(name, messages, tools=(_WEATHER,))


def _plain(name: str, *contents: str) -> Scenario:
    """Return user and assistant by turns."""
    return Scenario(name, tuple((_assistant if index % 2 else _user)(content) for index, content in enumerate(contents)))


THREE_TURNS = _plain("three turns", "Query1?", "Reply1.", "Query2?", "Reply2.", "Query3?", "Reply3.")
SYSTEM = Scenario("system", (_system("Order1."), _user("Query1?"), _assistant("Reply1."), _user("Query2?"), _assistant("Reply2.")))
TOOLS = _tools(
    "tools", _user("Query1?"), _assistant("", calls=[1]), _result(1), _assistant("Reply1."), _user("Query2"), _assistant("Reply2")
)
REASONING = Scenario("reasoning", (_user("Query1?"), _assistant("Reply1.", "Thought1.")))
IMAGE = Scenario(
    "image",
    (_user([{"type": "image"}, {"type": "text", "text": "Query1?"}]), _assistant("Reply1."), _user("Query2?"), _assistant("Reply2.")),
)

SCENARIOS: tuple[Scenario, ...] = (
    _plain("one turn", "Query1", "Reply1!"),
    THREE_TURNS,
    SYSTEM,
    _plain("code", _CODE.format("Query1"), _CODE.format("Reply1"), "Query2", "Reply2:\n\nx\n\ny."),
    _plain("CJK", "你好 Query1，世界！", "こんにちは Reply1。", "안녕 Query2", "您 Reply2 好！"),
    _plain("emoji", "👋🏽 Query1", "🎉Reply1👨‍👩‍👧‍👦", "✅ Query2", "🙂Reply2🙂"),
    _plain("newlines at the edges", "\n- Query1\n\n", "\n\nReply1\n", "\nQuery2", "\tReply2 \n\n"),
    _plain("blanks at the edges", "  Query1  ", " Reply1 ", " Query2", "   Reply2   "),
    _plain("punctuation at the edges", "...Query1?!", "...Reply1?", "-Query2", "- Reply2\n- b."),
    _plain("an empty answer", "Query1.", "", "Query2.", "Reply2."),
    Scenario("answers in a row", (_user("Query1."), _assistant("Reply1."), _assistant("Reply2."), _user("Query2."), _assistant("Reply3."))),
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
        may_lose_thoughts=True,
    ),
    Scenario(
        "reasoning and tools",
        (_user("Query1?"), _assistant("", "Thought1.", calls=[1]), _result(1), _assistant("Reply1.", "Thought2.")),
        tools=(_WEATHER,),
        may_lose_thoughts=True,
    ),
    IMAGE,
)
"""Every shape that `rolemask verify` asks for."""


def forms_of(conversation: Scenario) -> Iterator[list[Scenario]]:
    """Yield the conversation in the forms that templates want it in: text or lists of parts, arguments as a mapping or as JSON text.

    Each form is one conversation, or two: with an empty text as the content of a message that is all calls, and with none.

    Reasoning goes by three names, all of which are given, as Transformers does; or it is a part of the content (Ministral 3). A template
    that cannot do without tools is given one, last.
    """
    has_calls = any("tool_calls" in message for message in conversation.messages)
    has_thoughts = any("reasoning_content" in message for message in conversation.messages)
    for tools in (conversation.tools,) if conversation.tools else ((), (_WEATHER,)):
        for form in ("text", "parts", "thoughts as parts") if has_thoughts else ("text", "parts"):
            for as_text in (False, True) if has_calls else (False,):
                yield [
                    replace(
                        conversation,
                        messages=tuple(_put(message, form, as_text=as_text, empty=empty) for message in conversation.messages),
                        tools=tools,
                    )
                    for empty in (("", None) if has_calls else ("",))
                ]


def _put(message: Message, form: str, *, as_text: bool, empty: str | None) -> Message:
    put = dict(message)
    if "tool_calls" in put:
        put["content"] = put["content"] or empty
        if as_text:
            put["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
                for call in put["tool_calls"]
            ]
    if form != "text" and isinstance(put["content"], str):
        put["content"] = [{"type": "text", "text": put["content"]}]
    if "reasoning_content" in put:
        put |= {"reasoning": put["reasoning_content"], "thinking": put["reasoning_content"]}
        if form == "thoughts as parts":
            put["content"] = [{"type": "thinking", "thinking": put["reasoning_content"]}, *(put["content"] or ())]
    return put

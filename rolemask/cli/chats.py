"""Chats for `rolemask explain`: read from a file, rendered with a model's chat template or with the markers alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rolemask.errors import ChatError
from rolemask.markers.source import read_text
from rolemask.markers.spec import EndWord, Marker, MarkerSet, Pattern, TokenIds
from rolemask.matching.toy_tokenizer import DEFAULT_EOS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


@dataclass(frozen=True)
class Chat:
    """A list of messages, and the tools that are passed to the chat template."""

    messages: list[Message]
    tools: list[Any] = field(default_factory=list)


def read_chats(path: Path) -> list[Chat]:
    """Read a list of messages, ``{"messages": [...], "tools": [...]}``, or JSON Lines of these.

    Raises:
        FileReadError: The file cannot be read.
        ChatError: The file holds no chat; the error names the line and the message.
    """
    text = read_text(path)
    try:
        documents = [(1, json.loads(text))]
    except json.JSONDecodeError as whole_file:
        documents = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                documents.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                # If no line so far was JSON, the file is one broken document rather than broken JSON Lines.
                broken, line_number = (error, number) if documents else (whole_file, whole_file.lineno)
                raise ChatError(f"{path}:{line_number}:{broken.colno}: is neither JSON nor JSON Lines: {broken.msg}") from error
    if not documents:
        raise ChatError(f"{path}: is empty, expected a list of messages")
    return [_read_chat(document, f"{path}:{number}") for number, document in documents]


def _read_chat(document: object, where: str) -> Chat:
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not messages:
        raise ChatError(f'{where}: found {_kind(messages)}, expected a list of messages, or {{"messages": [...], "tools": [...]}}')
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ChatError(f'{where}: message {index} is {_kind(message)}, expected {{"role": "user", "content": "..."}}')
    return Chat(messages, (document.get("tools") or []) if isinstance(document, dict) else [])


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value)) or 'none'}"
    return {list: "an empty list", type(None): "nothing"}.get(type(value), f"{value!r:.40}")


def render_with_tokenizer(chat: Chat, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the token ids of a chat, rendered with the tokenizer's own chat template.

    Raises:
        ChatError: There is no template, or it refuses this chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ChatError(f"{tokenizer.name_or_path}: has no chat template; leave out --tokenizer to render the chat with the markers")
    try:
        text = tokenizer.apply_chat_template(chat.messages, tools=chat.tools or None, tokenize=False)
    except Exception as error:  # a template can raise anything
        raise ChatError(f"the chat template of {tokenizer.name_or_path} refuses this chat: {error}") from error
    # The template writes BOS itself, so nothing is added here.
    return list(tokenizer.encode(text, add_special_tokens=False))


def render_with_markers(chat: Chat, markers: MarkerSet) -> str:
    """Render a chat with the first alternative of each marker: what a template would write, without its own words and white space.

    Raises:
        ChatError: A message has a role without a marker, or the markers are ids.
    """
    writer = _Writer(markers)
    for message in chat.messages:
        writer.add(message)
    return writer.finish()


class _Writer:
    """Writes messages as turns. A turn stays open until the next message shows whether it goes on, as after a tool result inside it."""

    def __init__(self, markers: MarkerSet) -> None:
        self.markers = markers
        self.parts: list[str] = []
        self.open: Marker | None = None
        self.goes_on = False
        self.preamble = ""

    def add(self, message: Message) -> None:
        role = message["role"]
        if self.goes_on and role == "assistant":
            self.parts.append(self._body(message))
            self.goes_on = False
            return
        turn, span = self._marker(role, is_span=False), self._marker(role, is_span=True)
        if turn is None and span is None and role == "system":
            # Templates without a system turn, such as Gemma's and Mistral's, put the system message into the next turn.
            self.preamble += f"{_content(message)}\n\n"
            return
        if turn is None and span is None:
            known = ", ".join(self.markers.roles)
            raise ChatError(
                f"{self.markers.name!r} has no marker for the role {role!r}; it has {known}. Pass --tokenizer to use the model's template"
            )
        if turn is None and span is not None:
            host = self._marker(str(span.within), is_span=False)
            if host is not None and (self.open is None or self.open.role != host.role):
                self._start(host)
            self.parts.append(self._wrap(span, _content(message)))
            self.goes_on = span.within == "assistant"
        elif turn is not None:
            self._start(turn)
            self.parts.append(self._body(message))

    def finish(self) -> str:
        if self.open is not None:
            self.parts.append(self._end(self.open))
        return "".join(self.parts)

    def _marker(self, role: str, *, is_span: bool) -> Marker | None:
        return next((marker for marker in self.markers.markers if marker.role == role and (marker.within is not None) == is_span), None)

    def _start(self, turn: Marker) -> None:
        starts = [self._text(start) for start in turn.start]
        start = starts[0]
        if self.open is not None:
            shared = [start for start in starts for end in self._ends(self.open) if self.open.rewind and start.startswith(end)]
            if shared:
                start = shared[0]  # one marker ends the previous turn and starts this one, so it is written once
            else:
                self.parts.append(self._end(self.open))
        self.parts.append(start + (self._text(turn.header_end[0]) if turn.header_end else "") + self.preamble)
        self.open, self.goes_on, self.preamble = turn, False, ""

    def _ends(self, marker: Marker) -> list[str]:
        return [self._text(end) for end in marker.end if end is not EndWord.NEXT_START]

    def _end(self, marker: Marker) -> str:
        return next(iter(self._ends(marker)), "")

    def _text(self, pattern: Pattern | EndWord) -> str:
        if pattern is EndWord.EOS_TOKEN:
            return self.markers.eos_token or DEFAULT_EOS
        if isinstance(pattern, TokenIds):
            raise ChatError(f"{self.markers.name!r} gives the marker {pattern} as ids. Pass --tokenizer to use the model's template")
        return str(pattern)

    def _body(self, message: Message) -> str:
        parts = [_content(message)]
        if reasoning := message.get("reasoning_content"):
            parts.insert(0, self._wrap(self._marker("reasoning", is_span=True), str(reasoning)))
        for call in message.get("tool_calls") or []:
            parts.append(self._wrap(self._marker("tool_call", is_span=True), json.dumps(call.get("function", call), ensure_ascii=False)))
        return "".join(parts)

    def _wrap(self, span: Marker | None, text: str) -> str:
        return text if span is None else f"{self._text(span.start[0])}{text}{self._end(span)}"


def _content(message: Message) -> str:
    """Return the text of a message; if the content is a list of parts, the text parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)

"""Deriving a marker set from a chat template: conversations of known words are written, and what stands around the words is read off.

What the model generates is told by `rolemask.truth`; the markers are what stands between. What comes out is held to the template like
any other set, and what does not agree is told.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolemask.conversations import CONVERSATIONS, IMAGE, REASONING, SWITCHES, SYSTEM, THREE_TURNS, TOOLS, Conversation
from rolemask.errors import ChatError, MarkerSetError, RoleMaskError
from rolemask.parse import parse_marker_set
from rolemask.source import read_source
from rolemask.spec import MarkerSet
from rolemask.template import ChatTemplate, read_templates, templates_of
from rolemask.truth import LOOKS_SPECIAL, NotWrittenError, Oracle, Truth, common_prefix, looks_special, region_texts
from rolemask.verification import verify
from rolemask.vocabulary import read_vocabulary

_TAG = r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])"


@dataclass(frozen=True)
class Inference:
    """What was derived from a template.

    Attributes:
        text: The marker set as YAML.
        markers: The same, loaded.
        unsettled: What could not be settled, in words; empty where everything agrees.
    """

    text: str
    markers: MarkerSet
    unsettled: tuple[str, ...]


@dataclass
class _Draft:
    """One marker, as it will be written."""

    role: str
    start: list[str]
    end: list[str] | None
    extra: dict[str, Any] = field(default_factory=dict)


def infer(source: Any, *, name: str = "inferred") -> Inference:
    """Derive a marker set from a chat template.

    Args:
        source: A tokenizer or processor with a chat template; or a template: its text, or the path of a file of it.
        name: The name of the set.

    Raises:
        ChatError: There is no template, or it does not even write a user's question and an answer.
        FileReadError: The template's file cannot be read.
    """
    if isinstance(source, (str, Path, ChatTemplate)):
        tokenizer = None
        template = source if isinstance(source, ChatTemplate) else read_templates(source, {"bos_token": "<s>", "eos_token": "</s>"})[0]
        controls = looks_special(template)
    else:
        tokenizer = source
        templates = templates_of(tokenizer)
        if not templates:
            raise ChatError(f"{type(tokenizer).__name__} has no chat template to derive a marker set from")
        template = templates[0]
        controls = set(read_vocabulary(tokenizer).controls)
    reader = _Reader(template, controls)
    drafts, media = reader.read()
    text = _write(name, template, drafts, media, reader)
    try:
        markers = parse_marker_set(read_source(text, f"{name}.yaml"))
    except MarkerSetError as error:
        raise ChatError(f"{template.name}: what was derived is no marker set: {error}\n{text}") from error
    unsettled = [*reader.unsettled]
    try:
        for shape in verify(markers, tokenizer, template)[0].shapes:
            if shape.status == "differs":
                unsettled.append(f"{shape.shape}: {shape.detail}")
    except RoleMaskError as error:
        unsettled.append(str(error))
    return Inference(text, markers, tuple(unsettled))


class _Reader:
    """Reads the markers off what one template writes."""

    def __init__(self, template: ChatTemplate, controls: Iterable[str]) -> None:
        self.template = template
        self.oracle = Oracle(template, controls)
        self.unsettled: list[str] = []
        self.eos = str(template.variables.get("eos_token") or "")
        self.bos = str(template.variables.get("bos_token") or "")

    def read(self) -> tuple[list[_Draft], list[str]]:
        """Return the markers and the image tokens."""
        try:
            self.plain = self.oracle.tell(THREE_TURNS)
        except NotWrittenError as reason:
            raise ChatError(f"{self.template.name}: does not write three questions and answers: {reason}") from reason
        self._read_turns()
        drafts = [self.user, self.assistant]
        for draft in (*self._system(), *self._tool()):
            same = next((known.role for known in drafts if set(known.start) & set(draft.start)), None)
            if same is None or "within" in draft.extra:
                drafts.append(draft)
            else:
                self.unsettled.append(f"a turn of {draft.role} begins with what one of {same} begins with: {draft.start[0]!r}")
        drafts += self._spans()
        return drafts + self._other(drafts), self._images()

    # --- the turns of user and assistant

    def _read_turns(self) -> None:
        text, regions = self.plain.text, self.plain.regions
        after_query = [_end_of(text, f"Query{number}?") for number in (1, 2, 3)]
        after_reply = [_end_of(text, f"Reply{number}.") for number in (1, 2, 3)]
        before_query = [text.index(f"Query{number}?") for number in (1, 2, 3)]
        put = self.oracle.put(THREE_TURNS)[0]
        self.closes = not self.oracle.next_header_stops(put)
        stops = [text[reply:stop] for reply, (_, stop) in zip(after_reply, regions, strict=True)]
        # Behind the stop token, or, where the next header is it, behind the answer itself.
        begins = [stop if self.closes else reply for reply, (_, stop) in zip(after_reply, regions, strict=True)]
        headers = [text[: before_query[0]], *(text[begin:query] for begin, query in zip(begins, before_query[1:], strict=False))]
        shared = _common_suffix(headers)
        user_start = self._from_control(shared)
        between = [text[query:start] for query, (start, _) in zip(after_query, regions, strict=True)]
        stop = next((stop.strip() for stop in stops if stop.strip()), "")
        if not user_start:
            raise ChatError(f"{self.template.name}: nothing stands before a user's words by which they could be told")
        user_end, header = self.oracle.between(put)
        starts = dict.fromkeys(part.removeprefix(user_end) for part in between if part.startswith(user_end) and part != user_end)
        starts |= dict.fromkeys(prompt for prompt in self._prompts(user_end) if prompt)
        if not header:
            starts = {}
        self.user = _Draft("user", [user_start], self._end(user_end))
        if not starts:  # what ends the user's turn is what starts the assistant's (Mistral)
            shared_marker = user_end.strip() or user_end
            self.user.end = [shared_marker]
            self.user.extra["include_end"] = False
            starts = {shared_marker: None}
        elif self.user.end == ["next_start"]:
            self.user.extra["include_end"] = False
        self.assistant = _Draft("assistant", list(starts), None)
        if not stop:
            self.assistant.end = ["next_start"]
            self.unsettled.append("the template writes no stop token behind an answer, so none is trained")
        elif self.closes:
            self.assistant.end = (
                ["eos_token"] if stop == self.eos and stop else list(dict.fromkeys(one.strip() for one in stops if one.strip()))
            )
        else:
            # The stop token is what the next turn begins with; another turn may begin with another one.
            self.assistant.end = list(dict.fromkeys(one.strip() for one in stops if one.strip()))
            if user_start.startswith(stop):
                self.assistant.extra["rewind"] = True

    def _tails(self) -> list[tuple[str, str]]:
        """Return what stands behind a question with the generation prompt, and without; reasoning not spoken of, off and on."""
        asked = self.oracle.put(Conversation("", THREE_TURNS.messages[:1]))[0]
        found = []
        for switch in SWITCHES:
            prompt, bare = self.oracle.text(asked, prompt=True, **switch), self.oracle.text(asked, **switch)
            if prompt is not None and bare is not None:
                found.append((prompt.partition("Query1?")[2], bare.partition("Query1?")[2]))
        return found

    def _prompts(self, user_end: str) -> list[str]:
        """Return the headers that the generation prompts supply. A switch may write into the user's words, before their end."""
        found = []
        for prompt, bare in self._tails():
            ended = self.oracle.common([prompt, bare])
            found.append(prompt.removeprefix(user_end) if prompt.startswith(user_end) and user_end else prompt[len(ended) :].lstrip())
        return found

    def _end(self, text: str) -> list[str]:
        """Return the end marker that a text between two turns begins with: through its first control token."""
        controls = self._controls_of(text)
        if controls:
            return [text[: text.index(controls[0]) + len(controls[0])].lstrip()]
        return ["next_start"]

    def _controls_of(self, text: str) -> list[str]:
        return [match.group() for match in self.oracle.controls(text)]

    def _from_control(self, header: str) -> str:
        """Cut what stands before a header: the BOS token, white space."""
        header = header.removeprefix(self.bos) if self.bos else header
        return header.lstrip() or header

    # --- the other roles

    def _system(self) -> list[_Draft]:
        try:
            text = self.oracle.tell(SYSTEM).text
        except NotWrittenError:
            return []
        before, after = text.partition("Order1.")[0], text.partition("Order1.")[2].partition("Query1?")[0]
        before = before.removeprefix(self.plain.text.partition("Query1?")[0].removesuffix(self.user.start[0]))
        start = self._from_control(before)
        user_start = self.user.start[0]
        if before.endswith(user_start) or not start.strip():
            return []  # written into the user's turn, or with nothing around it
        controls = self._controls_of(start)
        if len(controls) > 2 or len(start) > 80:
            # A long default preamble: the header is what the user's looks like, with another word.
            start = self._like_user(start) or start
        end = self._end(after.removesuffix(user_start))
        extra: dict[str, Any] = {"include_end": False} if end == ["next_start"] else {}
        return [_Draft("system", [start], end, extra)]

    def _like_user(self, text: str) -> str | None:
        """Return the first header in `text` that is the user's with another word in the place of ``user``."""
        start = self.user.start[0]
        found = re.search("user", start, re.IGNORECASE)
        if found is None:
            return None
        pattern = re.escape(start[: found.start()]) + r"\w+" + re.escape(start[found.end() :])
        match = re.search(pattern, text)
        return None if match is None or match.group() == start else match.group()

    def _tool(self) -> list[_Draft]:
        try:
            truth = self.oracle.tell(TOOLS)
        except NotWrittenError:
            return []
        text, (call, answer) = truth.text, truth.regions[:2]
        at = text.index("Result1")
        before, after = text[call[1] : at], text[at + len("Result1") : answer[0]]
        user_start = self.user.start[0]
        stopped_at = self._stop_of(text[call[0] : call[1]])
        has_header = any(after.endswith(start) for start in self.assistant.start if start.strip())
        if before.lstrip().startswith(user_start):
            inner = before.lstrip().removeprefix(user_start).strip()
            opening = re.match(_TAG, inner)
            closing = re.match(rf"\s*({_TAG})", after)
            if opening is None or closing is None:
                return []
            return [_Draft("tool", [opening.group()], [closing.group(1)], {"within": "user"})]
        header = self._like_user(before.lstrip())
        if header is None and not has_header and stopped_at and before.strip() and not self._controls_of(before):
            # No header before the result, none behind it: it stands inside the assistant's turn.
            end = self._end(after)
            return [_Draft("tool", [stopped_at], end, {"within": "assistant", "start_owner": "turn"})]
        stop = stopped_at or "next_start"
        if not ({stop, "eos_token" if stop == self.eos else stop, "next_start"} & set(self.assistant.end or ())):
            self.assistant.end = [*(self.assistant.end or ()), stop]  # a call may stop at another token (gpt-oss)
        if header is None:
            controls = self._controls_of(before)
            if controls:
                header = before[before.index(controls[0]) :]
                run = re.match("(?:" + "|".join(map(re.escape, dict.fromkeys(controls))) + r")+\s*", header)
                header = run.group() if run else header
            elif not self.closes and stopped_at:
                header = stopped_at
            else:
                self.unsettled.append(f"what a tool's result begins with: {before!r}")
                return []
        if not self.closes and stopped_at and not header.startswith(stopped_at):
            header = stopped_at + header
        if (
            not self.closes
            and stopped_at
            and self.assistant.end not in (None, ["next_start"])
            and stopped_at not in (self.assistant.end or [])
        ):
            assert self.assistant.end is not None
            self.assistant.end.append(stopped_at)
        if has_header:
            end = self._end(next(after.removesuffix(start) for start in self.assistant.start if after.endswith(start)))
            extra: dict[str, Any] = {"include_end": False} if end == ["next_start"] else {}
            return [_Draft("tool", [header], end, extra)]
        marker = next(reversed(self._controls_of(after)), "")
        if not marker:
            self.unsettled.append(f"what a tool's result ends with: {after!r}")
            return []
        # The assistant goes on behind the result without a header: what ends the result starts its turn.
        self.assistant.start.append(marker)
        return [_Draft("tool", [header], [marker], {"include_end": False})]

    # --- spans, and what else there is

    def _spans(self) -> list[_Draft]:
        drafts = []
        thought = self._stretch(REASONING, "Thought1.", "Reply1.")
        if thought is not None:
            drafts.append(_Draft("reasoning", [thought[0]], [thought[1]], {"within": "assistant", "follows_turn": True}))
        call = self._call()
        if call is not None:
            drafts.append(_Draft("tool_call", [call[0]], call[1], {"within": "assistant", "follows_turn": True}))
        return drafts

    def _stretch(self, conversation: Conversation, words: str, following: str) -> tuple[str, str] | None:
        """Return what stands around the words of a stretch inside the answer, white space at the edges left out."""
        try:
            truth = self.oracle.tell(conversation)
        except NotWrittenError:
            return None
        start, _ = truth.regions[0]
        at, then = truth.text.index(words), truth.text.index(following)
        if not start <= at < then:
            return None
        opening, closing = truth.text[start:at].strip(), truth.text[at + len(words) : then].strip()
        if not opening:  # the prompt has opened it already
            header = next((one for one in sorted(self.assistant.start, key=len, reverse=True) if truth.text[:start].endswith(one)), "")
            opened = re.search(rf"({_TAG})\s*$", header)
            opening = opened.group(1) if opened else ""
        ends = self.assistant.end or []
        if closing and not any(closing.startswith(end) for end in ends):
            first = self._controls_of(closing) or [closing]
            closing = (
                closing.split("\n")[0]
                if closing.startswith("<") and "\n" in closing
                else closing[: closing.index(first[0]) + len(first[0])]
            )
        return (opening, closing) if opening and closing else None

    def _call(self) -> tuple[str, list[str] | None] | None:
        try:
            truth = self.oracle.tell(TOOLS)
        except NotWrittenError:
            return None
        start, stop = truth.regions[0]
        region = truth.text[start:stop]
        opening = re.match(rf"\s*({_TAG})", region)
        if opening is None:
            return None
        if opening.group(1) in (self.oracle.put(REASONING)[1] if self._writes(REASONING) else ""):
            return None  # an empty reasoning block stands first
        closing = re.search(rf"({_TAG})\s*$", region.removesuffix(self._stop_of(region)))
        if closing is None or region.index(closing.group(1)) < region.index("Place1"):
            return opening.group(1), None
        return opening.group(1), [closing.group(1)]

    def _stop_of(self, region: str) -> str:
        controls = self._controls_of(region)
        return controls[-1] if controls and region.endswith(controls[-1]) else ""

    def _writes(self, conversation: Conversation) -> bool:
        try:
            self.oracle.put(conversation)
        except NotWrittenError:
            return False
        return True

    def _other(self, drafts: Sequence[_Draft]) -> list[_Draft]:
        """A role that nobody declared must end the turn before it, where the headers have a common opening."""
        turns = [draft for draft in drafts if "within" not in draft.extra]
        openings = {next(iter(self._controls_of(start)), "") for draft in turns for start in draft.start}
        opening = openings.pop() if len(openings) == 1 else ""
        starts = [start for draft in turns for start in draft.start]
        if not opening or opening in starts or not all(start.startswith(opening) for start in starts):
            return []
        return [_Draft("other", [opening], self.assistant.end, dict(self.assistant.extra))]

    def _images(self) -> list[str]:
        try:
            text = self.oracle.tell(IMAGE).text
        except NotWrittenError:
            return []
        piece = text.partition("Query1?")[0]
        piece = piece[piece.rfind(self.user.start[0]) + len(self.user.start[0]) :] if self.user.start[0] in piece else piece
        found = [tag for tag in re.findall(rf"{LOOKS_SPECIAL.pattern}|{_TAG}", piece) if tag not in (self.bos, *self.user.start)]
        if not found:
            self.unsettled.append(f"which tokens stand for an image: {piece!r}")
        return list(dict.fromkeys(found))


def _end_of(text: str, words: str) -> int:
    return text.index(words) + len(words)


def _common_suffix(texts: Sequence[str]) -> str:
    return common_prefix([text[::-1] for text in texts])[::-1]


def _write(name: str, template: ChatTemplate, drafts: Sequence[_Draft], media: Sequence[str], reader: _Reader) -> str:
    """Write the YAML of a marker set."""
    texts = [part for draft in drafts for part in (*draft.start, *(draft.end or ()))]
    controls = dict.fromkeys(match.group() for text in texts for match in reader.oracle.controls(text))
    uses_eos = any(draft.end and "eos_token" in draft.end for draft in drafts)
    lines = ["# yaml-language-server: $schema=../schemas/marker-set.schema.json", f"name: {name}"]
    if controls:
        lines.append(f"special_tokens: {_flow(list(controls))}")
    if uses_eos:
        lines.append(f"eos_token: {_quoted(reader.eos)}")
    lines.append("markers:")
    for draft in drafts:
        lines.append(f"  - role: {draft.role}")
        if "within" in draft.extra:
            lines.append(f"    within: {draft.extra['within']}")
        lines.append(f"    start: {_one_or_list(draft.start)}")
        lines.append(f"    end: {'null' if draft.end is None else _one_or_list(draft.end)}")
        lines += [
            f"    {key}: {json.dumps(value) if isinstance(value, bool) else value}" for key, value in draft.extra.items() if key != "within"
        ]
    if media:
        lines.append(f"media: {{image: {_flow(media)}}}")
    lines.append("source:                              # name it: repository and revision of the chat template")
    lines.append(f"  repository: {_quoted(template.name)}")
    lines.append(f"  note: derived by `rolemask infer` from the template with SHA-256 {template.sha256[:16]}")
    lines.append("examples:")
    for truth in _examples(reader.oracle):
        lines.append(f"  - text: {_quoted(truth.text)}")
        lines.append(f"    trained: {_flow(region_texts(truth))}")
    return "\n".join(lines) + "\n"


def _examples(oracle: Oracle) -> list[Truth]:
    """Return what the template writes for several turns, and for what is special about it."""
    found = []
    for conversation in (SYSTEM, THREE_TURNS, TOOLS, CONVERSATIONS[-2]):
        try:
            truth = oracle.tell(conversation)
        except NotWrittenError:
            continue
        if len(truth.text) < 4000:
            found.append(truth)
    return [found[0], found[-1]] if len(found) > 1 else found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _one_or_list(texts: Sequence[str]) -> str:
    return _quoted(texts[0]) if len(texts) == 1 else _flow(texts)

"""Reading markers off what a chat template writes: headers and ends stand between words that are known.

What the model generates is told by `rolemask.chat_templates.ground_truth`; the markers are what stands between.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder
from rolemask.chat_templates.rendering import LOOKS_SPECIAL, AmbiguousScenarioError, UnsupportedScenarioError, common_prefix
from rolemask.chat_templates.scenarios import IMAGE, REASONING, SWITCHES, SYSTEM, THREE_TURNS, TOOLS, Scenario
from rolemask.chat_templates.template import ChatTemplate
from rolemask.errors import ChatError

_TAG = r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])"


_LONG = 80  # letters: no header has as many


@dataclass
class Draft:
    """One marker, as it will be written."""

    role: str
    start: list[str]
    end: list[str] | None
    extra: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads the markers off what one template writes."""

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str]) -> None:
        self.template = template
        self.finder = GroundTruthFinder(template, special_tokens)
        self.unsettled: list[str] = []
        self.eos = str(template.variables.get("eos_token") or "")
        self.bos = str(template.variables.get("bos_token") or "")

    def read(self) -> tuple[list[Draft], list[str]]:
        """Return the markers and the image tokens."""
        if self.finder.writes_prompts_only:
            raise ChatError(f"{self.template.name}: writes a prompt alone, never an answer, so nothing shows what the model writes")
        try:
            self.plain = self.finder.find(THREE_TURNS)
        except UnsupportedScenarioError as reason:
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

    def _tell(self, conversation: Scenario) -> GroundTruth | None:
        try:
            return self.finder.find(conversation)
        except AmbiguousScenarioError as reason:  # a set without it could train anything there
            self.unsettled.append(f"{conversation.name}: {reason}")
        except UnsupportedScenarioError:
            pass
        return None

    # --- the turns of user and assistant

    def _read_turns(self) -> None:
        text, regions = self.plain.text, self.plain.regions
        put = self.finder.put(THREE_TURNS)[0]
        self.closes = not self.finder.next_header_stops(put)
        queries = [text.index(f"Query{number}?") for number in (1, 2, 3)]
        replies = [_end_of(text, f"Reply{number}.") for number in (1, 2, 3)]
        stops = [text[reply:stop].strip() for reply, (_, stop) in zip(replies, regions, strict=True)]
        stops = list(dict.fromkeys(filter(None, stops)))
        # A header stands behind the stop token, or, where it is that itself, behind the answer.
        begins = [stop if self.closes else reply for reply, (_, stop) in zip(replies, regions, strict=True)]
        headers = [text[: queries[0]], *(text[begin:query] for begin, query in zip(begins, queries[1:], strict=False))]
        user_start = self._from_control(_common_suffix(headers))
        if not user_start:
            raise ChatError(f"{self.template.name}: nothing stands before a user's words by which they could be told")
        user_end, header = self.finder.between(put)
        if header:
            self.user = _turn("user", user_start, self._end(user_end))
            behind = [text[_end_of(text, f"Query{number}?") : start] for number, (start, _) in enumerate(regions, start=1)]
            starts = [part.removeprefix(user_end) for part in behind if part.startswith(user_end)] + self._prompts(user_end)
        else:  # what ends the user's turn is what starts the assistant's (Mistral)
            starts = [user_end.strip() or user_end]
            self.user = Draft("user", [user_start], starts, {"include_end": False})
        self.assistant = Draft("assistant", list(dict.fromkeys(filter(None, starts))), stops)
        if not stops:
            self.assistant.end = ["next_start"]
            self.unsettled.append("the template writes no stop token behind an answer, so none is trained")
        elif self.closes and stops == [self.eos]:
            self.assistant.end = ["eos_token"]
        elif user_start.startswith(stops[0]):
            # The stop token is what the next turn begins with; another turn may begin with another one.
            self.assistant.extra["rewind"] = True

    def _tails(self) -> list[tuple[str, str]]:
        """Return what stands behind a question with the generation prompt, and without; reasoning not spoken of, off and on."""
        asked = self.finder.put(Scenario("", THREE_TURNS.messages[:1]))[0]
        found = []
        for switch in SWITCHES:
            prompt, bare = self.finder.text(asked, prompt=True, **switch), self.finder.text(asked, **switch)
            if prompt is not None and bare is not None:
                found.append((prompt.partition("Query1?")[2], bare.partition("Query1?")[2]))
        return found

    def _prompts(self, user_end: str) -> list[str]:
        """Return the headers that the generation prompts supply. A switch may write into the user's words, before their end."""
        found = []
        for prompt, bare in self._tails():
            ended = self.finder.common([prompt, bare])
            found.append(prompt.removeprefix(user_end) if prompt.startswith(user_end) and user_end else prompt[len(ended) :].lstrip())
        return found

    def _end(self, text: str) -> list[str]:
        """Return the end marker that a text between two turns begins with: through its first special token."""
        special_tokens = self._controls_of(text)
        if special_tokens:
            return [text[: text.index(special_tokens[0]) + len(special_tokens[0])].lstrip()]
        return ["next_start"]

    def _controls_of(self, text: str) -> list[str]:
        return [match.group() for match in self.finder.special_tokens(text)]

    def _from_control(self, header: str) -> str:
        """Cut what stands before a header: the BOS token, white space."""
        header = header.removeprefix(self.bos) if self.bos else header
        return header.lstrip() or header

    # --- the other roles

    def _system(self) -> list[Draft]:
        truth = self._tell(SYSTEM)
        if truth is None:
            return []
        before, _, after = truth.text.partition("Order1.")
        before = before.removeprefix(self.plain.text.partition("Query1?")[0].removesuffix(self.user.start[0]))
        after = after.partition("Query1?")[0]
        start = self._from_control(before)
        if before.endswith(self.user.start[0]) or not start.strip():
            return []  # written into the user's turn, or with nothing around it
        if len(self._controls_of(start)) > 2 or len(start) > _LONG:
            # A default preamble: the header is what the user's looks like, with another word.
            start = self._like_user(start) or start
        return [_turn("system", start, self._end(after.removesuffix(self.user.start[0])))]

    def _like_user(self, text: str) -> str | None:
        """Return the first header in `text` that is the user's with another word in the place of ``user``."""
        start = self.user.start[0]
        found = re.search("user", start, re.IGNORECASE)
        if found is None:
            return None
        pattern = re.escape(start[: found.start()]) + r"\w+" + re.escape(start[found.end() :])
        match = re.search(pattern, text)
        return None if match is None or match.group() == start else match.group()

    def _tool(self) -> list[Draft]:
        truth = self._tell(TOOLS)
        if truth is None:
            return []
        text, (call, answer) = truth.text, truth.regions[:2]
        before, _, after = text[call[1] : answer[0]].partition("Result1")
        if before.lstrip().startswith(self.user.start[0]):
            return self._tool_in_user(before, after)
        stop = self._stop_of(text[call[0] : call[1]])
        header = self._like_user(before.lstrip())
        behind = next((start for start in self.assistant.start if start.strip() and after.endswith(start)), None)
        if header is None and behind is None and stop and before.strip() and not self._controls_of(before):
            # No header before the result, none behind it: it stands inside the assistant's turn.
            return [Draft("tool", [stop], self._end(after), {"within": "assistant", "start_owner": "turn"})]
        self._also_stops_at(stop)
        header = header or self._tool_header(before) or ("" if self.closes else stop)
        if not header:
            self.unsettled.append(f"what a tool's result begins with: {before!r}")
            return []
        if not self.closes and not header.startswith(stop):
            header = stop + header  # the header is what stopped the call
        if behind is not None:
            return [_turn("tool", header, self._end(after.removesuffix(behind)))]
        marker = next(reversed(self._controls_of(after)), "")
        if not marker:
            self.unsettled.append(f"what a tool's result ends with: {after!r}")
            return []
        # The assistant goes on behind the result without a header: what ends the result starts its turn.
        self.assistant.start.append(marker)
        return [Draft("tool", [header], [marker], {"include_end": False})]

    def _tool_in_user(self, before: str, after: str) -> list[Draft]:
        opening = re.match(_TAG, before.lstrip().removeprefix(self.user.start[0]).strip())
        closing = re.match(rf"\s*({_TAG})", after)
        if opening is None or closing is None:
            return []
        return [Draft("tool", [opening.group()], [closing.group(1)], {"within": "user"})]

    def _tool_header(self, before: str) -> str:
        """Return the run of special tokens with which the text before a result begins, empty where there is none."""
        special_tokens = self._controls_of(before)
        if not special_tokens:
            return ""
        run = re.match(
            "(?:" + "|".join(map(re.escape, dict.fromkeys(special_tokens))) + r")+\s*", before[before.index(special_tokens[0]) :]
        )
        return run.group() if run else ""

    def _also_stops_at(self, stop: str) -> None:
        """A call may stop at another token than an answer (gpt-oss, GLM)."""
        ends = self.assistant.end or []
        known = {*ends, self.eos if "eos_token" in ends else ""}
        if stop and stop not in known and "next_start" not in ends:
            self.assistant.end = [*ends, stop]

    # --- spans, and what else there is

    def _spans(self) -> list[Draft]:
        drafts = []
        thought = self._stretch(REASONING, "Thought1.", "Reply1.")
        if thought is not None:
            drafts.append(Draft("reasoning", [thought[0]], [thought[1]], {"within": "assistant", "follows_turn": True}))
        call = self._call()
        if call is not None:
            drafts.append(Draft("tool_call", [call[0]], call[1], {"within": "assistant", "follows_turn": True}))
        return drafts

    def _stretch(self, conversation: Scenario, words: str, following: str) -> tuple[str, str] | None:
        """Return what stands around the words of a stretch inside the answer, white space at the edges left out."""
        truth = self._tell(conversation)
        if truth is None:
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
            first = next(iter(self._controls_of(closing)), closing)
            is_tag = closing.startswith("<") and "\n" in closing
            closing = closing.split("\n")[0] if is_tag else closing[: closing.index(first) + len(first)]
        return (opening, closing) if opening and closing else None

    def _call(self) -> tuple[str, list[str] | None] | None:
        truth = self._tell(TOOLS)
        if truth is None:
            return None
        start, stop = truth.regions[0]
        region = truth.text[start:stop]
        opening = re.match(rf"\s*({_TAG})", region)
        if opening is None:
            return None
        if opening.group(1) in self._written(REASONING):
            return None  # an empty reasoning block stands first
        closing = re.search(rf"({_TAG})\s*$", region.removesuffix(self._stop_of(region)))
        if closing is None or region.index(closing.group(1)) < region.index("Place1"):
            return opening.group(1), None
        return opening.group(1), [closing.group(1)]

    def _stop_of(self, region: str) -> str:
        special_tokens = self._controls_of(region)
        return special_tokens[-1] if special_tokens and region.endswith(special_tokens[-1]) else ""

    def _written(self, conversation: Scenario) -> str:
        """Return what the template writes, nothing where it does not take the conversation."""
        try:
            return self.finder.put(conversation)[1]
        except UnsupportedScenarioError:
            return ""

    def _other(self, drafts: Sequence[Draft]) -> list[Draft]:
        """A role that nobody declared must end the turn before it, where the headers have a common opening."""
        turns = [draft for draft in drafts if "within" not in draft.extra]
        openings = {next(iter(self._controls_of(start)), "") for draft in turns for start in draft.start}
        opening = openings.pop() if len(openings) == 1 else ""
        starts = [start for draft in turns for start in draft.start]
        if not opening or opening in starts or not all(start.startswith(opening) for start in starts):
            return []
        return [Draft("other", [opening], self.assistant.end, dict(self.assistant.extra))]

    def _images(self) -> list[str]:
        truth = self._tell(IMAGE)
        if truth is None:
            return []
        piece = truth.text.partition("Query1?")[0]
        piece = piece[piece.rfind(self.user.start[0]) + len(self.user.start[0]) :] if self.user.start[0] in piece else piece
        found = [tag for tag in re.findall(rf"{LOOKS_SPECIAL.pattern}|{_TAG}", piece) if tag not in (self.bos, *self.user.start)]
        if not found:
            self.unsettled.append(f"which tokens stand for an image: {piece!r}")
        return list(dict.fromkeys(found))


def _turn(role: str, start: str, end: list[str]) -> Draft:
    return Draft(role, [start], end, {"include_end": False} if end == ["next_start"] else {})


def _end_of(text: str, words: str) -> int:
    return text.index(words) + len(words)


def _common_suffix(texts: Sequence[str]) -> str:
    return common_prefix([text[::-1] for text in texts])[::-1]

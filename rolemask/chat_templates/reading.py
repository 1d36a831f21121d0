"""Reading markers off rendered scenarios: sentinels show where messages are, so the text between them is headers and end markers.

`rolemask.chat_templates.ground_truth` says which part of the text the model generates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder
from rolemask.chat_templates.rendering import LOOKS_SPECIAL, AmbiguousScenarioError, UnsupportedScenarioError, common_prefix
from rolemask.chat_templates.scenarios import (
    ANSWERS_IN_A_ROW,
    IMAGE,
    REASONING,
    SYSTEM,
    SYSTEM_IN_THE_MIDDLE,
    THINKING_MODES,
    THREE_TURNS,
    TOOLS,
    Scenario,
)
from rolemask.errors import ChatError

_TAG = r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])"
_LONG = 80  # characters: headers are shorter


@dataclass
class Draft:
    """One marker of the set to be. `extra` has its further YAML keys."""

    role: str
    start: list[str]
    end: list[str] | None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsettled:
    """Something that could not be derived from a template.

    Attributes:
        about: The scenario, or the part of the marker set, that it is about.
        problem: What is wrong.
        trains_too_much: The set trains something that the model never generates.
        mend: A line of YAML that may mend it, or an empty text.
    """

    about: str
    problem: str
    trains_too_much: bool = False
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.problem}" + (f" Try {self.mend}" if self.mend else "")


class Reader:
    """Reads the markers off the renderings of one template.

    What it could not settle is in `unsettled`; what is worth knowing, and changes no labels, is in `notes`.
    """

    def __init__(self, finder: GroundTruthFinder) -> None:
        self.renderer = finder.renderer
        self.template = finder.renderer.template
        self.unsettled: list[Unsettled] = []
        self.notes: list[str] = []
        self.eos = str(self.template.variables.get("eos_token") or "")
        self.bos = str(self.template.variables.get("bos_token") or "")
        self._truths = {scenario.name: truth for scenario, truth in finder.truths}

    def read(self) -> tuple[list[Draft], list[str]]:
        """Return the markers and the image tokens.

        Raises:
            ChatError: The template doesn't render questions and answers, or not in a way that can be read.
        """
        if self.renderer.renders_prompt_only:
            raise ChatError(f"{self.template.name}: renders only a prompt, never an answer, so nothing shows what the model generates")
        plain = self._truths[THREE_TURNS.name]
        if isinstance(plain, UnsupportedScenarioError):
            raise ChatError(f"{self.template.name}: does not render three questions and answers: {plain}") from plain
        self.plain = plain
        self._read_turns()
        drafts = [self.user, self.assistant]
        for draft in (*self._system(), *self._tool()):
            same = next((known.role for known in drafts if set(known.start) & set(draft.start)), None)
            if same is None or "within" in draft.extra:
                drafts.append(draft)
            else:
                self._note(draft.role, f"its turns start like those of {same}: {draft.start[0]!r}")
        if self.assistant.end == ["next_start"]:
            scenarios = {"assistant": ANSWERS_IN_A_ROW, "system": SYSTEM_IN_THE_MIDDLE}
            for draft in drafts:
                truth = self._truths[scenarios[draft.role].name] if draft.role in scenarios else None
                if isinstance(truth, GroundTruth):
                    draft.start += self._with_space(draft.start[0], truth)[1:]
        drafts += self._spans()
        return drafts + self._other(drafts), self._images()

    def _ground_truth(self, scenario: Scenario) -> GroundTruth | None:
        truth = self._truths[scenario.name]
        if isinstance(truth, AmbiguousScenarioError):  # without this scenario, the set could train anything in it
            unsettled = Unsettled(scenario.name, str(truth))
            if unsettled not in self.unsettled:
                self.unsettled.append(unsettled)
        return None if isinstance(truth, UnsupportedScenarioError) else truth

    def _note(self, about: str, what: str) -> None:
        self.notes.append(f"{about}: {what}")

    # --- the turns of user and assistant

    def _read_turns(self) -> None:
        text, regions = self.plain.text, self.plain.regions
        self.accepted = self.renderer.render_in_accepted_form(THREE_TURNS)[0]
        self.has_own_stop = not self.renderer.stops_at_next_header(self.accepted)
        queries = [text.index(f"Query{number}?") for number in (1, 2, 3)]
        replies = [_end_of(text, f"Reply{number}.") for number in (1, 2, 3)]
        stops = [self._trimmed(text[reply:stop]) for reply, (_, stop) in zip(replies, regions, strict=True)]
        stops = list(dict.fromkeys(stop for stop in stops if stop.strip()))
        user_starts = self._user_starts(queries, replies, closed=bool(stops))
        user_end, header = self.renderer.user_end_and_header(self.accepted)
        gaps = [text[_end_of(text, f"Query{number}?") : start] for number, (start, _) in enumerate(regions, start=1)]
        if header:
            self.user = _turn("user", user_starts, self._end(user_end))
            starts = [gap.removeprefix(user_end) for gap in gaps if gap.startswith(user_end)]
            in_history = self.renderer.header_in_history(self.accepted).lstrip()
            if not starts and all(gap.endswith(in_history) for gap in gaps):  # white space that only prompts have
                starts = [in_history]
            starts += self._headers_in_prompts(user_end)
        else:  # one marker ends the user's turn and starts the assistant's (Mistral)
            starts = list(dict.fromkeys(gap.lstrip() for gap in gaps))
            if not all(starts):
                raise ChatError(
                    f"{self.template.name}: renders only white space behind a question, so nothing shows where the answer starts"
                )
            self.user = Draft("user", user_starts, starts, {"include_end": False})
        self.assistant = Draft("assistant", list(dict.fromkeys(filter(None, starts))), stops)
        if not header:
            self.assistant.extra["unanswered"] = "user"
        if not stops:
            self.assistant.end = ["next_start"]
            self._note("stop token", "the template renders none after an answer, so none is trained")
        elif self.has_own_stop and stops == [self.eos]:
            self.assistant.end = ["eos_token"]
        elif user_starts[0].startswith(stops[0]):
            # The stop token starts the next turn; turns of other roles may start with another one.
            self.assistant.extra["rewind"] = True

    def _user_starts(self, queries: Sequence[int], replies: Sequence[int], *, closed: bool) -> list[str]:
        """Return the user's headers, given where the questions start and the answers end; `closed`: answers have a stop token.

        White space alone is no header. Where a template puts a preamble before the first question, the later ones have to do.
        """
        text, regions = self.plain.text, self.plain.regions
        own = [self.renderer.own(self.renderer.render(self.accepted), self.accepted, index) for index in (0, 2, 4)]
        after_stops = [text[stop:query] for (_, stop), query in zip(regions, queries[1:], strict=False)]
        after_answers = [text[reply:query] for reply, query in zip(replies, queries[1:], strict=False)]
        written = [text[place[0] : query] for place, query in zip(own, queries, strict=True) if place is not None]
        # Known is best. Else a header follows the stop token, or the answer if the header is the stop token.
        befores = [after_stops, after_answers] if self.has_own_stop else [after_answers]
        if len(written) == len(own):
            befores.insert(0, written[1:])
        for later in befores:
            for headers in ([text[: queries[0]], *later], later):
                found = _common_suffix(headers)
                start = self._without_bos(found)
                if start.strip():
                    return [start] if closed else self._with_space(start, self.plain)
                if self.bos and found.strip() == self.bos:
                    return [found.lstrip()]  # BOS begins each question (KULLM 3, Hunyuan)
        raise ChatError(f"{self.template.name}: renders nothing but white space before a user's message, so the user's turn has no header")

    def _with_space(self, start: str, truth: GroundTruth) -> list[str]:
        """Return a header alone and with the white space that stands between the first answer and it.

        Where answers have no stop token, this white space is not the answer's either.
        """
        between = truth.text[truth.regions[0][1] :]
        before = between[: between.find(start)]
        return [start, before + start] if before and not before.strip() else [start]

    def _tails(self) -> list[tuple[str, str]]:
        """Return what follows a question with the generation prompt and without it, in each thinking mode."""
        question = self.renderer.render_in_accepted_form(THREE_TURNS.through(1))[0]
        tails = []
        for options in THINKING_MODES:
            prompt, without = self.renderer.try_render(question, prompt=True, **options), self.renderer.try_render(question, **options)
            if prompt is not None and without is not None:
                tails.append((prompt.partition("Query1?")[2], without.partition("Query1?")[2]))
        return tails

    def _headers_in_prompts(self, user_end: str) -> list[str]:
        """Return the headers in the generation prompts."""
        headers = []
        for prompt, without in self._tails():
            if user_end and prompt.startswith(user_end):
                headers.append(prompt.removeprefix(user_end))
            else:  # an option may change the user's message, before its end marker
                headers.append(prompt[len(self.renderer.common_start([prompt, without])) :].lstrip())
        return [header for header in headers if len(header) <= _LONG]

    def _end(self, text: str) -> list[str]:
        """Return the end marker at the start of a text between two turns: through its first special token."""
        special_tokens = self._special_tokens_in(text)
        if special_tokens:
            return [text[: text.index(special_tokens[0]) + len(special_tokens[0])].lstrip()]
        return ["next_start"]

    def _trimmed(self, stop: str) -> str:
        """Cut the white space around a stop token. If it is text, the white space behind it is the answer's too."""
        return stop.strip() if self._special_tokens_in(stop) else stop.lstrip()

    def _special_tokens_in(self, text: str) -> list[str]:
        return [match.group() for match in self.renderer.find_special_tokens(text)]

    def _without_bos(self, header: str, *, keep_space: bool = False) -> str:
        """Cut the BOS token and white space before a header."""
        header = header.removeprefix(self.bos) if self.bos else header
        return header if keep_space else header.lstrip() or header

    # --- the other roles

    def _system(self) -> list[Draft]:
        truth = self._ground_truth(SYSTEM)
        if truth is None:
            return []
        before, _, after = truth.text.partition("Order1.")
        before = before.removeprefix(self.plain.text.partition("Query1?")[0].removesuffix(self.user.start[0]))
        after = after.partition("Query1?")[0]
        start = self._without_bos(before)
        if before.endswith(self.user.start[0]) or not start.strip():
            return []  # inside the user's turn, or without markers
        if len(self._special_tokens_in(start)) > 2 or len(start) > _LONG:
            # The template has a default preamble: look for a header like the user's in it.
            start = self._like_user(start) or start
        return [_turn("system", [start], self._end(after.removesuffix(self.user.start[0])))]

    def _like_user(self, text: str) -> str | None:
        """Return the first header in `text` that is the user's with another word in place of ``user``, or None."""
        start = self.user.start[0]
        found = re.search("user", start, re.IGNORECASE)
        if found is None:
            return None
        pattern = re.escape(start[: found.start()]) + r"\w+" + re.escape(start[found.end() :])
        match = re.search(pattern, text)
        return None if match is None or match.group() == start else match.group()

    def _tool(self) -> list[Draft]:
        truth = self._ground_truth(TOOLS)
        if truth is None:
            return []
        text, (call, answer) = truth.text, truth.regions[:2]
        before, _, after = text[call[1] : answer[0]].partition("Result1")
        if before.lstrip().startswith(self.user.start[0]):
            return self._tool_in_user(before, after)
        stop = self._stop_of(text[call[0] : call[1]])
        header = self._like_user(before.lstrip())
        next_header = next((start for start in self.assistant.start if start.strip() and after.endswith(start)), None)
        if header is None and next_header is None and stop and before.strip() and not self._special_tokens_in(before):
            # No header before the result and none after it: the result is inside the assistant's turn.
            return [Draft("tool", [stop], self._end(after), {"within": "assistant", "start_owner": "turn"})]
        self._also_stops_at(stop)
        header = header or self._tool_header(before) or ("" if self.has_own_stop else stop)
        if not header:
            self._note("tool", f"the start of a tool result is unclear: {before!r}")
            return []
        if not self.has_own_stop and not header.startswith(stop):
            header = stop + header  # the call stops at the header
        if next_header is not None:
            return [_turn("tool", [header], self._end(after.removesuffix(next_header)))]
        marker = next(reversed(self._special_tokens_in(after)), "")
        if not marker:
            self._note("tool", f"the end of a tool result is unclear: {after!r}")
            return []
        # The assistant continues after the result without a header: the end of the result starts its turn.
        self.assistant.start.append(marker)
        return [Draft("tool", [header], [marker], {"include_end": False})]

    def _tool_in_user(self, before: str, after: str) -> list[Draft]:
        opening = re.match(_TAG, before.lstrip().removeprefix(self.user.start[0]).strip())
        closing = re.match(rf"\s*({_TAG})", after)
        if opening is None or closing is None:
            return []
        return [Draft("tool", [opening.group()], [closing.group(1)], {"within": "user"})]

    def _tool_header(self, before: str) -> str:
        """Return the first run of special tokens before a tool result, or an empty text."""
        special_tokens = self._special_tokens_in(before)
        if not special_tokens:
            return ""
        run = re.match(
            "(?:" + "|".join(map(re.escape, dict.fromkeys(special_tokens))) + r")+\s*", before[before.index(special_tokens[0]) :]
        )
        return run.group() if run else ""

    def _also_stops_at(self, stop: str) -> None:
        """Add an end marker: a call may stop at another token than an answer (gpt-oss, GLM)."""
        ends = self.assistant.end or []
        known = {*ends, self.eos if "eos_token" in ends else ""}
        if stop and stop not in known and "next_start" not in ends:
            self.assistant.end = [*ends, stop]

    # --- spans, the rest role, media

    def _spans(self) -> list[Draft]:
        drafts = []
        reasoning = self._reasoning()
        if reasoning is not None:
            drafts.append(Draft("reasoning", [reasoning[0]], [reasoning[1]], {"within": "assistant", "follows_turn": True}))
        call = self._call()
        if call is not None:
            drafts.append(Draft("tool_call", [call[0]], call[1], {"within": "assistant", "follows_turn": True}))
        return drafts

    def _reasoning(self) -> tuple[str, str] | None:
        """Return what opens and what closes reasoning, without white space at the edges."""
        truth = self._ground_truth(REASONING)
        if truth is None:
            return None
        start, _ = truth.regions[0]
        at, reply = truth.text.index("Thought1."), truth.text.index("Reply1.")
        if not start <= at < reply:
            return None
        opening, closing = truth.text[start:at].strip(), truth.text[_end_of(truth.text, "Thought1.") : reply].strip()
        if not opening:  # the prompt opens it
            header = next((one for one in sorted(self.assistant.start, key=len, reverse=True) if truth.text[:start].endswith(one)), "")
            opened = re.search(rf"({_TAG})\s*$", header)
            opening = opened.group(1) if opened else ""
        ends = self.assistant.end or []
        if closing and not any(closing.startswith(end) for end in ends):
            first = next(iter(self._special_tokens_in(closing)), closing)
            is_tag = closing.startswith("<") and "\n" in closing
            closing = closing.split("\n")[0] if is_tag else closing[: closing.index(first) + len(first)]
        return (opening, closing) if opening and closing else None

    def _call(self) -> tuple[str, list[str] | None] | None:
        truth = self._ground_truth(TOOLS)
        if truth is None:
            return None
        start, stop = truth.regions[0]
        region = truth.text[start:stop]
        opening = re.match(rf"\s*({_TAG})", region)
        if opening is None:
            return None
        if opening.group(1) in self._rendered(REASONING):
            return None  # an empty reasoning block comes first
        closing = re.search(rf"({_TAG})\s*$", region.removesuffix(self._stop_of(region)))
        if closing is None or region.index(closing.group(1)) < region.index("Place1"):
            return opening.group(1), None
        return opening.group(1), [closing.group(1)]

    def _stop_of(self, region: str) -> str:
        special_tokens = self._special_tokens_in(region)
        return special_tokens[-1] if special_tokens and region.endswith(special_tokens[-1]) else ""

    def _rendered(self, scenario: Scenario) -> str:
        """Return the rendered text, empty if the template does not support the scenario."""
        try:
            return self.renderer.render_in_accepted_form(scenario)[1]
        except UnsupportedScenarioError:
            return ""

    def _other(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Return a marker for roles without one, if all headers start with the same token: such a turn must end the one before it."""
        turns = [draft for draft in drafts if "within" not in draft.extra]
        openings = {next(iter(self._special_tokens_in(start)), "") for draft in turns for start in draft.start}
        opening = openings.pop() if len(openings) == 1 else ""
        starts = [start for draft in turns for start in draft.start]
        if not opening or opening in starts or not all(start.startswith(opening) for start in starts):
            return []
        extra = {key: value for key, value in self.assistant.extra.items() if key != "unanswered"}
        return [Draft("other", [opening], self.assistant.end, extra)]

    def _images(self) -> list[str]:
        truth = self._ground_truth(IMAGE)
        if truth is None:
            return []
        piece = truth.text.partition("Query1?")[0]
        piece = piece[piece.rfind(self.user.start[0]) + len(self.user.start[0]) :] if self.user.start[0] in piece else piece
        found = [tag for tag in re.findall(rf"{LOOKS_SPECIAL.pattern}|{_TAG}", piece) if tag not in (self.bos, *self.user.start)]
        if not found:
            self._note("image", f"no token for an image found: {piece!r}")
        return list(dict.fromkeys(found))


def _turn(role: str, starts: list[str], end: list[str]) -> Draft:
    return Draft(role, starts, end, {"include_end": False} if end == ["next_start"] else {})


def _end_of(text: str, words: str) -> int:
    return text.index(words) + len(words)


def _common_suffix(texts: Sequence[str]) -> str:
    return common_prefix([text[::-1] for text in texts])[::-1]

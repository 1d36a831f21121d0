"""The ground truth: what the model has to generate after the generation prompt, through its stop token, and not a token more.

Nothing here knows of marker sets. For message k, the template writes messages 0 to k-1 with the generation prompt: that is what the
model is given. What it writes with message k goes on from there: that is what the model must produce, through the token at which
generation stops. Both are found in the text of the whole conversation by the words that the messages alone have.

- A template may rewrite the past (Qwen3 drops earlier reasoning, Mistral moves the system prompt). So texts are compared from the last
  word of the message before on, and not from their beginnings.
- What any generation prompt supplies, with reasoning on or off, is the prompt's.
- The stop token is the EOS token, failing that the last special token, that the template writes behind an answer whatever follows; where it
  writes none (GLM), the special token with which the next turn begins.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rolemask.chat_templates.rendering import AmbiguousScenarioError, Renderer, UnsupportedScenarioError, common_prefix, tail_of
from rolemask.chat_templates.scenarios import SWITCHES, THINKING_OFF, THINKING_ON, Scenario, sentinels

# What a header that was cut short may end with: a special token, a line, a colon.
_BORDER = re.compile(r".*[>\]\n:]", re.DOTALL)


@dataclass(frozen=True)
class GroundTruth:
    """A conversation as the template writes it, and the stretches [start, stop) of the text that the model has to generate.

    `prefix_stable` tells whether each message only adds to the text of those before; `generated` is what the template says itself, in
    `generation` blocks.
    """

    text: str
    regions: tuple[tuple[int, int], ...]
    generated: tuple[tuple[int, int], ...]
    prefix_stable: bool


class GroundTruthFinder(Renderer):
    """Tells the truth about one chat template."""

    def find(self, conversation: Scenario) -> GroundTruth:
        """Return the truth about one conversation.

        Raises:
            UnsupportedScenarioError: The template does not take it, or leaves something out.
            AmbiguousScenarioError: It writes all of it, and cannot be told of.
        """
        put, text = self.put(conversation)
        if self.writes_prompts_only:
            return self._tell_of_verdict(put)
        if conversation.options in (THINKING_OFF, THINKING_ON) and not self.knows_switch(put):
            raise UnsupportedScenarioError("the template has no such switch")
        regions: list[tuple[int, int]] = []
        at = 0
        for index, message in enumerate(put.messages):
            if message["role"] == "assistant":
                start = self._start(text, at, put, index)
                if regions and not text[regions[-1][1] : start].strip() and put.messages[index - 1]["role"] == "assistant":
                    raise AmbiguousScenarioError("the template writes nothing between two answers, so they are one turn to a reader")
                stop = self._stop(text, at, start, put, index)
                if self._begins_anew(text[start:stop], put):  # DeepSeek R1's distillations, with words and a call
                    raise AmbiguousScenarioError(f"the template writes message {index} as two turns")
                regions.append((start, stop))
                at = start
            if message["role"] == "system":
                continue  # some templates write it into a later turn (Mistral)
            at = max([at, *(_after(text, sentinel, at) for sentinel in sentinels(message) if sentinel in text[at:])])
        generated = self.write(put).generated
        return GroundTruth(text, tuple(regions), generated, self.is_prefix_stable(put, text))

    def _tell_of_verdict(self, conversation: Scenario) -> GroundTruth:
        prompt = self.text(conversation, prompt=True) or ""
        verdict = "No.\n- S1" + (self.template.variables.get("eos_token") or "")
        return GroundTruth(prompt + verdict, ((len(prompt), len(prompt + verdict)),), (), prefix_stable=True)

    def _start(self, text: str, at: int, conversation: Scenario, index: int) -> int:
        """Return where in `text` the model begins to write message `index`; `at` is behind the last word of the message before."""
        given, before = conversation.through(index), conversation.messages[index - 1]
        ended = self.text(given)
        tails = []
        for switch in SWITCHES:
            prompt, bare = self.text(given, prompt=True, **switch), self.text(given, **switch)
            if prompt is not None:
                tails.append(tail_of(prompt, before))
                # A switch may also change the words before the prompt (GLM's `/nothink`), which this conversation does not have.
                if bare is not None and ended is not None and prompt.startswith(bare):
                    tails.append(tail_of(ended, before) + prompt[len(bare) :])
        if not tails:
            raise AmbiguousScenarioError(f"the template writes no generation prompt for message {index}")
        rest = text[at:]
        fitting = [tail for tail in tails if rest.startswith(tail)]
        if fitting:
            begins = at + max(map(len, fitting))
            opener = self.between(conversation)[1]
            if opener and text.startswith(opener, begins):  # Diffusion Gemma, behind the result of a call
                raise AmbiguousScenarioError(f"the template writes a header for message {index} that its generation prompt does not write")
            return begins
        # A prompt may come with a turn of its own before the header (Command-R's documents), which history does not have.
        coming = (sentinel for message in conversation.messages[index:] for sentinel in sentinels(message))
        limit = min((rest.find(sentinel) for sentinel in coming if sentinel in rest), default=len(rest))
        openers = self.special_tokens(self.between(conversation)[1])
        for tail in tails:
            header_alone = tail[tail.rfind(openers[0].group()) :] if openers else ""
            if header_alone and (place := rest.find(header_alone, 0, limit)) >= 0:
                return at + place + len(header_alone)
            # Or history has white space before the header that the prompt has not (Inkbot).
            same = len(common_prefix([rest, tail]))
            header_alone = tail[same:].lstrip()
            if header_alone and rest[same:].lstrip().startswith(header_alone):
                return at + rest.index(header_alone, same) + len(header_alone)
        # The past was rewritten: this turn has lost a part of what the prompt supplied, Qwen3.5's opened reasoning for instance.
        longest = max((common_prefix([rest, tail]) for tail in tails), key=len)
        header = _BORDER.match(longest)
        if header is None or longest[header.end() :][:1].isalnum():  # none of it, or cut off within a word
            raise AmbiguousScenarioError(f"message {index} does not begin with what the generation prompt supplies")
        return at + header.end()

    def _stop(self, text: str, before: int, start: int, conversation: Scenario, index: int) -> int:
        """Return where in `text` generation of message `index` stops."""
        message = conversation.messages[index]
        words = sentinels(message)
        last = max([start, *(_after(text, sentinel, before) for sentinel in words if sentinel in text[before:])])
        through = self.text(conversation.through(index + 1))
        rest = text[last:]
        if through is None:
            raise AmbiguousScenarioError(f"the template does not write the conversation through message {index}")
        if words:
            alone = tail_of(through, message)
        else:  # nothing to find it by: all that stands behind its header
            behind = len(through) - len(tail_of(through, conversation.messages[index - 1]))
            alone = through[self._start(through, behind, conversation, index) :]
        others = [alone, rest]
        if index + 1 == len(conversation.messages) and message.get("tool_calls") is None:
            follow_up = self.followed(conversation)
            if follow_up is not None and words:
                others.append(tail_of(follow_up, message))
        whatever_follows = self.without_header(self.common(others), conversation, of_others=bool(words))
        closes = self.closes_answers(conversation)
        # Without words in it, what an answer that is left open begins with looks like what follows it.
        has_stop = closes or (bool(words) and not self.next_header_stops(conversation))
        stop = self.last_control(whatever_follows) if has_stop else None
        if stop is not None:
            return last + stop.end()
        following = conversation.messages[index + 1 :]
        limit = min(
            (rest.find(sentinel) for message in following[:1] for sentinel in sentinels(message) if sentinel in rest), default=len(rest)
        )
        beyond = (match for match in self.special_tokens(rest) if match.start() >= len(whatever_follows) and match.end() <= limit)
        found = next(beyond, None)
        # What another answer begins with is no stop token. Nor is what a tool's result begins with, where the template closes answers and
        # writes nothing here (DeepSeek R1 behind a lone call); some do so, but only when something follows (Nemotron Nano 2).
        only_plain = (bool(following) and following[0]["role"] == "assistant") or (closes and bool(words))
        if found is None or (only_plain and found.group() != self.plain_stop(conversation)):
            return last + len(whatever_follows)
        return last + found.end()

    def _begins_anew(self, region: str, conversation: Scenario) -> bool:
        """Whether the header stands behind the EOS token of what should be one turn."""
        eos, openers = self.template.variables.get("eos_token"), self.special_tokens(self.between(conversation)[1])
        return bool(eos and openers) and openers[0].group() in region.partition(str(eos))[2]


def _after(text: str, sentinel: str, at: int) -> int:
    return text.index(sentinel, at) + len(sentinel)


def region_texts(truth: GroundTruth) -> list[str]:
    """Return what the model has to generate, turn by turn."""
    return [truth.text[start:stop] for start, stop in truth.regions]


def lies_within(start: int, stop: int, regions: Sequence[tuple[int, int]]) -> bool:
    """Whether [start, stop) lies in one of the regions, all of it."""
    return any(first <= start and stop <= last for first, last in regions)

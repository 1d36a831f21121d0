"""Where in a rendered scenario the model's part of a message starts and stops: rules, tried in order.

Each rule looks at a few texts and returns a position, or None if it doesn't apply. Its docstring says which template needs it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rolemask.chat_templates.rendering import AmbiguousScenarioError, Renderer, common_prefix, text_after
from rolemask.chat_templates.scenarios import THINKING_MODES, Scenario, sentinels

# A part of a header can end after a special token, a line or a colon.
_HEADER_PART = re.compile(r".*[>\]\n:]", re.DOTALL)


def position_after(sentinel: str, text: str, at: int) -> int:
    """Return where the first `sentinel` from `at` on ends."""
    return text.index(sentinel, at) + len(sentinel)


def _first_of(scenario: Scenario, first: int, last: int, text: str) -> int:
    """Return where the first sentinel of messages [first, last) is in `text`, or its length."""
    words = (sentinel for message in scenario.messages[first:last] for sentinel in sentinels(message))
    return min((text.index(word) for word in words if word in text), default=len(text))


# --- the start


@dataclass(frozen=True)
class _Start:
    """What the rules for the start of a message look at. They return positions in `rest`.

    Attributes:
        index: The number of the message, for errors.
        rest: The rendered scenario after the last sentinel of the message before.
        prompts: What generation prompts have in that place, in each thinking mode.
        header: The assistant's header.
        in_history: What the template writes before the words of earlier answers, if that is a header.
        own: Where what was written for this message starts in `rest`, or None if that is not known.
        opener: The first special token of the header, or an empty text.
        limit: Where the first sentinel of this message or a later one is in `rest`.
    """

    index: int
    rest: str
    prompts: tuple[str, ...]
    header: str
    in_history: str
    own: int | None
    opener: str
    limit: int


def _after_whole_prompt(start: _Start) -> int | None:
    """A generation prompt is there in full: the usual case.

    Of several prompts that fit, the longest counts: an empty reasoning block that some prompt contains (Qwen3) belongs to the prompt.

    Raises:
        AmbiguousScenarioError: The header follows. After a tool result, Diffusion Gemma renders a header that its prompt doesn't have.
    """
    lengths = [len(prompt) for prompt in start.prompts if start.rest.startswith(prompt)]
    if not lengths:
        return None
    if start.header and start.rest.startswith(start.header, max(lengths)):
        raise AmbiguousScenarioError(f"message {start.index} has a header that the generation prompt doesn't have")
    return max(lengths)


def _after_header_without_extra_turn(start: _Start) -> int | None:
    """The prompt has another turn before the header, which the rendered scenario doesn't have: Command-R's documents."""
    for prompt in start.prompts if start.opener else ():
        header = prompt[prompt.rfind(start.opener) :]
        found = start.rest.find(header, 0, start.limit)
        if found >= 0:
            return found + len(header)
    return None


def _after_header_with_extra_white_space(start: _Start) -> int | None:
    """The rendered scenario has white space before the header that the prompt doesn't have: Inkbot."""
    for prompt in start.prompts:
        same = len(common_prefix([start.rest, prompt]))
        header = prompt[same:].lstrip()
        if header and start.rest[same:].lstrip().startswith(header):
            return start.rest.index(header, same) + len(header)
    return None


def _after_part_of_prompt(start: _Start) -> int | None:
    """Earlier turns lack the end of the prompt: Qwen3.5's prompt opens a reasoning block, which earlier turns drop.

    The header ends at the last special token, line or colon that is still there. A header cut inside a word doesn't count.
    """
    longest = max((common_prefix([start.rest, prompt]) for prompt in start.prompts), key=len)
    part = _HEADER_PART.match(longest)
    if part is None or longest[part.end() :][:1].isalnum():
        return None
    if start.in_history and start.own is not None and start.rest.startswith(start.in_history, start.own):
        # The whole header is there: white space alone is no part of it.
        return part.end() if start.rest[start.own : part.end()].strip() else None
    return part.end() if start.own is None or part.end() >= start.own else None


def _after_header_in_history(start: _Start) -> int | None:
    """The template writes a header before earlier answers that no prompt has: the header is the one in the history.

    It never looks at `add_generation_prompt` (many rewrites of ChatML), or its prompt has another header.
    """
    if start.own is None or not start.in_history or not start.rest.startswith(start.in_history, start.own):
        return None
    return start.own + len(start.in_history)


_START_RULES = (
    _after_whole_prompt,
    _after_header_without_extra_turn,
    _after_header_with_extra_white_space,
    _after_part_of_prompt,
    _after_header_in_history,
)


def find_start(renderer: Renderer, text: str, at: int, scenario: Scenario, index: int) -> int:
    """Return where in `text` the model starts to generate message `index`; the message before ends at `at`.

    Raises:
        AmbiguousScenarioError: No rule applies, or the template contradicts itself.
    """
    user_end, header = renderer.user_end_and_header(scenario)
    openers = renderer.find_special_tokens(header)
    if index == 0:
        at = _start_of_header(text[: _first_of(scenario, 0, 1, text)], user_end, header, [match.start() for match in openers])
        prompts = renderer.headers_after_question(scenario)
    else:
        prompts = _prompts(renderer, scenario, index)
    in_history = renderer.header_in_history(scenario)
    if renderer.lacks_prompt(scenario):  # the prompt that it would have
        prompts = tuple(prompt + in_history for prompt in prompts) if index else (in_history,)
    if not prompts:
        raise AmbiguousScenarioError(f"the template renders no generation prompt for message {index}")
    rest = text[at:]
    own = renderer.own(renderer.render(scenario), scenario, index)
    start = _Start(
        index=index,
        rest=rest,
        prompts=prompts,
        header=header,
        in_history=in_history,
        own=None if own is None or own[0] < at else own[0] - at,
        opener=openers[0].group() if openers else "",
        limit=_first_of(scenario, index, len(scenario.messages), rest),
    )
    found = next((found for rule in _START_RULES if (found := rule(start)) is not None), None)
    if found is None:
        raise AmbiguousScenarioError(f"message {index} doesn't start with what the generation prompt contains")
    if index == 0 and renderer.find_special_tokens(rest[found : start.limit]):
        raise AmbiguousScenarioError("the template renders another turn's header before an answer that opens the chat")
    return at + found


def _start_of_header(before: str, user_end: str, header: str, openers: Sequence[int]) -> int:
    """Return where the header of an answer that opens the chat starts; `before` is the text before the answer.

    Most templates render no prompt for an empty chat, so it is looked for as it is after a question: up to its second special token, and
    if it has none, with the white space before it.

    Raises:
        AmbiguousScenarioError: It is not there.
    """
    space = "" if openers else user_end[len(user_end.rstrip()) :]
    anchor = space + header[: openers[1] if len(openers) > 1 else None].rstrip()
    at = before.rfind(anchor) if anchor.strip() else -1
    if at < 0:
        raise AmbiguousScenarioError("the template renders no header before an answer that opens the chat")
    return at + len(space)


def _prompts(renderer: Renderer, scenario: Scenario, index: int) -> tuple[str, ...]:
    """Return what follows the message before `index` in the generation prompts of each thinking mode."""
    given, before = scenario.through(index), scenario.messages[index - 1]
    plain = renderer.try_render(given)
    prompts = []
    for options in THINKING_MODES:
        prompt, without = renderer.try_render(given, prompt=True, **options), renderer.try_render(given, **options)
        if prompt is not None:
            prompts.append(text_after(before, prompt))
            # An option may also change earlier messages (GLM's `/nothink`), which this scenario doesn't have.
            if without is not None and plain is not None and prompt.startswith(without):
                prompts.append(text_after(before, plain) + prompt[len(without) :])
    return tuple(prompts)


# --- the stop


@dataclass(frozen=True)
class _Stop:
    """What the rules for the stop of a message look at. They return positions in the text after its last sentinel.

    Attributes:
        common: The start of that text that is there whatever follows, without a dangling header.
        stop_token: Where the last stop token in `common` ends, or None.
        next_token: The first special token between `common` and the next message, and where it ends, or None.
        token_before_user: The special token after an answer that a question follows.
        closes_answers: Whether the template renders a special token after answers, whatever follows.
        stops_at_next_header: Whether generation stops at the special token that starts the next turn.
        has_words: Whether the message has any; an empty answer has none.
        is_whole: Whether it is known what was written for this message: it has words, or the template shows it.
        hands_over: Whether no header follows, or that of a message that the model waits for: not of another answer, nor of a system turn.
    """

    common: str
    stop_token: int | None
    next_token: tuple[str, int] | None
    token_before_user: str
    closes_answers: bool
    stops_at_next_header: bool
    has_words: bool
    is_whole: bool
    hands_over: bool


def _after_own_stop_token(stop: _Stop) -> int | None:
    """The template renders a stop token after this answer, whatever follows: the usual case.

    If the template leaves answers open, an empty answer has no text to tell its own tokens from those of the next turn, so it has none.
    """
    if stop.closes_answers or (stop.has_words and not stop.stops_at_next_header):
        return stop.stop_token
    return None


def _after_usual_stop_token(stop: _Stop) -> int | None:
    """The usual stop token is there only because something follows.

    Qwen1.5 and gpt-oss leave the last answer open, Nemotron Nano 2 a call at the end.
    """
    return stop.next_token[1] if stop.next_token is not None and stop.next_token[0] == stop.token_before_user else None


def _after_first_token_of_next_turn(stop: _Stop) -> int | None:
    """The first special token of the next turn is the stop token: GLM stops a call at `<|observation|>`.

    Not if the next turn is another answer or the system's: the model doesn't wait for these. Not if the template closes answers and
    leaves this one open: DeepSeek R1 renders nothing between a call without words and its result.
    """
    if stop.next_token is None or not stop.hands_over or (stop.closes_answers and stop.is_whole):
        return None
    return stop.next_token[1]


def _without_stop_token(stop: _Stop) -> int:
    """There is no stop token: the last answer in a template that leaves answers open."""
    return len(stop.common)


_STOP_RULES = (_after_own_stop_token, _after_usual_stop_token, _after_first_token_of_next_turn, _without_stop_token)


def find_stop(renderer: Renderer, text: str, at: int, start: int, scenario: Scenario, index: int) -> int:
    """Return where in `text` the model stops to generate message `index`, which starts at `start`; the message before ends at `at`.

    Raises:
        AmbiguousScenarioError: The template refuses the scenario when it ends with this message.
    """
    message = scenario.messages[index]
    words = sentinels(message)
    last = max([start, *(position_after(word, text, at) for word in words if word in text[at:])])
    rest = text[last:]
    common = _common(renderer, rest, scenario, index)
    limit = _first_of(scenario, index + 1, index + 2, rest)
    own = renderer.own(renderer.render(scenario), scenario, index)
    if own is not None and not words and renderer.find_special_tokens(common[max(own[1] - last, 0) :]):
        common = common[: max(own[1] - last, 0)]
    stop_token = renderer.last_stop_token(common)
    later = (match for match in renderer.find_special_tokens(rest) if match.start() >= len(common) and match.end() <= limit)
    next_token = next(later, None)
    stop = _Stop(
        common=common,
        stop_token=None if stop_token is None else stop_token.end(),
        next_token=None if next_token is None else (next_token.group(), next_token.end()),
        token_before_user=renderer.token_before_user(scenario),
        closes_answers=renderer.closes_answers(scenario),
        stops_at_next_header=renderer.stops_at_next_header(scenario),
        has_words=bool(words),
        is_whole=bool(words) or own is not None,
        hands_over=_hands_over(renderer, rest, scenario, index),
    )
    return last + next(found for rule in _STOP_RULES if (found := rule(stop)) is not None)


def _hands_over(renderer: Renderer, rest: str, scenario: Scenario, index: int) -> bool:
    following = scenario.messages[index + 1 : index + 2]
    if not following:
        return renderer.cut_dangling_header(rest, scenario) == rest
    return following[0]["role"] not in ("assistant", "system")


def _common(renderer: Renderer, rest: str, scenario: Scenario, index: int) -> str:
    """Return the start of `rest` that is there whatever follows message `index`, without a dangling header."""
    message = scenario.messages[index]
    words = sentinels(message)
    ending_here = renderer.try_render(scenario.through(index + 1))
    if ending_here is None:
        raise AmbiguousScenarioError(f"the template refuses the scenario when it ends with message {index}")
    if words:
        alone = text_after(message, ending_here)
    else:  # no sentinel to find: everything after the header
        before = len(ending_here) - len(text_after(scenario.messages[index - 1], ending_here))
        alone = ending_here[find_start(renderer, ending_here, before, scenario, index) :]
    texts = [alone, rest]
    if index + 1 == len(scenario.messages) and message.get("tool_calls") is None:
        follow_up = renderer.render_with_follow_up(scenario)
        if follow_up is not None and words:
            texts.append(text_after(message, follow_up))
    return renderer.cut_dangling_header(renderer.common_start(texts), scenario, of_any_role=bool(words))

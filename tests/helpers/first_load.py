"""What `detect` and `derive` make of chat templates that no set was written for, held against two truths.

The templates are in the folder that ROLEMASK_UNSEEN_TEMPLATES names, with a MANIFEST.tsv. Each gets a tokenizer with Qwen 3's vocabulary, the
special tokens that the template has, and the BOS and EOS tokens of the manifest.

The second truth knows nothing of rolemask's ground truth: prompt and continuation, by prefix. For an answer, the template renders the
messages before it with the generation prompt, which is what the model is given. What the whole chat has behind that, the model must
generate, through the last special token that the template writes for this answer. Where one text does not start with the other, or the
template has no generation prompt, this truth cannot tell.
"""

import re
from collections.abc import Iterator, Sequence
from csv import DictReader
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from real import byte_level, given_folders

from rolemask import ChatError, UndetectedError, detect
from rolemask.chat_templates.compare import Status, compare_labels
from rolemask.chat_templates.derive import derive_with
from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder
from rolemask.chat_templates.rendering import common_prefix, guess_special_tokens
from rolemask.chat_templates.scenarios import FOLLOW_UP, THINKING_MODES, Scenario, sentinels
from rolemask.chat_templates.template import ChatTemplate, Message, RenderError, templates_of
from rolemask.matching.compiler import rules_for
from rolemask.matching.vocabulary import read_vocabulary

RIGHT, LOST, TOO_MUCH, REFUSED = "right", "tokens lost", "a token too many", "refused"

# Why nothing fits and nothing can be derived: a pattern of the message, the reason in words, and what to do. This list is closed.
REASONS = {
    "renders only a prompt, never an answer": ("the template asks for a verdict", "write the set by hand, with a verdict as its example"),
    "renders nothing but white space before a user's message": ("nothing shows where a question starts", "no set can: ids do not tell who speaks"),
    "renders only white space behind a question": ("nothing shows where an answer starts", "no set can: ids do not tell who speaks"),
    "does not render three questions and answers": ("the template refuses a plain chat", "write the set by hand"),
    "its headers cannot be markers": ("the headers are broken", "mend the template; the message says what is wrong with it"),
    "is trained, but the model never generates it": ("the set would train too much", "`rolemask new` writes it, with what to change"),
    "is not trained, but the model generates it": ("the set would lose tokens", "`rolemask new` writes it, with what to change"),
    r"generation prompt|header|message \d+": ("the template contradicts itself", "`rolemask new` writes the set, with the scenario: decide by hand"),
}  # fmt: skip

# EOS tokens by which a template without a manifest entry is known, the first that it has.
_EOS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")
_EOS += ("<|end|>", "<|EOT|>", "</s>")


@dataclass(frozen=True)
class Unseen:
    """A template that no set was written for."""

    name: str
    source: str
    bos_token: str
    eos_token: str
    original: bool

    @property
    def chat_template(self) -> ChatTemplate:
        """The template, with its BOS and EOS tokens."""
        return ChatTemplate(self.source, self.name, {"bos_token": self.bos_token, "eos_token": self.eos_token})

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """What looks like a special token in it."""
        return tuple(sorted({*guess_special_tokens(self.chat_template), self.bos_token, self.eos_token}))


@dataclass(frozen=True)
class Outcome:
    """What became of a template.

    Attributes:
        how: The set that `detect` found, or "derived", or "".
        result: RIGHT, LOST, TOO_MUCH or REFUSED.
        detail: The first difference, or the reason of the refusal.
    """

    name: str
    how: str
    result: str
    detail: str = ""

    @property
    def reason(self) -> str:
        """The entry of REASONS that a refusal falls under; empty if there is none."""
        return next((pattern for pattern in REASONS if re.search(pattern, self.detail)), "")


def unseen_templates() -> Iterator[Unseen]:
    """Yield the templates of the folders that ROLEMASK_UNSEEN_TEMPLATES names."""
    return (template for folder in given_folders("ROLEMASK_UNSEEN_TEMPLATES") for template in templates_in(folder))


def templates_in(folder: Path) -> Iterator[Unseen]:
    """Yield the templates that the MANIFEST.tsv of a folder names."""
    with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as lines:
        for row in DictReader(lines, delimiter="\t"):
            path = folder / f"{row['name']}.jinja"
            if not path.is_file():
                continue
            source = path.read_bytes().decode()
            stops = re.findall(r"'([^']+)'", (row["notes"] or "").partition("stop list:")[2])
            eos = row["eos_token"] or (stops[-1] if stops else next((one for one in _EOS if one in source), "</s>"))
            bos = row["bos_token"] or ("<|begin_of_text|>" if "<|start_header_id|>" in source else "<s>")
            yield Unseen(row["name"], source, bos, eos, row["original_or_modified"].startswith("original"))


def tokenizer_for(template: Unseen) -> Any:
    """Return a tokenizer that has the template and its special tokens."""
    variables = {"bos_token": template.bos_token, "eos_token": template.eos_token}
    # Not the cached one: a hundred vocabularies are much to keep.
    tokenizer = byte_level.__wrapped__("qwen3", template.special_tokens, **variables)
    tokenizer.chat_template = template.source
    tokenizer.name_or_path = template.name
    return tokenizer


def outcome_of(template: Unseen) -> Outcome:
    """Return what `detect` makes of a template, or `derive` if no set fits."""
    tokenizer = tokenizer_for(template)
    (chat_template,) = templates_of(tokenizer)
    finder = GroundTruthFinder(chat_template, read_vocabulary(tokenizer).special_tokens)
    try:
        markers = detect(tokenizer)
        how = markers.name
    except UndetectedError as undetected:
        try:
            derived = derive_with(finder, tokenizer)
        except ChatError as reason:
            return Outcome(template.name, "", REFUSED, str(reason))
        if derived.unsettled:
            return Outcome(template.name, "", REFUSED, str(derived.unsettled[0]) or str(undetected))
        markers, how = derived.markers, "derived"
    results = list(compare_labels(rules_for(markers, tokenizer), finder.truths, markers.masks_more))
    for kind, result in (("extra", TOO_MUCH), ("missing", LOST)):
        for found in results:
            if found.status is Status.DIFFERS and found.difference is not None and found.difference.kind == kind:
                return Outcome(template.name, how, result, f"{found.scenario}: {found.detail}")
    lost = next((found.scenario for found in results if found.status is Status.MASKS_MORE), None)
    detail = "" if lost is None else f"{lost}: {markers.masks_more_text}"
    return Outcome(template.name, how, RIGHT if lost is None else LOST, detail)


@cache
def outcomes() -> tuple[Outcome, ...]:
    """Return what became of each template at hand."""
    return tuple(outcome_of(template) for template in unseen_templates())


def second_truth(template: ChatTemplate, scenario: Scenario, special_tokens: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Return where the model starts and stops to generate each answer in the rendered scenario; None where this truth cannot tell."""
    whole = _rendered(template, scenario)
    found: list[tuple[int | None, int | None]] = []
    for index, message in enumerate(scenario.messages):
        if message["role"] == "assistant":
            found.append((None, None) if whole is None else _edges(template, scenario, index, whole, special_tokens))
    return found


def _edges(
    template: ChatTemplate, scenario: Scenario, index: int, whole: str, special_tokens: Sequence[str]
) -> tuple[int | None, int | None]:
    given = scenario.through(index)
    without = _rendered(template, given)
    if without is None:
        return None, None
    prompts = []
    for options in THINKING_MODES:
        prompt, plain = _rendered(template, given, prompt=True, **options), _rendered(template, given, **options)
        # What an option adds to the prompt counts, also if it changes the question too (GLM's `/nothink`).
        added = None if prompt is None or plain is None or not prompt.startswith(plain) else prompt[len(plain) :]
        prompts += [text for text in (prompt, None if added is None else without + added) if text is not None]
    fitting = [prompt for prompt in prompts if prompt.strip() and whole.startswith(prompt)]
    words = _words(scenario.messages[index])
    start = max(map(len, fitting), default=0)
    if not fitting or not words or words[0] not in whole[start:] or words[-1] not in whole[start:]:
        return None, None
    at, end = whole.index(words[0], start), whole.index(words[-1], start) + len(words[-1])
    if all(prompt == without for prompt in prompts):
        # No generation prompt: a header may be the model's or not, and after an answer one may always follow.
        return (None if whole[start:at].strip() else start), None
    # The stop token is there whatever follows.
    following = [scenario.through(index + 1), scenario.through(index + 1).with_message(FOLLOW_UP)]
    texts = [text for one in following if (text := _rendered(template, one)) is not None]
    if len(texts) < len(following) or not all(text[:end] == whole[:end] for text in texts):
        return start, None
    behind = common_prefix([text[end:] for text in (*texts, whole)])
    eos = str(template.variables["eos_token"])
    stops = [eos] if eos in behind else special_tokens
    ends = [match.end() for token in stops for match in re.finditer(re.escape(token), behind)]
    return start, end + max(ends) if ends else None


def _words(message: Message) -> list[str]:
    """Return the parts of a message that are found again in a text: its words, or what reasoning and calls have of the scenarios' words."""
    content = message["content"]
    if isinstance(content, str) and content.strip() and not message.get("tool_calls") and not message.get("reasoning_content"):
        return [content.strip()]
    return sentinels(message)


def _rendered(template: ChatTemplate, scenario: Scenario, *, prompt: bool = False, **options: Any) -> str | None:
    try:
        settings = {**scenario.options, **options}
        return template.render(scenario.messages, prompt=prompt, tools=list(scenario.tools) or None, **settings).text
    except RenderError:
        return None


def disagreements(unseen: Unseen) -> tuple[list[str], int]:
    """Return where the two truths disagree, and how many edges of answers both could tell."""
    template, special_tokens = unseen.chat_template, unseen.special_tokens
    finder = GroundTruthFinder(template, special_tokens)
    problems, compared = [], 0
    for scenario, truth in finder.truths:
        if not isinstance(truth, GroundTruth) or truth.is_verdict:
            continue
        form, _ = finder.renderer.render_in_accepted_form(scenario)
        for number, (ours, theirs) in enumerate(zip(truth.regions, second_truth(template, form, special_tokens), strict=True), start=1):
            for what, one, other in zip(("starts", "stops"), ours, theirs, strict=True):
                compared += other is not None
                if other is not None and one != other:
                    text = truth.text[min(one, other) : max(one, other)]
                    problems.append(f"{template.name}: {scenario.name}: answer {number} {what} at {one} or at {other}: {text!r} is between")
    return problems, compared

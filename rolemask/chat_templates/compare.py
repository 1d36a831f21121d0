"""Holding compiled rules to a chat template: what is trained against what the model has to generate, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder, lies_within
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import Scenario
from rolemask.chat_templates.template import ChatTemplate
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import DEFAULT_ROLES, make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules
from rolemask.matching.vocabulary import Vocabulary

Status = Literal["ok", "differs", "not supported"]
_CONTEXT = 40


@dataclass(frozen=True)
class ScenarioResult:
    """What came of one conversation.

    `detail` says why a shape is not supported, or shows the first difference; `notes` are facts that are no difference.
    `trained` and `expected` are the text with the trained stretches in ``[[ ]]``.
    """

    shape: str
    status: Status
    detail: str = ""
    notes: tuple[str, ...] = ()
    trained: str = ""
    expected: str = ""


def prove(
    rules: Rules, template: ChatTemplate, conversations: Iterable[Scenario], *, more_special_tokens: Iterable[str] = ()
) -> list[ScenarioResult]:
    """Compare the labels under the default policy with the truth, for each conversation.

    The tokenizer that `rules` were compiled for makes the ids; it must be able to encode. `more_special_tokens` are
    special tokens that it does not have: a small tokenizer made from the set itself knows only those that the set declares.
    """
    finder = GroundTruthFinder(template, {*rules.vocabulary.special_tokens, *more_special_tokens})
    return [_prove_one(rules, finder, conversation) for conversation in conversations]


def _prove_one(rules: Rules, finder: GroundTruthFinder, conversation: Scenario) -> ScenarioResult:
    try:
        truth = finder.find(conversation)
        ids, places = tokens_of(truth.text, rules.vocabulary)
    except UnsupportedScenarioError as reason:
        return ScenarioResult(conversation.name, "not supported", str(reason))
    roles = [role for role in DEFAULT_ROLES if role in rules.roles]
    masked = mask(ids, rules, make_policy(rules.roles, roles_to_train=roles))
    trained = [label != IGNORE_INDEX for label in masked.labels]
    expected = tokens_within(places, truth.regions, truth.text)
    notes: tuple[str, ...] = () if truth.prefix_stable else ("the template rewrites the past",)
    if finder.writes_prompts_only:
        notes += ("the template writes a prompt alone: a verdict was put behind it",)
    if truth.generated:
        notes += (_second_witness(trained, places, truth),)
    shown = (_shown(ids, trained, rules.vocabulary), _shown(ids, expected, rules.vocabulary))
    if trained == expected:
        return ScenarioResult(conversation.name, "ok", "", notes, *shown)
    return ScenarioResult(conversation.name, "differs", _first_difference(ids, trained, expected, rules.vocabulary), notes, *shown)


def tokens_of(text: str, vocabulary: Vocabulary) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a text, and where in its bytes each token stands.

    Raises:
        UnsupportedScenarioError: The tokens do not spell the text.
    """
    assert vocabulary.encode is not None
    ids = list(vocabulary.encode(text))
    data = text.encode()
    places, at = [], 0
    for id_ in ids:
        control = vocabulary.special_token_texts.get(id_)
        piece = vocabulary.pieces.get(id_, b"") if control is None else control.encode()
        if not data.startswith(piece, at) and piece[:1] == b" ":
            piece = piece[1:]  # SentencePiece's dummy space before a text is not in it
        skipped = at
        while not data.startswith(piece, at) and data[at : at + 1].isspace():
            at += 1  # some special tokens swallow the white space beside them
        if not data.startswith(piece, at):
            raise UnsupportedScenarioError(
                f"{vocabulary.name} changes the text {data[skipped : skipped + _CONTEXT]!r}, so places in it mean nothing"
            )
        places.append((at, at + len(piece)))
        at += len(piece)
    return ids, places


def tokens_within(places: Sequence[tuple[int, int]], regions: Sequence[tuple[int, int]], text: str) -> list[bool]:
    """Return, per token that stands at one of `places` in the bytes of a text, whether it lies in one of the `regions` of its letters."""
    in_bytes = [(len(text[:start].encode()), len(text[:stop].encode())) for start, stop in regions]
    # SentencePiece's dummy space behind a special token stands nowhere in the text: it goes with what follows it.
    return [lies_within(start, max(stop, start + 1), in_bytes) for start, stop in places]


def _second_witness(trained: Sequence[bool], places: Sequence[tuple[int, int]], truth: GroundTruth) -> str:
    generated = tokens_within(places, truth.generated, truth.text)
    if list(trained) == generated:
        return "the template's own `generation` blocks agree"
    more = sum(own and not ours for own, ours in zip(generated, trained, strict=True))
    fewer = sum(ours and not own for own, ours in zip(generated, trained, strict=True))
    return f"the template's own `generation` blocks hold {more} more tokens, and lack {fewer}"


def _shown(ids: Sequence[int], trained: Sequence[bool], vocabulary: Vocabulary) -> str:
    """Return the text with the trained stretches in brackets."""
    parts: list[str] = []
    run: list[int] = []
    for at, id_ in enumerate(ids):
        run.append(id_)
        if at + 1 == len(ids) or trained[at + 1] != trained[at]:
            text = vocabulary.text(run)
            parts.append(f"[[{text}]]" if trained[at] else text)
            run = []
    return "".join(parts)


def _first_difference(ids: Sequence[int], trained: Sequence[bool], expected: Sequence[bool], vocabulary: Vocabulary) -> str:
    wrong = [at for at in range(len(ids)) if trained[at] != expected[at]]
    first = wrong[0]
    last = first
    while last + 1 < len(ids) and last + 1 in wrong and trained[last + 1] == trained[first]:
        last += 1
    what = "trained, and is not the model's to write" if trained[first] else "not trained, and the model has to write it"
    before = vocabulary.text(ids[max(first - 20, 0) : first])[-_CONTEXT:]
    after = vocabulary.text(ids[last + 1 : last + 21])[:_CONTEXT]
    return f"{len(wrong)} tokens. {vocabulary.text(ids[first : last + 1])!r} is {what}: {before!r} >here< {after!r}"

"""Comparing the labels of a compiled marker set with the ground truth, token by token."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

from rolemask.chat_templates.ground_truth import GroundTruth, ScenarioTruth, lies_within
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES, make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary

_CONTEXT = 40  # characters shown before and after a difference


class Status(str, Enum):
    """How the labels of one scenario compare with the ground truth."""

    OK = "ok"
    DIFFERS = "differs"
    MASKS_MORE = "masks more"
    NOT_SUPPORTED = "not supported"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Difference:
    """The first run of tokens that are trained and should not be, or else the first that are not trained and should be.

    Attributes:
        tokens: How many tokens of the scenario differ, in this run and in all others.
        kind: "extra" if something is trained that should not be, "missing" if tokens are only lost.
        text: The text of the run.
        before: A few characters before it.
        after: A few characters after it.
    """

    tokens: int
    kind: Literal["extra", "missing"]
    text: str
    before: str
    after: str

    def __str__(self) -> str:
        what = "trained, but the model never generates it" if self.kind == "extra" else "not trained, but the model generates it"
        count = "1 token differs" if self.tokens == 1 else f"{self.tokens} tokens differ"
        return f"{count}. {self.text!r} is {what}: {self.before!r} >here< {self.after!r}"


@dataclass(frozen=True)
class ScenarioResult:
    """How the labels of one scenario compare with the ground truth.

    Attributes:
        scenario: The scenario's name.
        status: "ok", "differs", "not supported", or "masks more" if only what the set masks on purpose is lost.
        reason: Why the scenario is not supported, else empty.
        difference: The difference to look at first, if there is one.
        notes: Facts about the template that are no difference.
        trained: The text, with what is trained in ``[[ ]]``.
        expected: The text, with what should be trained in ``[[ ]]``.
    """

    scenario: str
    status: Status
    reason: str = ""
    difference: Difference | None = None
    notes: tuple[str, ...] = ()
    trained: str = ""
    expected: str = ""

    @property
    def detail(self) -> str:
        """The difference or the reason in words; empty if the labels agree."""
        return self.reason if self.difference is None else str(self.difference)


class Score(NamedTuple):
    """How the labels of one scenario compare with the ground truth: of `tokens` tokens, `right` are labelled right."""

    status: Status
    tokens: int = 0
    right: int = 0


def score_labels(rules: Rules, truth: GroundTruth | UnsupportedScenarioError, masks_more: Collection[str] = ()) -> Score:
    """Compare the labels of one scenario like `compare_labels`, without words: several times as fast."""
    if isinstance(truth, UnsupportedScenarioError):
        return Score(Status.NOT_SUPPORTED)
    try:
        labels = _label(rules, truth)
    except UnsupportedScenarioError:
        return Score(Status.NOT_SUPPORTED)
    return Score(labels.status(_roles_of(rules, masks_more)), len(labels.ids), len(labels.ids) - len(labels.wrong))


def compare_labels(rules: Rules, truths: Iterable[ScenarioTruth], masks_more: Collection[str] = ()) -> Iterator[ScenarioResult]:
    """Compare the labels under the default policy with the ground truth of each scenario, one after the other.

    The tokenizer that `rules` were compiled for must be able to encode. Tokens of the roles `masks_more` may be lost; nothing may be
    trained that the model does not generate.
    """
    may_lose = _roles_of(rules, masks_more)
    return (_compare_one(rules, scenario.name, truth, may_lose) for scenario, truth in truths)


def _roles_of(rules: Rules, names: Collection[str]) -> set[int]:
    return {rules.roles.index(name) for name in names}


def compare_with_toy_tokenizer(markers: MarkerSet, truths: Sequence[ScenarioTruth]) -> Iterator[ScenarioResult]:
    """Compare the labels of a set with ground truths, on a toy tokenizer.

    It has the words of the rendered texts as tokens, so that white space of contents merges with that of markers, as in real tokenizers.
    """
    texts = [truth.text for _, truth in truths if isinstance(truth, GroundTruth)]
    return compare_labels(compile_rules(markers, ToyTokenizer(markers, texts).vocabulary), truths, markers.masks_more)


def _compare_one(rules: Rules, name: str, truth: GroundTruth | UnsupportedScenarioError, may_lose: Collection[int]) -> ScenarioResult:
    if isinstance(truth, UnsupportedScenarioError):
        return ScenarioResult(name, Status.NOT_SUPPORTED, reason=str(truth))
    try:
        labels = _label(rules, truth)
    except UnsupportedScenarioError as reason:
        return ScenarioResult(name, Status.NOT_SUPPORTED, reason=str(reason))
    ids, trained, wrong = labels.ids, labels.trained, labels.wrong
    return ScenarioResult(
        name,
        labels.status(may_lose),
        difference=_first_difference(ids, trained, wrong, rules.vocabulary) if wrong else None,
        notes=tuple(_notes(truth, trained, labels.places)),
        trained=_with_brackets(ids, trained, rules.vocabulary),
        expected=_with_brackets(ids, labels.expected, rules.vocabulary),
    )


class _Labels(NamedTuple):
    """The tokens of a scenario: which are trained, which should be, and where they differ."""

    ids: list[int]
    places: list[tuple[int, int]]
    roles: list[int]
    trained: list[bool]
    expected: list[bool]
    wrong: list[int]

    def status(self, may_lose: Collection[int]) -> Status:
        if not self.wrong:
            return Status.OK
        excused = all(self.expected[at] and self.roles[at] in may_lose for at in self.wrong)
        return Status.MASKS_MORE if excused else Status.DIFFERS


def _label(rules: Rules, truth: GroundTruth) -> _Labels:
    ids, places = tokens_of(truth.text, rules.vocabulary)
    roles = [role for role in DEFAULT_ROLES if role in rules.roles]
    masked = mask(ids, rules, make_policy(rules.roles, roles_to_train=roles))
    trained = [label != IGNORE_INDEX for label in masked.labels]
    expected = tokens_within(places, truth.regions, truth.text)
    wrong = [at for at in range(len(ids)) if trained[at] != expected[at]]
    return _Labels(ids, places, masked.roles, trained, expected, wrong)


def tokens_of(text: str, vocabulary: Vocabulary) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a text, and the range [start, stop) of each token in its bytes.

    Raises:
        UnsupportedScenarioError: The tokens don't spell the text.
    """
    assert vocabulary.encode is not None
    ids = list(vocabulary.encode(text))
    data = text.encode()
    places, at = [], 0
    for id_ in ids:
        special = vocabulary.special_token_texts.get(id_)
        piece = vocabulary.pieces.get(id_, b"") if special is None else special.encode()
        if not data.startswith(piece, at) and piece[:1] == b" ":
            piece = piece[1:]  # SentencePiece adds a space before a text
        skipped = at
        while not data.startswith(piece, at) and data[at : at + 1].isspace():
            at += 1  # some special tokens include the white space next to them
        if not data.startswith(piece, at):
            raise UnsupportedScenarioError(
                f"{vocabulary.name} changes the text {data[skipped : skipped + _CONTEXT]!r}, so its tokens have no place in it"
            )
        places.append((at, at + len(piece)))
        at += len(piece)
    return ids, places


def tokens_within(places: Sequence[tuple[int, int]], regions: Sequence[tuple[int, int]], text: str) -> list[bool]:
    """Return, per token, whether it lies in one of the regions. `places` are ranges of bytes, `regions` ranges of characters."""
    in_bytes = [(len(text[:start].encode()), len(text[:stop].encode())) for start, stop in regions]
    # The space that SentencePiece adds after a special token is empty in the text: it belongs to what follows.
    return [lies_within(start, max(stop, start + 1), in_bytes) for start, stop in places]


def _notes(truth: GroundTruth, trained: Sequence[bool], places: Sequence[tuple[int, int]]) -> list[str]:
    notes = []
    if not truth.prefix_stable:
        notes.append("the template changes earlier messages")
    if truth.is_verdict:
        notes.append("the template renders only a prompt: a verdict was appended")
    if truth.generated:
        notes.append(_about_generation_blocks(truth, trained, places))
    return notes


def _about_generation_blocks(truth: GroundTruth, trained: Sequence[bool], places: Sequence[tuple[int, int]]) -> str:
    generated = tokens_within(places, truth.generated, truth.text)
    if list(trained) == generated:
        return "the template's own `generation` blocks agree"
    more = sum(theirs and not ours for theirs, ours in zip(generated, trained, strict=True))
    fewer = sum(ours and not theirs for theirs, ours in zip(generated, trained, strict=True))
    return f"the template's own `generation` blocks have {more} more tokens, and lack {fewer}"


def _with_brackets(ids: Sequence[int], trained: Sequence[bool], vocabulary: Vocabulary) -> str:
    parts: list[str] = []
    run: list[int] = []
    for at, id_ in enumerate(ids):
        run.append(id_)
        if at + 1 == len(ids) or trained[at + 1] != trained[at]:
            text = vocabulary.text(run)
            parts.append(f"[[{text}]]" if trained[at] else text)
            run = []
    return "".join(parts)


def _first_difference(ids: Sequence[int], trained: Sequence[bool], wrong: Sequence[int], vocabulary: Vocabulary) -> Difference:
    first = next((at for at in wrong if trained[at]), wrong[0])
    stop = first + 1
    while stop in wrong and trained[stop] == trained[first]:
        stop += 1
    return Difference(
        tokens=len(wrong),
        kind="extra" if trained[first] else "missing",
        text=vocabulary.text(ids[first:stop]),
        before=vocabulary.text(ids[max(first - 20, 0) : first])[-_CONTEXT:],
        after=vocabulary.text(ids[stop : stop + 20])[:_CONTEXT],
    )

"""How well a marker set fits a chat template: its labels are compared with the ground truths, and sets that agree are ranked.

The sets are compared on toy tokenizers, which have the model's special tokens that matter, and are fast.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from rolemask.chat_templates.candidates import Candidate, Match
from rolemask.chat_templates.compare import Score, Status, compare_labels, score_labels
from rolemask.chat_templates.ground_truth import GroundTruth, ScenarioTruth
from rolemask.chat_templates.identity import Identity
from rolemask.chat_templates.scenarios import ONE_TURN, THREE_TURNS
from rolemask.errors import TokenizerMismatchError
from rolemask.markers.spec import MarkerSet
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary

DECISIVE = (THREE_TURNS, ONE_TURN)
"""The scenarios that rule most sets out. The first that the template can write must come out right."""

_RIGHT = (Status.OK, Status.MASKS_MORE)


@dataclass(frozen=True, order=True)
class Fit:
    """How well a set fits a model and its chat template. The greatest one is the best.

    Attributes:
        complete: Whether the set masks nothing on purpose.
        match: What the set names of the model.
        passed: How many scenarios agree.
        placeholders: How many of the model's special tokens the set knows as media. Any other set would train them.
        lacking: 0, less what the set has and the model doesn't: the number of spans, and the share of media tokens.
        shared: What both have: the number of spans, and the share of media tokens.
        brevity: Minus the number of markers.
        name: The set's name, so that the choice is always the same.
    """

    complete: bool
    match: Match
    passed: int
    placeholders: int
    lacking: float
    shared: float
    brevity: int
    name: str
    markers: MarkerSet = field(compare=False)


class Reference:
    """What sets are compared with: the ground truths of a model's chat template.

    Attributes:
        identity: The model.
        truths: The ground truths, or the reasons why there are none.
        texts: What the template writes.
        decisive: The ground truth that must come out right. None if the template writes no such scenario: then the others decide.
        first: The ground truths that are compared first: the decisive one, or else all.
        first_texts: What the template writes in these.
    """

    def __init__(self, identity: Identity, truths: Sequence[ScenarioTruth]) -> None:
        self.identity = identity
        self.truths = truths
        self.texts = _texts(truths)
        supported = {scenario.name: (scenario, truth) for scenario, truth in truths if isinstance(truth, GroundTruth)}
        self.decisive = next((supported[one.name] for one in DECISIVE if one.name in supported), None)
        self.first: Sequence[ScenarioTruth] = truths if self.decisive is None else [self.decisive]
        self.first_texts = _texts(self.first)

    @cached_property
    def special_tokens(self) -> Vocabulary | None:
        """The special tokens of the model that the texts have, and those around a chat: toy tokenizers have them too."""
        vocabulary = self.identity.vocabulary
        if vocabulary is None:
            return None
        around = (vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id)
        everything = "\n".join(self.texts)
        tokens = {text: id_ for text, id_ in vocabulary.special_tokens.items() if id_ in around or text in everything}
        return replace(vocabulary, pieces={}, special_tokens=tokens, encode=None)


def _texts(truths: Iterable[ScenarioTruth]) -> list[str]:
    return [truth.text for _, truth in truths if isinstance(truth, GroundTruth)]


class Comparison:
    """A set beside a reference. Scenarios are compared when they are asked for, once."""

    def __init__(self, candidate: Candidate, markers: MarkerSet, reference: Reference) -> None:
        self.candidate = candidate
        self.markers = markers
        self.reference = reference
        self._scores: dict[str, Score] = {}

    @cached_property
    def rules(self) -> Rules | None:
        """The compiled set, or None if it has markers that no tokenizer at hand has."""
        toy = ToyTokenizer(self.markers, self.reference.texts, self.reference.special_tokens)
        for vocabulary in (toy.vocabulary, self.reference.identity.vocabulary):
            try:
                return None if vocabulary is None else compile_rules(self.markers, vocabulary)
            except TokenizerMismatchError:  # markers that are given as ids exist in the model's own vocabulary only
                continue
        return None

    @property
    def is_right(self) -> bool:
        """Whether the decisive scenario comes out right; if the template writes none, this is left to the others."""
        return self.reference.decisive is None or self._score(self.reference.decisive).status in _RIGHT

    @cached_property
    def potential(self) -> Fit:
        """The best fit that the set could be: all scenarios agree."""
        identity = self.reference.identity
        assert identity.template is not None
        special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
        # MiniCPM-V has the unknown token as a placeholder: most tokenizers have one, and it says nothing of media there.
        ordinary = {identity.template.variables.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        media = [token for token in self.markers.media_tokens if "*" not in token and token not in ordinary]
        known = [token for token in media if token in special_tokens]
        spans = [str(start) for marker in self.markers.markers if marker.within is not None for start in marker.start]
        rendered = [start for start in spans if start in identity.template.source]
        return Fit(
            complete=not self.markers.masks_more,
            match=self.candidate.match,
            passed=len(self.reference.texts),
            placeholders=len(known),
            lacking=(len(rendered) - len(spans)) + (len(known) - len(media)) / (len(media) or 1),
            shared=len(rendered) + len(known) / (len(media) or 1),
            brevity=-len(self.markers.markers),
            name=self.markers.name,
            markers=self.markers,
        )

    def fit(self) -> Fit | None:
        """Compare all scenarios, until the first that differs; None if one does, or none agrees."""
        passed = 0
        for truth in self.reference.truths:
            status = self._score(truth).status
            if status is Status.DIFFERS:
                return None
            passed += status is Status.OK
        return replace(self.potential, passed=passed) if passed else None

    def likeness(self, truths: Sequence[ScenarioTruth]) -> tuple[int, float]:
        """Return how many scenarios come out right, and the share of their tokens that are labelled right."""
        scores = [self._score(truth) for truth in truths]
        tokens, right = sum(score.tokens for score in scores), sum(score.right for score in scores)
        return sum(score.status in _RIGHT for score in scores), right / (tokens or 1)

    def first_difference(self) -> str:
        """Return the first scenario that differs, and where."""
        assert self.rules is not None
        for result in compare_labels(self.rules, self.reference.truths, self.markers.masks_more):
            if result.status is Status.DIFFERS:
                return f"{result.scenario}: {result.difference}"
        return "none of the scenarios that decide can be compared"

    def _score(self, truth: ScenarioTruth) -> Score:
        name = truth[0].name
        if name not in self._scores:
            unknown = Score(Status.NOT_SUPPORTED)
            self._scores[name] = unknown if self.rules is None else score_labels(self.rules, truth[1], self.markers.masks_more)
        return self._scores[name]


def compare_candidates(candidates: Iterable[Candidate], reference: Reference) -> list[Comparison]:
    """Load the candidates and put them beside the reference. Malformed ones are left out, with a warning."""
    loaded = ((candidate, candidate.load()) for candidate in candidates)
    return [Comparison(candidate, markers, reference) for candidate, markers in loaded if markers is not None]

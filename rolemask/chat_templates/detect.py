"""Finding the registered marker set of a processor, tokenizer, model or configuration.

If there is a chat template, it decides: each set whose assistant's headers occur in what the template writes is compared with it on a toy
tokenizer. Three turns come first, since they rule most sets out; then the sets are compared in full, from the one that would be the best
choice downwards, until no other can be a better one.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from rolemask.chat_templates.compare import Score, Status, compare_labels, score_labels
from rolemask.chat_templates.derive import derive, derive_with
from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder, ScenarioTruth
from rolemask.chat_templates.identity import Identity, identify
from rolemask.chat_templates.loading import load_processor
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS, THREE_TURNS, Scenario, forms_of
from rolemask.chat_templates.template import RenderError
from rolemask.errors import ChatError, RoleMaskError, TokenizerMismatchError, UndetectedError, UndetectedReason
from rolemask.markers.proofs import proven_hashes, read_proofs
from rolemask.markers.registry import glance, is_built_in, load_file, registered, sets_of_model
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES, choice
from rolemask.matching.compiler import Rules, compile_rules, single_id
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary
from rolemask.types import Fallback

logger = logging.getLogger("rolemask")

_MEDIA_ATTRIBUTES = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")
_RIGHT = (Status.OK, Status.MASKS_MORE)
_NEAREST_COMPARED = 5  # sets that are compared in full to name the nearest
_NEAREST_TRIED = 15  # sets that are tried for that if no set's headers occur in the template's text
_ROLE = re.compile(r"{{\s*role\s*}}")
_ONE_TURN = next(scenario for scenario in SCENARIOS if scenario.name == "one turn")


@dataclass(frozen=True, order=True)
class _Match:
    """What a registered set names of a model, the strongest first. `template`: the set is proven on this very template."""

    template: bool
    model_id: bool
    model_type: bool
    processor: bool

    def __bool__(self) -> bool:
        return self.template or self.model_id or self.model_type or self.processor


@dataclass(frozen=True)
class _Candidate:
    """A file of the registry: what it says, what it names of the model, and which of its special tokens the model lacks."""

    path: Path
    data: Mapping[str, Any]
    match: _Match
    lacking: tuple[str, ...]


@dataclass(frozen=True, order=True)
class _Fit:
    """A set that agrees with the chat template. The greatest one is the best.

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
    match: _Match
    passed: int
    placeholders: int
    lacking: float
    shared: float
    brevity: int
    name: str
    markers: MarkerSet = field(compare=False)


class _NotFoundError(Exception):
    """No registered set fits; the message says why, and `advice` what to do instead of a fallback."""

    def __init__(self, message: str, reason: UndetectedReason, advice: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.advice = advice
        self.nearest = nearest


def detect(processor: object, *, fallback: Fallback | None = None) -> MarkerSet:
    """Find the registered marker set of a model.

    >>> from types import SimpleNamespace
    >>> detect(SimpleNamespace(model_type="gemma4")).name
    'gemma4'

    If there is a chat template, it decides: a set is chosen only if its labels agree with the template wherever that can be asked, in a
    chat of three turns above all. Sets that mask nothing on purpose come before those that do (`MarkerSet.masks_more`). Then the best match
    wins: a set proven on this very template, one that names the model id, the model type, the processor's class or one that it inherits
    from. Without a chat template, only these names count.

    Args:
        processor: A processor or tokenizer, or a hub id or folder, from which Transformers loads it. If that can't be loaded, as without a
            network, a set that names the id is returned with a warning: no chat template was compared. A model or its configuration works
            too, but says less.
        fallback: What to do if no set fits. None raises. ``"derive"`` derives a set from the chat template, and warns about what could not
            be derived, or is lost. ``"media"`` returns a set without roles, which trains everything except media and padding, and warns.

    Raises:
        UndetectedError: No set fits, and there is no fallback, or the derived set would train too much. `reason` is one of a closed list;
            the message says what to do next, and has the nearest set and where it differs.
        ChatError: The chat template is no text; or `fallback="derive"`, and nothing can be derived.
        PolicyError: An unknown fallback.
        MissingExtraError: A hub id or folder was given, and Transformers is not installed.
    """
    if fallback is not None:
        choice("fallback", fallback, get_args(Fallback))
    if isinstance(processor, str | Path):
        name = str(processor)
        try:
            processor = load_processor(name, needed_for=f"detect({name!r})")
        except ChatError as error:
            return _find_by_id(name, error)
    identity = identify(processor)
    try:
        found = _find(identity)
    except _NotFoundError as error:
        return _fall_back(processor, identity, error, fallback)
    on_purpose = f", which masks on purpose some of what the model generates: {found.masks_more_text}" if found.masks_more else ""
    logger.info("%s: the marker set is %r%s", identity.name, found.name, on_purpose)
    return found


def _find_by_id(model: str, error: ChatError) -> MarkerSet:
    """Return the set that names a hub id whose tokenizer cannot be loaded.

    Raises:
        UndetectedError: No set names it, or several do.
    """
    found = sets_of_model(model)
    if len(found) != 1:
        named = f"several marker sets name it: {', '.join(path.stem for path in found)}" if found else "no marker set names it"
        raise UndetectedError(f"{error}; and {named}", reason="ambiguous-names" if found else "unnamed") from error
    logger.warning("%s. The marker set is %r by the model's name alone: its chat template was not compared", error, found[0].stem)
    return load_file(found[0])


def _fall_back(processor: object, identity: Identity, why: _NotFoundError, fallback: Fallback | None) -> MarkerSet:
    if fallback == "media":
        logger.warning("%s: %s EVERYTHING EXCEPT MEDIA AND PADDING IS TRAINED, user messages too", identity.name, why)
        return _media_only(processor, identity)
    if fallback is None or why.reason == "broken-template":
        raise UndetectedError(f"{identity.name}: {why} {why.advice}", reason=why.reason, nearest=why.nearest)
    if identity.finder is not None and identity.vocabulary is not None:
        derived = derive_with(identity.finder, processor)
    else:
        derived = derive(processor)  # says what is missing
    if too_much := next((problem for problem in derived.unsettled if problem.trains_too_much), None):
        raise UndetectedError(
            f"{identity.name}: {why} A set derived from its chat template would train what the model never generates: {too_much}. "
            "`rolemask new` writes it to a file, to be corrected",
            reason="trains-too-much",
            nearest=why.nearest,
        )
    logger.warning("%s: %s Derived a set from the chat template. %s", identity.name, why, "; ".join(map(str, derived.unsettled)))
    return derived.markers


# --- by names


def _find(identity: Identity) -> MarkerSet:
    """Return the set that fits best.

    Raises:
        _NotFoundError: No set fits.
    """
    paths = registered()
    if identity.finder is None:
        files = {path: glance(path) for path in paths}
        return _find_by_names([candidate for candidate in _candidates(files, identity) if candidate.match], identity)
    sha256 = identity.finder.renderer.template.sha256
    # Files that are not built in are looked at in any case, so that a malformed one is named whatever is found.
    files = {path: glance(path) for path in paths if sha256 in proven_hashes(path) or not is_built_in(path)}
    proven = [candidate for candidate in _candidates(files, identity) if candidate.match.template]
    if (found := _find_proven(proven, identity, identity.finder)) is not None:
        return found
    files |= {path: glance(path) for path in paths if path not in files}
    return _find_by_template(_candidates(files, identity), identity, identity.finder)


def _candidates(files: Mapping[Path, Mapping[str, Any]], identity: Identity) -> list[_Candidate]:
    processors = {name for data in files.values() for name in data.get("match", {}).get("processor", ())}
    processor = next((name for name in identity.processors if name in processors), None)  # the nearest class that some set names
    found = []
    for path, data in files.items():
        names = data.get("match", {})
        match = _Match(
            template=identity.template is not None and identity.template.sha256 in proven_hashes(path),
            model_id=_names_one_of(names.get("model_id", ()), identity.model_ids),
            model_type=bool(identity.model_types & set(names.get("model_type", ()))),
            processor=processor in names.get("processor", ()),
        )
        lacking = [
            token for token in data.get("special_tokens", ()) if identity.vocabulary and single_id(token, identity.vocabulary) is None
        ]
        if data:  # else it cannot be read
            found.append(_Candidate(path, data, match, tuple(lacking)))
    return found


def _names_one_of(patterns: Iterable[str], model_ids: Iterable[str]) -> bool:
    return any(fnmatchcase(model.lower(), pattern.lower()) for pattern in patterns for model in model_ids)


def _find_by_names(candidates: Sequence[_Candidate], identity: Identity) -> MarkerSet:
    advice = "Pass a processor or tokenizer that has a chat template, or `rolemask.load` the set by its name: `rolemask list` has them all"
    usable = sorted((candidate for candidate in candidates if not candidate.lacking), key=lambda one: one.match, reverse=True)
    if not usable and candidates:
        one = max(candidates, key=lambda one: one.match)
        raise _NotFoundError(f"{one.path.stem!r} names it, but its vocabulary {_lacks(one)}.", "other-vocabulary", advice, one.path.stem)
    if not usable:
        _refuse_mistral(identity)
        raise _NotFoundError(
            "no marker set names it: it has no chat template, and its model id, type and processor are unknown.", "unnamed", advice
        )
    equal = [candidate.path for candidate in usable if candidate.match == usable[0].match]
    if len(equal) > 1:
        names = ", ".join(path.stem for path in equal)
        raise _NotFoundError(f"it has no chat template, and it may follow {names}.", "ambiguous-names", advice)
    markers = _load(equal[0])
    if markers is None:
        raise _NotFoundError(f"{equal[0]} is malformed: run `rolemask check`.", "malformed-set", "Then repair it, or remove it")
    return markers


def _lacks(candidate: _Candidate) -> str:
    return f"lacks its special token{'s' if len(candidate.lacking) > 1 else ''} {', '.join(map(repr, candidate.lacking))}"


def _refuse_mistral(identity: Identity) -> None:
    """Name the sets for the version of a mistral-common tokenizer: those whose name or alias has the version in it."""
    if identity.mistral_version is None:
        return
    stem = f"mistral_{identity.mistral_version}"
    names = {path.stem: [path.stem, *glance(path).get("aliases", ())] for path in registered()}
    sets = [name for name, all_names in names.items() if any(one == stem or one.startswith(f"{stem}_") for one in all_names)]
    sets.sort(key=lambda name: not name.startswith("mistral"))  # before those of other names
    if sets:
        raise _NotFoundError(
            f"a tokenizer of mistral-common has no chat template. For its version: {identity.mistral_version} -> {' or '.join(sets)}.",
            "mistral-version",
            f"Use rolemask.load({sets[0]!r}), or the set of a model with images, audio or reasoning of its own: `rolemask list`",
            sets[0],
        )


def _load(path: Path) -> MarkerSet | None:
    try:
        return load_file(path)
    except Exception as error:  # whatever is wrong with one file, it must not hide the others
        logger.warning("skipped a malformed marker set: %s", str(error).partition("\n")[0])
        return None


# --- by the template's hash


def _find_proven(candidates: Sequence[_Candidate], identity: Identity, finder: GroundTruthFinder) -> MarkerSet | None:
    """Return the best set that is proven on this very template. The proof has all scenarios, so three turns are looked at again only.

    None if that doesn't settle it: a proof is stale, no set comes out right, or the best one masks more on purpose.
    """
    if not candidates:
        return None
    decisive = next(filter(None, (_truth_of(finder, scenario) for scenario in (THREE_TURNS, _ONE_TURN))), None)
    if decisive is None:
        return None
    standard = _Standard(identity, [decisive], decisive)
    fits = []
    for candidate in candidates:
        markers = _load(candidate.path)
        if markers is None:
            return None
        passed = _passed_in_proof(markers, finder.renderer.template.sha256)
        if not passed:
            return None
        if not candidate.lacking and _Trial(candidate, markers, standard).is_right:
            fits.append(_fit(candidate.match, passed, markers, identity))
    best = max(fits, default=None)
    return best.markers if best is not None and best.complete else None


def _passed_in_proof(markers: MarkerSet, sha256: str) -> int:
    """Return how many scenarios agree in the proofs on a template; 0 if there is none that still holds."""
    try:
        proofs = read_proofs(Path(markers.origin))
    except RoleMaskError:  # `rolemask check` reports it
        return 0
    return max((len(proof.passed) for proof in proofs if proof.sha256 == sha256 and not proof.is_stale(markers)), default=0)


def _truth_of(finder: GroundTruthFinder, scenario: Scenario) -> ScenarioTruth | None:
    try:
        return scenario, finder.find(scenario)
    except UnsupportedScenarioError:
        return None


# --- by what the template writes


class _Standard:
    """What sets are compared with: the ground truths of a model's template. `decisive` is the scenario that must come out right."""

    def __init__(self, identity: Identity, truths: Sequence[ScenarioTruth], decisive: ScenarioTruth | None) -> None:
        self.identity = identity
        self.truths = truths
        self.decisive = decisive
        self.texts = [truth.text for _, truth in _supported(truths)]

    @cached_property
    def written(self) -> Vocabulary | None:
        """The special tokens of the model that the texts have, and those around a chat: toy tokenizers have them too."""
        vocabulary = self.identity.vocabulary
        if vocabulary is None:
            return None
        around = (vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id)
        everything = "\n".join(self.texts)
        tokens = {text: id_ for text, id_ in vocabulary.special_tokens.items() if id_ in around or text in everything}
        return replace(vocabulary, pieces={}, special_tokens=tokens, encode=None)


class _Trial:
    """A set beside the ground truths of a template, on a toy tokenizer: that has the special tokens that matter, and is fast.

    `potential` is the best fit that the set could be.
    """

    def __init__(self, candidate: _Candidate, markers: MarkerSet, standard: _Standard) -> None:
        self.candidate = candidate
        self.markers = markers
        self.standard = standard
        self.potential = _fit(candidate.match, len(standard.texts), markers, standard.identity)
        self._scores: dict[str, Score] = {}

    @cached_property
    def rules(self) -> Rules | None:
        toy = ToyTokenizer(self.markers, self.standard.texts, self.standard.written)
        for vocabulary in (toy.vocabulary, self.standard.identity.vocabulary):
            try:
                return None if vocabulary is None else compile_rules(self.markers, vocabulary)
            except TokenizerMismatchError:  # markers that are given as ids exist in the model's own vocabulary only
                continue
        return None

    def score(self, truth: ScenarioTruth) -> Score:
        """Return how the labels of one scenario compare."""
        name = truth[0].name
        if name not in self._scores:
            unknown = Score(Status.NOT_SUPPORTED)
            self._scores[name] = unknown if self.rules is None else score_labels(self.rules, truth[1], self.markers.masks_more)
        return self._scores[name]

    @property
    def is_right(self) -> bool:
        """Whether the decisive scenario comes out right; if the template writes none, this is left to the others."""
        return self.standard.decisive is None or self.score(self.standard.decisive).status in _RIGHT

    def fit(self) -> _Fit | None:
        """Compare all scenarios, until the first that differs."""
        passed = 0
        for truth in self.standard.truths:
            status = self.score(truth).status
            if status is Status.DIFFERS:
                return None
            passed += status is Status.OK
        return replace(self.potential, passed=passed) if passed else None

    def likeness(self, truths: Sequence[ScenarioTruth]) -> tuple[int, float]:
        """Return how many scenarios come out right, and the share of their tokens that are labelled right."""
        scores = [self.score(truth) for truth in truths]
        return sum(score.status in _RIGHT for score in scores), sum(score.right for score in scores) / (
            sum(score.tokens for score in scores) or 1
        )

    def first_difference(self) -> str:
        """Return the first scenario that differs, and where."""
        assert self.rules is not None
        for result in compare_labels(self.rules, self.standard.truths, self.markers.masks_more):
            if result.status is Status.DIFFERS:
                return f"{result.scenario}: {result.difference}"
        return "none of the scenarios that decide can be compared"


def _supported(truths: Sequence[ScenarioTruth]) -> list[tuple[Scenario, GroundTruth]]:
    return [(scenario, truth) for scenario, truth in truths if isinstance(truth, GroundTruth)]


def _find_by_template(candidates: Sequence[_Candidate], identity: Identity, finder: GroundTruthFinder) -> MarkerSet:
    _refuse_broken(finder)
    truths = finder.truths
    supported = {scenario.name: truth for scenario, truth in _supported(truths)}
    if not supported:
        _refuse_silent(finder)
    usable = [candidate for candidate in candidates if not candidate.lacking]
    decisive = next(((one, supported[one.name]) for one in (THREE_TURNS, _ONE_TURN) if one.name in supported), None)
    standard = _Standard(identity, truths, decisive)
    texts = standard.texts if decisive is None else [decisive[1].text]

    def tried(some: Iterable[_Candidate]) -> Iterator[_Trial]:
        for candidate in some:
            markers = _load(candidate.path)
            if markers is not None:
                yield _Trial(candidate, markers, standard)

    trials = list(tried(candidate for candidate in usable if _may_write(candidate.data, texts)))
    best: _Fit | None = None
    for trial in sorted((trial for trial in trials if trial.is_right), key=lambda trial: trial.potential, reverse=True):
        if best is not None and trial.potential < best:
            break
        fit = trial.fit()
        best = fit if best is None or (fit is not None and fit > best) else best
    if best is not None:
        return best.markers
    if not trials and (writers := [one for one in candidates if _lacks_what_is_written(one, texts)]):
        raise _other_vocabulary(writers, texts[0])
    if not trials:
        usable.sort(key=lambda one: (_count_special(one, texts[0]), one.match), reverse=True)
        trials = list(tried(usable[:_NEAREST_TRIED]))
    raise _no_set_fits(trials, standard)


def _count_special(candidate: _Candidate, text: str) -> int:
    return sum(token in text for token in candidate.data.get("special_tokens", ()))


def _may_write(data: Mapping[str, Any], texts: Sequence[str]) -> bool:
    """Whether one of the assistant's headers may occur in the texts. Where none does, no turn of the assistant is found."""
    words = data.get("role_names")
    for marker in data.get("markers", ()):
        roles, starts = (value if isinstance(value, list) else [value] for value in (marker.get("role"), marker.get("start")))
        for role in (role for role in DEFAULT_ROLES if role in roles):
            word = words.get(role, role) if isinstance(words, dict) else role
            fixed = [_fixed_part(start, str(word)) for start in starts]
            if any(part in text for part in fixed for text in texts):
                return True
    return False


def _lacks_what_is_written(candidate: _Candidate, texts: Sequence[str]) -> bool:
    """Whether the template writes the assistant's header, and the special tokens that the vocabulary lacks."""
    written = all(any(token in text for text in texts) for token in candidate.lacking)
    return bool(candidate.lacking) and written and _may_write(candidate.data, texts)


def _fixed_part(start: object, word: str) -> str:
    """Return the part of a marker's start that is known without Jinja; nothing of ids, which may spell anything."""
    if not isinstance(start, str):
        return ""
    before, *after = _ROLE.split(start)
    return word.join([before, *after]).partition("{")[0]


def _no_set_fits(trials: Sequence[_Trial], standard: _Standard) -> _NotFoundError:
    """Return the error with the nearest set. The likeliest after the decisive scenario are compared in full."""
    advice = "`rolemask new` starts a file; fallback='derive' derives a set from the chat template"
    first = standard.truths if standard.decisive is None else [standard.decisive]
    able = [trial for trial in trials if trial.rules is not None]
    if not able:
        return _NotFoundError("no registered marker set fits its chat template.", "no-set-fits", advice)
    likely = sorted(able, key=lambda trial: (*trial.likeness(first), trial.potential), reverse=True)[:_NEAREST_COMPARED]
    nearest = max(likely, key=lambda trial: (*trial.likeness(standard.truths), trial.potential))
    name = nearest.markers.name
    return _NotFoundError(
        f"no registered marker set fits its chat template. The nearest is {name!r}: {nearest.first_difference()}.",
        "no-set-fits",
        advice,
        name,
    )


def _other_vocabulary(writers: Sequence[_Candidate], text: str) -> _NotFoundError:
    """Return the error for a template and a tokenizer of two models: the text has the headers of `writers`, and tokens that they lack."""
    nearest = max(writers, key=lambda one: (_count_special(one, text), _count_names(one.data), one.path.stem))
    return _NotFoundError(
        f"no registered marker set that fits its chat template has its special tokens in this vocabulary. The nearest is "
        f"{nearest.path.stem!r}: the vocabulary {_lacks(nearest)}.",
        "other-vocabulary",
        "Are the tokenizer and the template of the same model? If so, `rolemask new` starts a file; fallback='derive' derives a set",
        nearest.path.stem,
    )


def _refuse_broken(finder: GroundTruthFinder) -> None:
    """Refuse a template that is no Jinja: compiling it once more for each scenario would only take time."""
    try:
        finder.renderer.template.render([])
    except RenderError as error:
        if error.is_syntax:
            raise _broken(error) from error


def _refuse_silent(finder: GroundTruthFinder) -> None:
    """Say why the template writes no scenario: it fails on each, or it leaves out a part of each."""
    first: RenderError | None = None
    for scenario in SCENARIOS:
        for variant in (variant for variants in forms_of(scenario) for variant in variants):
            try:
                finder.renderer.render(variant)
            except RenderError as error:
                first = first or error
                continue
            reasons = dict.fromkeys(str(truth) for _, truth in finder.truths)
            raise _NotFoundError(
                f"its chat template writes no chat in full that it is asked for: {next(iter(reasons))}.",
                "silent-template",
                "`rolemask.load` the set by its name. If the template needs variables, pass `compile` chat_template_kwargs={...}",
            )
    if first is not None:
        raise _broken(first)


def _broken(error: RenderError) -> _NotFoundError:
    where = "" if error.line is None else f"line {error.line}: "
    return _NotFoundError(
        f"its chat template is broken: {where}{error.reason}.",
        "broken-template",
        "Repair the template. If it needs variables, `rolemask.load` the set by its name and pass `compile` chat_template_kwargs={...}",
    )


# --- by special tokens


def nearest_set(vocabulary: Vocabulary) -> str | None:
    """Return the name of the registered set whose tokens are nearest to those of a vocabulary, or None if no set has any.

    A set that has all its special tokens there comes first, then one that names the tokenizer. Then the one counts that speaks of the most
    of the vocabulary's special tokens, less what it has and the vocabulary hasn't, then the one that names the most models.
    """
    around = {vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id}  # most sets speak of these
    known = [token for token, id_ in vocabulary.special_tokens.items() if id_ not in around]
    best = None
    for path in registered():
        data = glance(path)
        special_tokens = data.get("special_tokens", ())
        found = [token for token in special_tokens if single_id(token, vocabulary) is not None]
        if not found:
            continue
        media = [token for tokens in data.get("media", {}).values() for token in tokens if "*" not in token]
        text = "\n".join(_texts_in([special_tokens, media, data.get("markers")]))
        rank = (
            len(found) == len(special_tokens),
            _names_one_of(data.get("match", {}).get("model_id", ()), [vocabulary.name]),
            sum(token in text for token in known) - sum(token not in vocabulary.special_tokens for token in (*special_tokens, *media)),
            _count_names(data),
            path.stem,
        )
        best = rank if best is None else max(best, rank)
    return None if best is None else best[-1]


def _count_names(data: Mapping[str, Any]) -> int:
    return sum(len(names) for names in data.get("match", {}).values())


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts_in(part)
    elif isinstance(value, Mapping):
        yield from _texts_in(list(value.values()))


# --- what a choice is made of


def _fit(match: _Match, passed: int, markers: MarkerSet, identity: Identity) -> _Fit:
    assert identity.template is not None
    special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
    # MiniCPM-V has the unknown token as a placeholder: most tokenizers have one, and it says nothing of media there.
    ordinary = {identity.template.variables.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    media = [token for token in markers.media_tokens if "*" not in token and token not in ordinary]
    known = [token for token in media if token in special_tokens]
    spans = [str(start) for marker in markers.markers if marker.within is not None for start in marker.start]
    rendered = [start for start in spans if start in identity.template.source]
    media_share = len(known) / (len(media) or 1)
    return _Fit(
        complete=not markers.masks_more,
        match=match,
        passed=passed,
        placeholders=len(known),
        lacking=(len(rendered) - len(spans)) + (len(known) - len(media)) / (len(media) or 1),
        shared=len(rendered) + media_share,
        brevity=-len(markers.markers),
        name=markers.name,
        markers=markers,
    )


def _media_only(processor: object, identity: Identity) -> MarkerSet:
    """Return a set without roles. It has the media tokens of all registered sets and of the processor that the model has too."""
    tokens = {token for path in registered() for kind in glance(path).get("media", {}).values() for token in kind}
    tokens |= {str(getattr(processor, name, "")) for name in _MEDIA_ATTRIBUTES} - {""}
    special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
    return MarkerSet("media", "Media and padding only", (), media={"image": tuple(sorted(tokens & special_tokens.keys()))})

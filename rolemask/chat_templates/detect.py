"""Finding the registered marker set of a processor, tokenizer, model or configuration."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from rolemask.chat_templates.compare import Difference, Status, compare_labels
from rolemask.chat_templates.derive import derive, derive_with
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.loading import load_processor
from rolemask.chat_templates.rendering import guess_special_tokens
from rolemask.chat_templates.template import ChatTemplate, templates_of
from rolemask.errors import ChatError, RoleMaskError, UndetectedError, UnsupportedTokenizerError
from rolemask.markers.proofs import proven_hashes
from rolemask.markers.registry import glance, load_file, registered, sets_of_model
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import choice
from rolemask.matching.compiler import compile_rules, single_id
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary
from rolemask.types import Fallback

logger = logging.getLogger("rolemask")

_MEDIA_ATTRIBUTES = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")


@dataclass(frozen=True)
class _Identity:
    """What an object says about its model."""

    name: str
    processors: frozenset[str]
    model_types: frozenset[str]
    model_ids: frozenset[str]
    template: ChatTemplate | None
    vocabulary: Vocabulary | None

    @cached_property
    def finder(self) -> GroundTruthFinder | None:
        """The ground truths of the template, which every candidate is compared with."""
        if self.template is None:
            return None
        special_tokens = guess_special_tokens(self.template) if self.vocabulary is None else self.vocabulary.special_tokens
        return GroundTruthFinder(self.template, special_tokens)


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
    """A file of the registry whose special tokens the model has."""

    path: Path
    match: _Match


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


@dataclass(frozen=True)
class _Misfit:
    """A set that disagrees with the chat template, and the first difference."""

    name: str
    scenario: str
    difference: Difference


class _NotFoundError(Exception):
    """No registered set fits; the message says why."""


def detect(processor: object, *, fallback: Fallback | None = None) -> MarkerSet:
    """Find the registered marker set of a model.

    >>> from types import SimpleNamespace
    >>> detect(SimpleNamespace(model_type="gemma4")).name
    'gemma4'

    If there is a chat template, it decides: a set is chosen only if its labels agree with the template. Sets that mask nothing on purpose
    come before those that do (`MarkerSet.masks_more`). Then the best match wins: a set proven on this very template, one that names the
    model id, the model type, the processor's class. Without a chat template, only these names count.

    Args:
        processor: A processor or tokenizer, or a hub id or folder, from which Transformers loads it. If that can't be loaded, as without a
            network, a set that names the id is returned with a warning: no chat template was compared. A model or its configuration works
            too, but says less.
        fallback: What to do if no set fits. None raises. ``"derive"`` derives a set from the chat template, and warns about what could not
            be derived, or is lost. ``"media"`` returns a set without roles, which trains everything except media and padding, and warns.

    Raises:
        UndetectedError: No set fits, and there is no fallback, or the derived set would train too much. The message has the nearest set and
            where it differs.
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
    identity = _identify(processor)
    try:
        found = _find(identity)
    except _NotFoundError as error:
        reason = str(error)
    else:
        on_purpose = f", which masks on purpose some of what the model generates: {found.masks_more_text}" if found.masks_more else ""
        logger.info("%s: the marker set is %r%s", identity.name, found.name, on_purpose)
        return found
    if fallback == "derive":
        if identity.finder is not None and identity.vocabulary is not None:
            derived = derive_with(identity.finder, processor)
        else:
            derived = derive(processor)  # says what is missing
        if too_much := next((problem for problem in derived.unsettled if problem.trains_too_much), None):
            raise UndetectedError(
                f"{identity.name}: {reason} A set derived from its chat template would train what the model never generates: {too_much}. "
                "`rolemask new` writes it to a file, to be corrected"
            )
        logger.warning("%s: %s Derived a set from the chat template. %s", identity.name, reason, "; ".join(map(str, derived.unsettled)))
        return derived.markers
    if fallback == "media":
        logger.warning("%s: %s EVERYTHING EXCEPT MEDIA AND PADDING IS TRAINED, user messages too", identity.name, reason)
        return _media_only(processor, identity)
    raise UndetectedError(f"{identity.name}: {reason} `rolemask new` starts a file; fallback='derive' derives a set from the chat template")


def _find_by_id(model: str, error: ChatError) -> MarkerSet:
    """Return the set that names a hub id whose tokenizer cannot be loaded.

    Raises:
        UndetectedError: No set names it, or several do.
    """
    found = sets_of_model(model)
    if len(found) != 1:
        named = f"several marker sets name it: {', '.join(path.stem for path in found)}" if found else "no marker set names it"
        raise UndetectedError(f"{error}; and {named}") from error
    logger.warning("%s. The marker set is %r by the model's name alone: its chat template was not compared", error, found[0].stem)
    return load_file(found[0])


def nearest_set(vocabulary: Vocabulary) -> str | None:
    """Return the name of the registered set with the largest share of its special tokens in a vocabulary, or None if no set has any."""
    scores = []
    for path in registered():
        tokens = glance(path).get("special_tokens") or ()
        found = sum(single_id(token, vocabulary) is not None for token in tokens)
        if found:
            scores.append((found / len(tokens), found, path.stem))
    return max(scores)[2] if scores else None


def _identify(processor: object) -> _Identity:
    try:
        vocabulary = read_vocabulary(processor)
    except UnsupportedTokenizerError:
        vocabulary = None
    config = getattr(processor, "config", processor)
    inner = getattr(processor, "tokenizer", processor)
    names = {str(getattr(owner, name, "") or "") for owner in (processor, inner, config) for name in ("name_or_path", "_name_or_path")} - {
        ""
    }
    types = {getattr(config, "model_type", None)}
    processors = {type(processor).__name__}
    for name in sorted(names):
        if Path(name).is_dir():
            types.add(_read_json(Path(name) / "config.json").get("model_type"))
            names |= {str(_read_json(Path(name) / "config.json").get("_name_or_path", name))}
            processors |= {
                str(_read_json(Path(name) / file).get("processor_class", "")) for file in ("processor_config.json", "tokenizer_config.json")
            }
    templates = templates_of(processor)
    return _Identity(
        name=min(names, default=type(processor).__name__),
        processors=frozenset(processors),
        model_types=frozenset(kind for kind in types if isinstance(kind, str)),
        model_ids=frozenset(names),
        template=templates[0] if templates else None,
        vocabulary=vocabulary if vocabulary is not None and vocabulary.encode is not None else None,
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _candidates(identity: _Identity) -> Iterator[_Candidate]:
    for path in registered():
        data = glance(path)
        names = data.get("match") or {}
        match = _Match(
            template=identity.template is not None and identity.template.sha256 in proven_hashes(path),
            model_id=any(
                fnmatchcase(model.lower(), pattern.lower()) for model in identity.model_ids for pattern in names.get("model_id") or ()
            ),
            model_type=bool(identity.model_types & set(names.get("model_type") or ())),
            processor=bool(identity.processors & set(names.get("processor") or ())),
        )
        tokens = data.get("special_tokens") or []
        lacks_tokens = identity.vocabulary is not None and any(single_id(token, identity.vocabulary) is None for token in tokens)
        if not lacks_tokens and (match or identity.template is not None):
            yield _Candidate(path, match)


def _find(identity: _Identity) -> MarkerSet:
    """Return the set that fits best.

    Raises:
        _NotFoundError: No set fits.
    """
    candidates = sorted(_candidates(identity), key=lambda candidate: candidate.match, reverse=True)
    return _find_by_names(candidates) if identity.finder is None else _find_by_template(candidates, identity, identity.finder)


def _find_by_names(candidates: list[_Candidate]) -> MarkerSet:
    if not candidates:
        raise _NotFoundError("no marker set names it: it has no chat template, and its model id, type and processor are unknown.")
    equal = [candidate.path for candidate in candidates if candidate.match == candidates[0].match]
    if len(equal) > 1:
        names = ", ".join(path.stem for path in equal)
        raise _NotFoundError(f"it may follow {names}: pass a processor or tokenizer that has a chat template.")
    markers = _load(equal[0])
    if markers is None:
        raise _NotFoundError(f"{equal[0]} is malformed: run `rolemask check`.")
    return markers


def _find_by_template(candidates: list[_Candidate], identity: _Identity, finder: GroundTruthFinder) -> MarkerSet:
    fits: list[_Fit] = []
    nearest: _Misfit | None = None
    for candidate in candidates:
        best = next((fit for fit in fits if fit.complete), None)
        if best is not None and best.match and candidate.match < best.match:
            break  # a set that names the model fits: weaker matches can't win
        markers = _load(candidate.path)
        if markers is None:
            continue
        # A toy tokenizer has the set's special tokens too, and encodes much faster than the model's.
        passed = 0
        for result in compare_labels(compile_rules(markers, ToyTokenizer(markers).vocabulary), finder.truths, markers.masks_more):
            if result.status is Status.DIFFERS:
                assert result.difference is not None
                nearest = nearest or _Misfit(markers.name, result.scenario, result.difference)
                break
            passed += result.status is Status.OK
        else:
            if passed:
                fits.append(_fit(candidate.match, passed, markers, identity))
    if fits:
        return max(fits).markers
    if nearest is None:
        raise _NotFoundError("no registered marker set has its special tokens.")
    raise _NotFoundError(
        f"no registered marker set fits its chat template. The nearest is {nearest.name!r}: {nearest.scenario}: {nearest.difference}."
    )


def _load(path: Path) -> MarkerSet | None:
    try:
        return load_file(path)
    except RoleMaskError:  # a broken file must not hide the others
        return None


def _fit(match: _Match, passed: int, markers: MarkerSet, identity: _Identity) -> _Fit:
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


def _media_only(processor: object, identity: _Identity) -> MarkerSet:
    """Return a set without roles. It has the media tokens of all registered sets and of the processor that the model has too."""
    tokens = {token for path in registered() for kind in (glance(path).get("media") or {}).values() for token in kind}
    tokens |= {str(getattr(processor, name, "")) for name in _MEDIA_ATTRIBUTES} - {""}
    special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
    return MarkerSet("media", "Media and padding only", (), media={"image": tuple(sorted(tokens & special_tokens.keys()))})

"""Which marker set belongs to this processor, tokenizer, model or configuration?"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from rolemask.chat_templates.compare import ScenarioResult, prove
from rolemask.chat_templates.derive import derive
from rolemask.chat_templates.rendering import looks_special
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.chat_templates.template import ChatTemplate, templates_of
from rolemask.errors import RoleMaskError, UndetectedError, UnsupportedTokenizerError
from rolemask.markers.registry import glance, load_file, registered
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import choice
from rolemask.matching.compiler import compile_rules, single_id
from rolemask.matching.toy_tokenizer import ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary

logger = logging.getLogger("rolemask")

Fallback = Literal["derive", "media"]
_MEDIA_ATTRIBUTES = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")
_warned: set[str] = set()  # the models of which it was said in this process that nothing but media is masked


@dataclass(frozen=True)
class _Identity:
    """What an object tells of the model that it belongs to."""

    name: str
    processors: frozenset[str]
    model_types: frozenset[str]
    model_ids: frozenset[str]
    template: ChatTemplate | None
    vocabulary: Vocabulary | None


@dataclass(frozen=True)
class _Candidate:
    """A file of the registry, and what speaks for it: the template's hash, the model's id, its type, the processor's class."""

    path: Path
    data: Mapping[str, Any]
    grounds: tuple[bool, bool, bool, bool]


def detect(processor: Any, *, fallback: str | None = None) -> MarkerSet:
    """Find the registered marker set of a model.

    What speaks for a set: the hash of the chat template it was verified on, the model's id, its type, the class of its processor. Where
    there is a chat template, it decides: a set that does not come out right on it is not taken, and one that nothing else speaks for is.

    Args:
        processor: A processor or tokenizer; a model or its configuration does too, with less to go by.
        fallback: What to do where no set fits: None raises; ``"derive"`` derives a set from the chat template and warns of what could not
            be settled; ``"media"`` returns a set without roles, with which everything but media and padding is trained, and warns.

    Raises:
        UndetectedError: No set fits, and there is no fallback; names the nearest one and where it differs.
        ChatError: `fallback="derive"`, and nothing can be derived.
        PolicyError: An unknown fallback.
    """
    if fallback is not None:
        choice("fallback", fallback, get_args(Fallback))
    identity = _identify(processor)
    candidates = sorted(_candidates(identity), key=lambda candidate: candidate.grounds, reverse=True)
    found, reason = _best(candidates, identity)
    if found is not None:
        logger.info("%s: the marker set is %r", identity.name, found.name)
        return found
    if fallback == "derive":
        inference = derive(processor)
        logger.warning("%s: %s Inferred a set from the chat template. %s", identity.name, reason, " ".join(inference.unsettled))
        return inference.markers
    if fallback == "media":
        if identity.name not in _warned:
            _warned.add(identity.name)
            logger.warning("%s: %s EVERYTHING BUT MEDIA AND PADDING IS TRAINED, the user's words too", identity.name, reason)
        return _media_only(processor, identity)
    raise UndetectedError(f"{identity.name}: {reason} `rolemask new` starts a file; fallback='derive' derives a set from the chat template")


def _identify(processor: Any) -> _Identity:
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


def _candidates(identity: _Identity) -> list[_Candidate]:
    found = []
    for path in registered():
        data = glance(path)
        match = data.get("match") or {}
        hashes = {entry.get("sha256") for entry in data.get("verified") or ()}
        grounds = (
            identity.template is not None and identity.template.sha256 in hashes,
            any(fnmatchcase(model.lower(), pattern.lower()) for model in identity.model_ids for pattern in match.get("model_id") or ()),
            bool(identity.model_types & set(match.get("model_type") or ())),
            bool(identity.processors & set(match.get("processor") or ())),
        )
        tokens = data.get("special_tokens") or []
        has_tokens = identity.vocabulary is not None and all(single_id(token, identity.vocabulary) is not None for token in tokens)
        if identity.vocabulary is not None and not has_tokens:
            continue
        if any(grounds) or identity.template is not None:
            found.append(_Candidate(path, data, grounds))
    return found


def _best(candidates: Sequence[_Candidate], identity: _Identity) -> tuple[MarkerSet | None, str]:
    """Return the set that fits best, or None and the reason."""
    if identity.template is None:
        named = [candidate for candidate in candidates if any(candidate.grounds)]
        if not named:
            return None, "nothing tells which marker set it follows: no chat template, and no known model id, type or processor."
        equal = [candidate for candidate in named if candidate.grounds == named[0].grounds]
        if len(equal) > 1:
            names = ", ".join(candidate.path.stem for candidate in equal)
            return None, f"it may follow {names}: pass a processor or tokenizer that has a chat template."
        return _load(named[0].path), ""
    special_tokens = looks_special(identity.template) if identity.vocabulary is None else identity.vocabulary.special_tokens
    nearest: tuple[str, ScenarioResult] | None = None
    fitting: list[tuple[tuple[Any, ...], str, MarkerSet]] = []
    for candidate in candidates:
        if fitting and any(fitting[0][0][0]) and candidate.grounds < fitting[0][0][0]:
            break  # something speaks for one that fits: those that less speaks for need not be asked
        markers = _load(candidate.path)
        if markers is None:
            continue
        results = _prove(markers, identity.template, special_tokens)
        difference = next((result for result in results if result.status == "differs"), None)
        passed = sum(result.status == "ok" for result in results)
        if difference is None and passed:
            fitting.append(((candidate.grounds, passed, *_evidence(markers, identity)), markers.name, markers))
        elif difference is not None and (nearest is None or any(candidate.grounds)):
            nearest = nearest or (markers.name, difference)
    if fitting:
        return max(fitting, key=lambda entry: entry[:2])[2], ""
    if nearest is None:
        return None, "no registered marker set has its special tokens."
    return None, f"no registered marker set fits its chat template. The nearest is {nearest[0]!r}: {nearest[1].shape}: {nearest[1].detail}."


def _load(path: Path) -> MarkerSet | None:
    try:
        return load_file(path)
    except RoleMaskError:  # a broken file must not hide the others
        return None


def _prove(markers: MarkerSet, template: ChatTemplate, special_tokens: Iterable[str]) -> list[ScenarioResult]:
    # The set's special tokens are in the vocabulary; a small tokenizer made of them tells the rest in a fraction of the time.
    rules = compile_rules(markers, ToyTokenizer(markers).vocabulary)
    return prove(rules, template, SCENARIOS, more_special_tokens=special_tokens)


def _evidence(markers: MarkerSet, identity: _Identity) -> tuple[float, float, int]:
    """Return, to choose among sets that fit alike: the part of the media tokens, and of the spans, that the model has, and brevity."""
    assert identity.template is not None
    media = [token for token in markers.media_tokens if "*" not in token]
    known = [token for token in media if identity.vocabulary is not None and single_id(token, identity.vocabulary) is not None]
    spans = [str(start) for marker in markers.markers if marker.within is not None for start in marker.start]
    written = [start for start in spans if start in identity.template.source]
    return (
        (len(written) - len(spans)) + (len(known) - len(media)) / (len(media) or 1),
        len(written) + len(known) / (len(media) or 1),
        -len(markers.markers),
    )


def nearest_set(vocabulary: Vocabulary) -> str | None:
    """Return the name of the registered set of whose special tokens this tokenizer has the greatest part, and of those the most."""
    scores = []
    for path in registered():
        tokens = glance(path).get("special_tokens") or ()
        found = sum(single_id(token, vocabulary) is not None for token in tokens)
        if found:
            scores.append((found / len(tokens), found, path.stem))
    return max(scores)[2] if scores else None


def _media_only(processor: Any, identity: _Identity) -> MarkerSet:
    """Return a set without roles: the media tokens that any registered set or the processor itself names, where the model has them."""
    tokens = {token for path in registered() for kind in (glance(path).get("media") or {}).values() for token in kind}
    tokens |= {str(getattr(processor, name, "")) for name in _MEDIA_ATTRIBUTES} - {""}
    special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
    return MarkerSet("media", "Media and padding only", (), media={"image": tuple(sorted(tokens & special_tokens.keys()))})

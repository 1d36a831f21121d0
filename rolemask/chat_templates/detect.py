"""Finding the registered marker set of a processor, tokenizer, model or configuration.

If there is a chat template, it decides: each set whose assistant's headers occur in what the template writes is compared with it on a toy
tokenizer. Three turns come first, since they rule most sets out; then the sets are compared in full, from the one that would be the best
choice downwards, until no other can be a better one.

`candidates` says what the files name of a model, `fit` compares a set with its template, `undetected` says why no set was found.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from rolemask.chat_templates.candidates import Candidate, candidates_for
from rolemask.chat_templates.derive import derive, derive_with
from rolemask.chat_templates.fit import DECISIVE, Comparison, Fit, Reference, compare_candidates
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.identity import Identity, identify
from rolemask.chat_templates.loading import load_processor
from rolemask.chat_templates.undetected import NotFoundError, no_set_fits, refuse_broken, refuse_mistral, writes_nothing
from rolemask.errors import ChatError, RoleMaskError, UndetectedError
from rolemask.markers.proofs import proven_hashes, read_proofs
from rolemask.markers.registry import glance, is_built_in, load_file, registered, sets_of_model
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import choice
from rolemask.types import Fallback

logger = logging.getLogger("rolemask")

_MEDIA_ATTRIBUTES = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")


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
    except NotFoundError as error:
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


def _find(identity: Identity) -> MarkerSet:
    """Return the set that fits best.

    Raises:
        NotFoundError: No set fits.
    """
    paths = registered()
    if identity.finder is None:
        return _find_by_names(candidates_for(identity, {path: glance(path) for path in paths}), identity)
    sha256 = identity.finder.renderer.template.sha256
    # Files that are not built in are looked at in any case, so that a malformed one is named whatever is found.
    files = {path: glance(path) for path in paths if sha256 in proven_hashes(path) or not is_built_in(path)}
    proven = [candidate for candidate in candidates_for(identity, files) if candidate.match.template]
    if (found := _find_proven(proven, identity, identity.finder)) is not None:
        return found
    files |= {path: glance(path) for path in paths if path not in files}
    return _find_by_template(candidates_for(identity, files), identity, identity.finder)


def _find_by_names(candidates: Sequence[Candidate], identity: Identity) -> MarkerSet:
    advice = "Pass a processor or tokenizer that has a chat template, or `rolemask.load` the set by its name: `rolemask list` has them all"
    named = sorted((candidate for candidate in candidates if candidate.match), key=lambda one: one.match, reverse=True)
    usable = [candidate for candidate in named if not candidate.lacking]
    if not usable and named:
        best = named[0]
        raise NotFoundError(f"{best.name!r} names it, but its vocabulary {best.lacking_text}.", "other-vocabulary", advice, best.name)
    if not usable:
        refuse_mistral(identity.mistral_version)
        raise NotFoundError(
            "no marker set names it: it has no chat template, and its model id, type and processor are unknown.", "unnamed", advice
        )
    equal = [candidate for candidate in usable if candidate.match == usable[0].match]
    if len(equal) > 1:
        names = ", ".join(candidate.name for candidate in equal)
        raise NotFoundError(f"it has no chat template, and it may follow {names}.", "ambiguous-names", advice)
    markers = usable[0].load()
    if markers is None:
        raise NotFoundError(f"{usable[0].path} is malformed: run `rolemask check`.", "malformed-set", "Then repair it, or remove it")
    return markers


def _find_proven(candidates: Sequence[Candidate], identity: Identity, finder: GroundTruthFinder) -> MarkerSet | None:
    """Return the best set that is proven on this very template. The proof has all scenarios, so three turns are looked at again only.

    None if that doesn't settle it: a proof is stale, no set comes out right, or the best one masks more on purpose.
    """
    if not candidates:
        return None
    references = (Reference(identity, finder.find_all([scenario])) for scenario in DECISIVE)
    reference = next((one for one in references if one.decisive is not None), None)
    if reference is None:
        return None
    fits = []
    for candidate in candidates:
        markers = candidate.load()
        if markers is None:
            return None
        passed = _passed_in_proof(markers, finder.renderer.template.sha256)
        if not passed:
            return None
        comparison = Comparison(candidate, markers, reference)
        if not candidate.lacking and comparison.is_right:
            fits.append(replace(comparison.potential, passed=passed))
    best = max(fits, default=None)
    return best.markers if best is not None and best.complete else None


def _passed_in_proof(markers: MarkerSet, sha256: str) -> int:
    """Return how many scenarios agree in the proofs on a template; 0 if there is none that still holds."""
    try:
        proofs = read_proofs(Path(markers.origin))
    except RoleMaskError:  # `rolemask check` reports it
        return 0
    return max((len(proof.passed) for proof in proofs if proof.sha256 == sha256 and not proof.is_stale(markers)), default=0)


def _find_by_template(candidates: Sequence[Candidate], identity: Identity, finder: GroundTruthFinder) -> MarkerSet:
    refuse_broken(finder)
    reference = Reference(identity, finder.truths)
    if not reference.texts:
        raise writes_nothing(finder)
    usable = (candidate for candidate in candidates if not candidate.lacking and candidate.has_header_in(reference.first_texts))
    comparisons = compare_candidates(usable, reference)
    best: Fit | None = None
    for comparison in sorted((one for one in comparisons if one.is_right), key=lambda one: one.potential, reverse=True):
        if best is not None and comparison.potential < best:
            break
        fit = comparison.fit()
        best = fit if best is None or (fit is not None and fit > best) else best
    if best is None:
        raise no_set_fits(candidates, comparisons, reference)
    return best.markers


def _fall_back(processor: object, identity: Identity, why: NotFoundError, fallback: Fallback | None) -> MarkerSet:
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


def _media_only(processor: object, identity: Identity) -> MarkerSet:
    """Return a set without roles. It has the media tokens of all registered sets and of the processor that the model has too."""
    tokens = {token for path in registered() for kind in glance(path).get("media", {}).values() for token in kind}
    tokens |= {str(getattr(processor, name, "")) for name in _MEDIA_ATTRIBUTES} - {""}
    special_tokens = identity.vocabulary.special_tokens if identity.vocabulary is not None else {}
    return MarkerSet("media", "Media and padding only", (), media={"image": tuple(sorted(tokens & special_tokens.keys()))})

"""Why no registered set was found for a model, what to do next, and which set comes nearest."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolemask.chat_templates.candidates import Candidate, names_one_of
from rolemask.chat_templates.fit import Comparison, Reference, compare_candidates
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.scenarios import SCENARIOS, forms_of
from rolemask.chat_templates.template import RenderError
from rolemask.errors import UndetectedReason
from rolemask.markers.registry import glance, registered
from rolemask.matching.spelling import single_id
from rolemask.matching.vocabulary import Vocabulary

_COMPARED = 5  # sets that are compared in full to name the nearest
_TRIED = 15  # sets that are tried for that if no set's headers occur in the template's text


class NotFoundError(Exception):
    """No registered set fits; the message says why, and `advice` what to do instead of a fallback."""

    def __init__(self, message: str, reason: UndetectedReason, advice: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.advice = advice
        self.nearest = nearest


# --- without a chat template


def refuse_mistral(version: str | None) -> None:
    """Name the sets for the version of a mistral-common tokenizer: those whose name or alias has the version in it.

    Raises:
        NotFoundError: There are such sets.
    """
    if version is None:
        return
    stem = f"mistral_{version}"
    names = {path.stem: [path.stem, *glance(path).get("aliases", ())] for path in registered()}
    sets = [name for name, all_names in names.items() if any(one == stem or one.startswith(f"{stem}_") for one in all_names)]
    sets.sort(key=lambda name: not name.startswith("mistral"))  # before those of other names
    if sets:
        raise NotFoundError(
            f"a tokenizer of mistral-common has no chat template. For its version: {version} -> {' or '.join(sets)}.",
            "mistral-version",
            f"Use rolemask.load({sets[0]!r}), or the set of a model with images, audio or reasoning of its own: `rolemask list`",
            sets[0],
        )


# --- the chat template decides nothing


def refuse_broken(finder: GroundTruthFinder) -> None:
    """Refuse a template that is no Jinja: compiling it once more for each scenario would only take time.

    Raises:
        NotFoundError: It is no Jinja.
    """
    try:
        finder.renderer.template.render([])
    except RenderError as error:
        if error.is_syntax:
            raise _broken(error) from error


def writes_nothing(finder: GroundTruthFinder) -> NotFoundError:
    """Say why the template writes no scenario: it fails on each, or it leaves out a part of each."""
    errors: list[RenderError] = []
    for variant in (variant for scenario in SCENARIOS for variants in forms_of(scenario) for variant in variants):
        try:
            finder.renderer.render(variant)
        except RenderError as error:
            errors.append(error)
            continue
        return NotFoundError(
            f"its chat template writes no chat in full that it is asked for: {finder.truths[0][1]}.",
            "silent-template",
            "`rolemask.load` the set by its name. If the template needs variables, pass `compile` chat_template_kwargs={...}",
        )
    return _broken(errors[0])


def _broken(error: RenderError) -> NotFoundError:
    where = "" if error.line is None else f"line {error.line}: "
    return NotFoundError(
        f"its chat template is broken: {where}{error.reason}.",
        "broken-template",
        "Repair the template. If it needs variables, `rolemask.load` the set by its name and pass `compile` chat_template_kwargs={...}",
    )


# --- no set fits the chat template


def no_set_fits(candidates: Sequence[Candidate], comparisons: Sequence[Comparison], reference: Reference) -> NotFoundError:
    """Name the nearest set, and where it differs. The likeliest after the first scenarios are compared in full.

    Args:
        candidates: All of them.
        comparisons: Those of sets whose headers occur in what the template writes, and whose special tokens the vocabulary has.
        reference: What they were compared with.
    """
    if not comparisons:
        if writers := [one for one in candidates if _lacks_what_is_written(one, reference.first_texts)]:
            return _other_vocabulary(writers, reference.first_texts[0])
        usable = [candidate for candidate in candidates if not candidate.lacking]
        usable.sort(key=lambda one: (one.count_special_tokens_in(reference.first_texts[0]), one.match), reverse=True)
        comparisons = compare_candidates(usable[:_TRIED], reference)
    advice = "`rolemask new` starts a file; fallback='derive' derives a set from the chat template"
    able = [one for one in comparisons if one.rules is not None]
    if not able:
        return NotFoundError("no registered marker set fits its chat template.", "no-set-fits", advice)
    likely = sorted(able, key=lambda one: (*one.likeness(reference.first), one.potential), reverse=True)[:_COMPARED]
    nearest = max(likely, key=lambda one: (*one.likeness(reference.truths), one.potential))
    name = nearest.markers.name
    return NotFoundError(
        f"no registered marker set fits its chat template. The nearest is {name!r}: {nearest.first_difference()}.",
        "no-set-fits",
        advice,
        name,
    )


def _lacks_what_is_written(candidate: Candidate, texts: Sequence[str]) -> bool:
    """Whether the template writes the assistant's header, and the special tokens that the vocabulary lacks."""
    written = all(any(token in text for text in texts) for token in candidate.lacking)
    return bool(candidate.lacking) and written and candidate.has_header_in(texts)


def _other_vocabulary(writers: Sequence[Candidate], text: str) -> NotFoundError:
    """Return the error for a template and a tokenizer of two models: the text has the headers of `writers`, and tokens that they lack."""
    nearest = max(writers, key=lambda one: (one.count_special_tokens_in(text), _count_names(one.data), one.name))
    return NotFoundError(
        f"no registered marker set that fits its chat template has its special tokens in this vocabulary. The nearest is "
        f"{nearest.name!r}: the vocabulary {nearest.lacking_text}.",
        "other-vocabulary",
        "Are the tokenizer and the template of the same model? If so, `rolemask new` starts a file; fallback='derive' derives a set",
        nearest.name,
    )


# --- the nearest set, by special tokens alone


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
            names_one_of(data.get("match", {}).get("model_id", ()), [vocabulary.name]),
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

"""The check in `compile`: does the tokenizer's own chat template agree with the marker set?"""

import logging
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from rolemask.chat_templates.compare import ScenarioResult, Status, compare_labels
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.scenarios import REASONING, SYSTEM, THREE_TURNS, TOOLS, UNEVEN
from rolemask.chat_templates.template import ChatTemplate, templates_of
from rolemask.errors import ChatError, TemplateMismatchError
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES
from rolemask.matching.compiler import Rules
from rolemask.matching.vocabulary import Vocabulary

logger = logging.getLogger("rolemask")

# A few scenarios take some tens of milliseconds; `rolemask verify` has them all.
_SCENARIOS = (THREE_TURNS, SYSTEM, TOOLS, REASONING, *UNEVEN)

# Programs often compile one set for one tokenizer several times (training, evaluation), so results are kept while the tokenizer lives.
_results: WeakKeyDictionary[Vocabulary, dict[Hashable, ScenarioResult | None]] = WeakKeyDictionary()


def first_problem(markers: MarkerSet, rules: Rules, template: ChatTemplate) -> ScenarioResult | None:
    """Return the first of a few scenarios whose labels differ from the ground truth, or None.

    If the template supports none of the scenarios, return the first: nothing was compared. If none differs except by what the set masks
    on purpose, return the first of these.

    The result is cached per marker set, template and tokenizer.
    """
    known = _results.setdefault(rules.vocabulary, {})
    key = (markers.fingerprint, *sorted(markers.masks_more), template.sha256, repr(template.variables))
    if key not in known:
        truths = GroundTruthFinder(template, rules.vocabulary.special_tokens).find_all(_SCENARIOS)
        results = list(compare_labels(rules, truths, markers.masks_more))
        unsupported = results[:1] if all(result.status is Status.NOT_SUPPORTED for result in results) else []
        notable = [result for status in (Status.DIFFERS, Status.MASKS_MORE) for result in results if result.status is status]
        known[key] = next(iter(notable + unsupported), None)
    return known[key]


def self_check(markers: MarkerSet, rules: Rules, tokenizer: object, how: str, variables: Mapping[str, Any]) -> None:
    """Check a compiled set against the chat template of its tokenizer or processor, if there is one.

    Args:
        markers: The marker set.
        rules: The same, compiled for the tokenizer.
        tokenizer: The tokenizer or processor.
        how: "error", "warn" or "off".
        variables: What the template needs besides the messages.

    Raises:
        TemplateMismatchError: The template does not follow the set, and `how` is "error".
    """
    if how == "off" or rules.vocabulary.encode is None or not set(DEFAULT_ROLES) <= set(rules.roles):
        return
    try:
        templates = templates_of(tokenizer)
    except ChatError as error:
        logger.warning("%r could not be checked: %s. To skip the check, self_check='off'", markers.name, error)
        return
    for found in templates[:1]:
        template = replace(found, variables={**found.variables, **variables})
        result = first_problem(markers, rules, template)
        if result is None:
            continue
        if result.status is Status.NOT_SUPPORTED:
            logger.warning(
                "%r could not be checked against %s, which renders none of a few short chats: %s. If it needs variables, pass "
                "chat_template_kwargs={...}; to skip the check, self_check='off'",
                markers.name,
                template.name,
                result.reason,
            )
            continue
        if result.status is Status.MASKS_MORE:
            logger.info(
                "%r fits %s, and masks on purpose some of what the model generates: %s",
                markers.name,
                template.name,
                markers.masks_more_text,
            )
            continue
        message = (
            f"{markers.name!r} does not fit {template.name}: {result.detail}\n"
            f"trained, in [[ ]]:\n{result.trained}\nexpected:\n{result.expected}\n"
            "Another set may fit: try rolemask.detect(tokenizer). `rolemask verify` shows more. To go on anyway: self_check='warn' or 'off'"
        )
        if how == "error":
            raise TemplateMismatchError(message)
        logger.warning("%s", message)

"""The check that a user gets without asking: does this checkpoint's own chat template write what the marker set declares?"""

import logging
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

from rolemask.chat_templates.compare import ScenarioResult, prove
from rolemask.chat_templates.scenarios import REASONING, SYSTEM, THREE_TURNS, TOOLS
from rolemask.chat_templates.template import ChatTemplate, templates_of
from rolemask.errors import TemplateMismatchError
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES
from rolemask.matching.compiler import Rules
from rolemask.matching.vocabulary import Vocabulary

logger = logging.getLogger("rolemask")

# A few short chats, for some tens of milliseconds: `rolemask verify` asks for many more.
_PROBES = (THREE_TURNS, SYSTEM, TOOLS, REASONING)

_results: WeakKeyDictionary[Vocabulary, dict[Hashable, ScenarioResult | None]] = WeakKeyDictionary()


def first_difference(markers: MarkerSet, rules: Rules, template: ChatTemplate) -> ScenarioResult | None:
    """Return the first of the probes that comes out otherwise than the template has it, or None.

    What was found is kept per set, template and tokenizer.
    """
    known = _results.setdefault(rules.vocabulary, {})
    key = (markers.fingerprint, template.sha256)
    if key not in known:
        known[key] = next((result for result in prove(rules, template, _PROBES) if result.status == "differs"), None)
    return known[key]


def self_check(markers: MarkerSet, rules: Rules, tokenizer: Any, how: str) -> None:
    """Hold a compiled set to the chat template of its tokenizer or processor, if that has one; `how` is "error", "warn" or "off".

    Raises:
        TemplateMismatchError: The template does not follow the set, and `how` is "error".
    """
    if how == "off" or rules.vocabulary.encode is None or not set(DEFAULT_ROLES) <= set(rules.roles):
        return
    for template in templates_of(tokenizer)[:1]:
        difference = first_difference(markers, rules, template)
        if difference is None:
            continue
        message = (
            f"{markers.name!r} does not fit {template.name}: {difference.detail}\n"
            f"would be trained, in [[ ]]:\n{difference.trained}\nthe model has to write:\n{difference.expected}\n"
            "Another set may fit: rolemask.detect(tokenizer). `rolemask verify` shows more. To go on anyway: self_check='warn' or 'off'"
        )
        if how == "error":
            raise TemplateMismatchError(message)
        logger.warning("%s", message)

"""What a processor, tokenizer, model or configuration says about its model: names, chat template, vocabulary."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import guess_special_tokens
from rolemask.chat_templates.template import ChatTemplate, templates_of
from rolemask.errors import UnsupportedTokenizerError
from rolemask.matching.vocabulary import Vocabulary, mistral_version, read_vocabulary


@dataclass(frozen=True)
class Identity:
    """What an object says about its model.

    Attributes:
        name: What messages call it.
        processors: The names of its class and of those it inherits from, the nearest first, then those that its files name.
        model_types: The types of the model, as configurations name them.
        model_ids: Hub ids and folders.
        template: The chat template, if it has one.
        vocabulary: The vocabulary, if it can be read and encodes.
        mistral_version: The version of a tokenizer of mistral-common.
    """

    name: str
    processors: tuple[str, ...]
    model_types: frozenset[str]
    model_ids: frozenset[str]
    template: ChatTemplate | None
    vocabulary: Vocabulary | None
    mistral_version: str | None

    @cached_property
    def finder(self) -> GroundTruthFinder | None:
        """The ground truths of the template, which every candidate is compared with."""
        if self.template is None:
            return None
        special_tokens = guess_special_tokens(self.template) if self.vocabulary is None else self.vocabulary.special_tokens
        return GroundTruthFinder(self.template, special_tokens)


def identify(processor: object) -> Identity:
    """Read what an object says about its model. The files of a local folder that it names count too.

    Raises:
        ChatError: What it has as a chat template is no text.
    """
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
    processors = [kind.__name__ for kind in type(processor).__mro__]
    for name in sorted(names):
        if Path(name).is_dir():
            types.add(_read_json(Path(name) / "config.json").get("model_type"))
            names |= {str(_read_json(Path(name) / "config.json").get("_name_or_path", name))}
            processors += [
                str(_read_json(Path(name) / file).get("processor_class", "")) for file in ("processor_config.json", "tokenizer_config.json")
            ]
    templates = templates_of(processor)
    return Identity(
        name=min(names, default=type(processor).__name__),
        processors=tuple(processors),
        model_types=frozenset(kind for kind in types if isinstance(kind, str)),
        model_ids=frozenset(names),
        template=templates[0] if templates else None,
        vocabulary=vocabulary if vocabulary is not None and vocabulary.encode is not None else None,
        mistral_version=mistral_version(processor),
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

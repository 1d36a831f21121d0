"""What the files of the registry say of a model: whose names they have, and which of their texts its template and vocabulary have.

Files are only glanced at here, which is quick. `rolemask.chat_templates.fit` loads and compares those that remain.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rolemask.chat_templates.identity import Identity
from rolemask.markers.proofs import proven_hashes
from rolemask.markers.registry import load_file
from rolemask.markers.spec import MarkerSet
from rolemask.masking.policy import DEFAULT_ROLES
from rolemask.matching.spelling import single_id

logger = logging.getLogger("rolemask")

_ROLE = re.compile(r"{{\s*role\s*}}")


@dataclass(frozen=True, order=True)
class Match:
    """What a registered set names of a model, the strongest first. `template`: the set is proven on this very template."""

    template: bool
    model_id: bool
    model_type: bool
    processor: bool

    def __bool__(self) -> bool:
        return self.template or self.model_id or self.model_type or self.processor


@dataclass(frozen=True)
class Candidate:
    """A file of the registry: what it says, what it names of the model, and which of its special tokens the model lacks."""

    path: Path
    data: Mapping[str, Any]
    match: Match
    lacking: tuple[str, ...]

    @property
    def name(self) -> str:
        """The set's name."""
        return self.path.stem

    @property
    def lacking_text(self) -> str:
        """What the model's vocabulary lacks, for messages."""
        return f"lacks its special token{'s' if len(self.lacking) > 1 else ''} {', '.join(map(repr, self.lacking))}"

    def load(self) -> MarkerSet | None:
        """Load the set; if it is malformed, log a warning and return None."""
        try:
            return load_file(self.path)
        except Exception as error:  # whatever is wrong with one file, it must not hide the others
            logger.warning("skipped a malformed marker set: %s", str(error).partition("\n")[0])
            return None

    def has_header_in(self, texts: Sequence[str]) -> bool:
        """Whether one of the assistant's headers may occur in the texts. Where none does, no turn of the assistant is found."""
        words = self.data.get("role_names")
        for marker in self.data.get("markers", ()):
            roles, starts = (value if isinstance(value, list) else [value] for value in (marker.get("role"), marker.get("start")))
            for role in (role for role in DEFAULT_ROLES if role in roles):
                word = words.get(role, role) if isinstance(words, dict) else role
                fixed = [_fixed_part(start, str(word)) for start in starts]
                if any(part in text for part in fixed for text in texts):
                    return True
        return False

    def count_special_tokens_in(self, text: str) -> int:
        """Return how many of the set's special tokens a text has."""
        return sum(token in text for token in self.data.get("special_tokens", ()))


def candidates_for(identity: Identity, files: Mapping[Path, Mapping[str, Any]]) -> list[Candidate]:
    """Return the files, of which the contents are given, as candidates for a model. Those that cannot be read are left out."""
    processors = {name for data in files.values() for name in data.get("match", {}).get("processor", ())}
    processor = next((name for name in identity.processors if name in processors), None)  # the nearest class that some set names
    found = []
    for path, data in files.items():
        if not data:
            continue
        names = data.get("match", {})
        match = Match(
            template=identity.template is not None and identity.template.sha256 in proven_hashes(path),
            model_id=names_one_of(names.get("model_id", ()), identity.model_ids),
            model_type=bool(identity.model_types & set(names.get("model_type", ()))),
            processor=processor in names.get("processor", ()),
        )
        lacking = [
            token for token in data.get("special_tokens", ()) if identity.vocabulary and single_id(token, identity.vocabulary) is None
        ]
        found.append(Candidate(path, data, match, tuple(lacking)))
    return found


def names_one_of(patterns: Iterable[str], model_ids: Iterable[str]) -> bool:
    """Whether one of the patterns of `match.model_id` fits one of the ids. Case doesn't count."""
    return any(fnmatchcase(model.lower(), pattern.lower()) for pattern in patterns for model in model_ids)


def _fixed_part(start: object, word: str) -> str:
    """Return the part of a marker's start that is known without Jinja; nothing of ids, which may spell anything."""
    if not isinstance(start, str):
        return ""
    before, *after = _ROLE.split(start)
    return word.join([before, *after]).partition("{")[0]

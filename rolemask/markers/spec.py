"""`MarkerSet` and `Marker`: plain frozen data, without files or tokenizers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from rolemask.errors import Place, checks_keywords
from rolemask.types import Backend, OnEmpty, SelfCheck, TrainOnEos, Turns

if TYPE_CHECKING:
    from rolemask.masker import Masker

IGNORE_INDEX = -100
"""The label of a token without loss: the default of torch.nn.CrossEntropyLoss."""
LONGEST_MARKER = 300
"""Characters; the longest marker of the registry has 180. A longer one has contents in it, and its cost grows with the square."""
MOST_ROLES = 127
"""A role id is an int8."""


@dataclass(frozen=True)
class TokenIds:
    """A marker given as token ids instead of text."""

    ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"{{ids: {list(self.ids)}}}"


Pattern = str | TokenIds


class EndWord(Enum):
    """End markers that are words instead of text."""

    EOS_TOKEN = "eos_token"
    """The tokenizer's EOS token."""
    NEXT_START = "next_start"
    """The first token of the next turn, whatever its role."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def meant_by(cls, text: str) -> "EndWord | None":
        """Return the word that `text` seems to mean and isn't, or None: the end ``eos`` would match these three letters."""
        words = {entry.value: entry for entry in cls}
        if text in words or not re.fullmatch(r"[A-Za-z]+(?:[ _-][A-Za-z]+)?", text):
            return None
        also = {"eos": cls.EOS_TOKEN, "eos_id": cls.EOS_TOKEN, "next": cls.NEXT_START, "next_turn": cls.NEXT_START}
        known = words | also
        close = get_close_matches(re.sub("[ -]", "_", text.lower()), known, n=1, cutoff=0.8)
        return known[close[0]] if close else None


@dataclass(frozen=True)
class Marker:
    """How the turns of one role start and end; with `within`, its spans inside the turns of that role.

    `start`, `end` and `header_end` hold alternatives: the longest that matches wins. Without an `end`, the turn runs to the end of the
    sequence. `where` is the place in the YAML file, for messages.
    """

    role: str
    start: tuple[Pattern, ...]
    end: tuple[Pattern | EndWord, ...]
    include_start: bool = False
    include_end: bool = True
    rewind: bool = False
    header_end: tuple[Pattern, ...] = ()
    within: str | None = None
    start_owner: Literal["span", "turn"] = "span"
    follows_turn: bool = False
    unanswered: str | None = None
    where: Place = field(default=Place(""), compare=False)


# `unanswered` came later: where it is not given, the fingerprint is what it was.
_DECISIVE = [entry.name for entry in fields(Marker) if entry.name not in ("where", "unanswered")]


@dataclass(frozen=True)
class Example:
    """A text, and the parts of it that are trained with the default policy. `where` is the place in the YAML file, for messages."""

    text: str
    trained: tuple[str, ...]
    where: Place = field(default=Place(""), compare=False)


@dataclass(frozen=True)
class MarkerSet:
    """Everything known about one chat format. Comes from `rolemask.load` or `from_role_boundaries`.

    `masks_more` has the roles in whose turns and spans the set masks, on purpose, what the model generates, each with the reason.

    >>> import rolemask
    >>> rolemask.load("chatml").roles
    ('system', 'user', 'assistant', 'tool', 'other')
    """

    name: str
    title: str
    markers: tuple[Marker, ...]
    aliases: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()
    eos_token: str | None = None
    document_start: tuple[Pattern, ...] = ()
    media: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    match: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    source: tuple[Mapping[str, str], ...] = field(default=(), hash=False)
    examples: tuple[Example, ...] = ()
    masks_more: Mapping[str, str] = field(default_factory=dict, hash=False)
    origin: str = field(default="", compare=False)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles, in the order of the file."""
        return tuple(dict.fromkeys(marker.role for marker in self.markers))

    @property
    def media_tokens(self) -> tuple[str, ...]:
        """The placeholder and delimiter tokens of all media; `*` in a token stands for any text."""
        return tuple(dict.fromkeys(token for tokens in self.media.values() for token in tokens))

    @property
    def masks_more_text(self) -> str:
        """What the set masks on purpose, and why, for messages; empty if it masks nothing on purpose."""
        return "; ".join(f"{role}: {reason}" for role, reason in self.masks_more.items())

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which tokens are trained. A proof is stale if it names another one."""
        decisive = (
            [(*(getattr(marker, name) for name in _DECISIVE),) for marker in self.markers],
            self.special_tokens,
            self.eos_token,
            sorted(self.media.items()),
            *([self.document_start] if self.document_start else []),
            *([unanswered] if any(unanswered := [marker.unanswered for marker in self.markers]) else []),
        )
        return sha256(repr(decisive).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        roles = ", ".join(self.roles) or "none"
        return f"<MarkerSet {self.name!r}: roles {roles}; {len(self.markers)} markers, {len(self.media_tokens)} media tokens>"

    @checks_keywords
    def compile(
        self,
        tokenizer: object = None,
        *,
        train_on_inputs: bool = False,
        roles_to_train: Sequence[str] | None = None,
        roles_to_mask: Sequence[str] = (),
        train_on_eos: TrainOnEos = "turn",
        turns: Turns = "all",
        on_empty: OnEmpty = "warn",
        self_check: SelfCheck = "error",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        backend: Backend = "auto",
    ) -> "Masker":
        """Compile the markers against a tokenizer or processor, and return a masker; `rolemask.Masker` explains the options.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
        >>> masker = markers.compile(train_on_eos="none")
        >>> masker([2, 6, 7, 9])
        [-100, 6, 7, -100]

        Args:
            tokenizer: A tokenizer or processor of Transformers, tokenizers, mistral-common or tiktoken. Not needed if every marker is
                given as ids.
            train_on_inputs: See `rolemask.Masker`.
            roles_to_train: See `rolemask.Masker`.
            roles_to_mask: See `rolemask.Masker`.
            train_on_eos: See `rolemask.Masker`.
            turns: See `rolemask.Masker`.
            on_empty: See `rolemask.Masker`.
            self_check: See `rolemask.Masker`.
            chat_template_kwargs: See `rolemask.Masker`.
            backend: See `rolemask.Masker`.

        Raises:
            MarkerSetError: A marker has more than 300 characters, or there are more than 127 roles.
            TokenizerMismatchError: A marker does not exist in this tokenizer.
            TemplateMismatchError: The tokenizer's chat template does not follow the markers, and `self_check="error"`.
            UnsupportedTokenizerError: rolemask cannot read the vocabulary.
            PolicyError: A role is unknown, or an option has a wrong value.
            ArgumentError: An unknown keyword.
        """
        # Imports against the direction of the layers, so that `load(...).compile(...)` reads well.
        from rolemask.masker import Masker

        return Masker(
            self,
            tokenizer,
            train_on_inputs=train_on_inputs,
            roles_to_train=roles_to_train,
            roles_to_mask=roles_to_mask,
            train_on_eos=train_on_eos,
            turns=turns,
            on_empty=on_empty,
            self_check=self_check,
            chat_template_kwargs=chat_template_kwargs,
            backend=backend,
        )

    @staticmethod
    def from_role_boundaries(
        boundaries: Sequence[object] | None, base: "MarkerSet | None" = None, *, name: str = "role_boundaries"
    ) -> "MarkerSet":
        """Make a marker set from Axolotl's `role_boundaries`.

        >>> MarkerSet.from_role_boundaries(
        ...     [
        ...         {"role": "user", "start": "USER:", "end": "ASSISTANT:", "include_end": False},
        ...         {"role": "assistant", "start": "ASSISTANT:", "end": "eos_token"},
        ...     ]
        ... )
        <MarkerSet 'role_boundaries': roles user, assistant; 2 markers, 0 media tokens>

        Args:
            boundaries: Mappings or pydantic models with the keys `role`, `start`, `end`, `include_start` and `include_end`. `end` is text,
                ``{"ids": [...]}``, ``"eos_token"``, ``"next_start"``, or None for the end of the sequence. A non-empty list replaces all
                markers of `base` and keeps its media tokens; with None or ``[]`` you get `base`.
            base: The marker set to start from.
            name: The name of the new set.

        Raises:
            MarkerSetError: An entry is malformed, or there is neither a list nor a base. The problems number entries from 0.
        """
        from rolemask.markers.role_boundaries import read_role_boundaries

        return read_role_boundaries(boundaries, base, name=name)

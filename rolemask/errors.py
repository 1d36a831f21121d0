"""The errors that rolemask raises, and problems in files with their places.

::

    RoleMaskError
    ├── MarkerSetError(ValueError)            a YAML file, a proofs file or a `role_boundaries` list is malformed; see `.problems`
    ├── UnknownMarkerSetError(LookupError)    no marker set has this name or model id, or several have
    ├── UndetectedError(LookupError)          no marker set fits this model
    ├── FileReadError(OSError)                a file cannot be read
    ├── TokenizerMismatchError(ValueError)    the markers do not exist in this tokenizer; `.missing` lists special tokens
    ├── TemplateMismatchError(ValueError)     the chat template of this tokenizer does not follow the markers
    ├── UnsupportedTokenizerError(TypeError)  rolemask cannot read this object's vocabulary
    ├── PolicyError(ValueError)               an unknown role, or a wrong value of an option
    ├── ArgumentError(TypeError)              an unknown keyword
    ├── InputError(ValueError)                `input_ids`, or what goes with it, has the wrong type, shape or dtype
    ├── EmptyRowError(ValueError)             nothing is trained in a row, and `on_empty="error"`
    ├── ChatError(ValueError)                 a chat file is malformed, or there is no chat template
    └── MissingExtraError(ImportError)        an optional package is not installed
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class RoleMaskError(Exception):
    """Base of every error that rolemask raises on purpose."""


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file: ``path:line:column``, counted from 1; line 0 is a place without lines, such as ``role_boundaries[0]``."""

    path: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a file, where, and a hint what to do."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {self.message}{hint}"


class MarkerSetError(RoleMaskError, ValueError):
    """A marker set is malformed. `problems` lists everything that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.problems,))


class UnknownMarkerSetError(RoleMaskError, LookupError):
    """No marker set has this name or model id, or several formats have it."""


UndetectedReason = Literal[
    "unnamed",
    "ambiguous-names",
    "mistral-version",
    "malformed-set",
    "other-vocabulary",
    "broken-template",
    "silent-template",
    "no-set-fits",
    "trains-too-much",
]
"""Why `detect` found no marker set; `UndetectedError` explains each."""


class UndetectedError(RoleMaskError, LookupError):
    """No marker set fits this model. The message says why, and what to do next.

    `reason` is one of:

    - ``"unnamed"``: there is no chat template, and no set names the model's id, type or processor. Pass its processor or tokenizer, or
      `load` a set by name.
    - ``"ambiguous-names"``: there is no chat template, and several sets name the model. `load` one of those that the message lists.
    - ``"mistral-version"``: a tokenizer of mistral-common, which has no chat template. `load` a set for its version: the message names it.
    - ``"malformed-set"``: the only set that names the model is malformed. `rolemask check` says where.
    - ``"other-vocabulary"``: the tokenizer has not all special tokens of any set in question. It is another model's, or needs a new set.
    - ``"broken-template"``: the chat template is no Jinja, or fails on every chat. Repair it; the message has Jinja's own, and the line.
    - ``"silent-template"``: the chat template leaves a part out of every chat, so nothing can be compared. `load` a set by name.
    - ``"no-set-fits"``: every set differs from the chat template. The message shows where the nearest one, `nearest`, differs.
      ``fallback="derive"`` derives a set, `rolemask new` starts a file.
    - ``"trains-too-much"``: no set fits, and the set that ``fallback="derive"`` derived would train what the model never generates.
      `rolemask new` writes it to a file, to be corrected.

    `nearest` is the name of the set that comes nearest, if some set comes near.
    """

    def __init__(self, message: str, *, reason: UndetectedReason = "no-set-fits", nearest: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.nearest = nearest


class FileReadError(RoleMaskError, OSError):
    """A file cannot be read."""


class TokenizerMismatchError(RoleMaskError, ValueError):
    """The markers do not exist in this tokenizer. `missing` lists the special tokens that it lacks, if that is the reason."""

    def __init__(self, message: str, *, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class TemplateMismatchError(RoleMaskError, ValueError):
    """The chat template of this tokenizer does not follow the markers."""


class UnsupportedTokenizerError(RoleMaskError, TypeError):
    """rolemask cannot read this object's vocabulary."""


class PolicyError(RoleMaskError, ValueError):
    """A role is unknown, or an option has a wrong value."""


class ArgumentError(RoleMaskError, TypeError):
    """A function was called with a keyword that it doesn't have."""


class InputError(RoleMaskError, ValueError):
    """Token ids, or what goes with them, have the wrong type, shape or dtype."""


class EmptyRowError(RoleMaskError, ValueError):
    """Nothing is trained in a row, and `on_empty="error"`."""


class ChatError(RoleMaskError, ValueError):
    """A chat file is malformed, or there is no chat template."""


class MissingExtraError(RoleMaskError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def checks_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function so that an unknown keyword raises an error that names the function and the nearest keyword.

    >>> @checks_keywords
    ... def mask(ids, *, attention_mask=None): ...
    >>> mask([1], attn_mask=[1])
    Traceback (most recent call last):
    rolemask.errors.ArgumentError: mask() has no keyword 'attn_mask': did you mean 'attention_mask'?
    """
    known = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind != parameter.POSITIONAL_ONLY]
    public_name = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for word in kwargs:
            if word not in known:
                hint = did_you_mean(word, known) or f"it has {', '.join(name for name in known if name != 'self')}"
                raise ArgumentError(f"{public_name}() has no keyword {word!r}: {hint}")
        return function(*args, **kwargs)

    return checked


def require(module: str, *, extra: str, needed_for: str) -> ModuleType:
    """Import and return `module`; if it is not installed, the error names the extra that it belongs to.

    Raises:
        MissingExtraError: The module is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_for} needs the package {module.partition('.')[0]!r}, which is not installed. Run: pip install 'rolemask[{extra}]'"
        ) from error

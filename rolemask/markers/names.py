"""How names of marker sets are compared: by their letters and digits alone."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def fold(name: str) -> str:
    """Return a name without case, ``-``, ``_``, ``.`` and blanks: what two names share that mean the same.

    >>> fold("Qwen-2.5"), fold("qwen_25")
    ('qwen25', 'qwen25')
    """
    return re.sub(r"[-_.\s]", "", name).lower()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to `name` and has the same digits, or None: another version is another format.

    >>> nearest("gema3", ["gemma", "gemma3", "gemma4"])
    'gemma3'
    >>> nearest("gemma5", ["gemma", "gemma3", "gemma4"])
    """
    spellings = {fold(one): one for one in known if _digits(one) == _digits(name)}
    close = get_close_matches(fold(name), spellings, n=1)
    return spellings[close[0]] if close else None


def other_versions(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that differ from `name` in nothing but digits.

    >>> other_versions("gemma5", ["gemma", "gemma3", "gemma4_nano"])
    ['gemma', 'gemma3']
    """
    return [one for one in known if _letters(one) == _letters(name)]


def _digits(name: str) -> str:
    return re.sub(r"\D", "", name)


def _letters(name: str) -> str:
    return re.sub(r"\d", "", fold(name))

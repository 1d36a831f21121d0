"""rolemask decides which tokens of a chat count in the training loss."""

from rolemask.chat_templates.derive import DerivedMarkerSet, derive
from rolemask.chat_templates.detect import detect
from rolemask.chat_templates.template import ChatTemplate
from rolemask.chat_templates.verify import Verification, verify
from rolemask.collator import RoleMaskCollator
from rolemask.errors import (
    ChatError,
    EmptyRowError,
    FileReadError,
    InputError,
    MarkerSetError,
    MissingExtraError,
    PolicyError,
    RoleMaskError,
    TemplateMismatchError,
    TokenizerMismatchError,
    UndetectedError,
    UnknownMarkerSetError,
    UnsupportedTokenizerError,
)
from rolemask.markers.registry import available, load
from rolemask.markers.spec import IGNORE_INDEX, Marker, MarkerSet, TokenIds
from rolemask.masker import Masker

__version__ = "0.1.0"

__all__ = [
    "IGNORE_INDEX",
    "ChatError",
    "ChatTemplate",
    "DerivedMarkerSet",
    "EmptyRowError",
    "FileReadError",
    "InputError",
    "Marker",
    "MarkerSet",
    "MarkerSetError",
    "Masker",
    "MissingExtraError",
    "PolicyError",
    "RoleMaskCollator",
    "RoleMaskError",
    "TemplateMismatchError",
    "TokenIds",
    "TokenizerMismatchError",
    "UndetectedError",
    "UnknownMarkerSetError",
    "UnsupportedTokenizerError",
    "Verification",
    "available",
    "derive",
    "detect",
    "load",
    "verify",
]

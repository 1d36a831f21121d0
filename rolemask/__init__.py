"""rolemask decides which tokens of a chat count in the training loss."""

from rolemask.collator import RoleMaskCollator
from rolemask.detection import detect
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
from rolemask.inference import Inference, infer
from rolemask.masker import Masker
from rolemask.registry import available, load
from rolemask.spec import IGNORE_INDEX, Marker, MarkerSet, TokenIds
from rolemask.template import ChatTemplate
from rolemask.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "IGNORE_INDEX",
    "ChatError",
    "ChatTemplate",
    "EmptyRowError",
    "FileReadError",
    "Inference",
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
    "detect",
    "infer",
    "load",
    "verify",
]

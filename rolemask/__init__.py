"""rolemask decides which tokens of a chat count in the training loss.

>>> import rolemask
>>> rolemask.load("chatml")
<MarkerSet 'chatml': roles system, user, assistant, tool, other; 5 markers, 0 media tokens>
"""

from rolemask.chat_templates.compare import Difference, ScenarioResult, Status
from rolemask.chat_templates.derive import DerivedMarkerSet, derive
from rolemask.chat_templates.detect import detect
from rolemask.chat_templates.reading import Unsettled
from rolemask.chat_templates.template import ChatTemplate, RenderError, Rendering
from rolemask.chat_templates.verify import Verification, verify
from rolemask.check import check_files
from rolemask.collator import RoleMaskCollator
from rolemask.errors import (
    ArgumentError,
    ChatError,
    EmptyRowError,
    FileReadError,
    InputError,
    MarkerSetError,
    MissingExtraError,
    Place,
    PolicyError,
    Problem,
    RoleMaskError,
    TemplateMismatchError,
    TokenizerMismatchError,
    UndetectedError,
    UnknownMarkerSetError,
    UnsupportedTokenizerError,
)
from rolemask.markers.registry import available, load
from rolemask.markers.spec import IGNORE_INDEX, EndWord, Example, Marker, MarkerSet, TokenIds
from rolemask.masker import Masker
from rolemask.masking.explain import Explanation, Segment
from rolemask.masking.policy import Policy
from rolemask.masking.report import RowReport
from rolemask.masking.turns import Part
from rolemask.types import Backend, Fallback, Labels, OnEmpty, SelfCheck, TrainOnEos, Turns

__version__ = "0.1.0"

__all__ = [
    "IGNORE_INDEX",
    "ArgumentError",
    "Backend",
    "ChatError",
    "ChatTemplate",
    "DerivedMarkerSet",
    "Difference",
    "EmptyRowError",
    "EndWord",
    "Example",
    "Explanation",
    "Fallback",
    "FileReadError",
    "InputError",
    "Labels",
    "Marker",
    "MarkerSet",
    "MarkerSetError",
    "Masker",
    "MissingExtraError",
    "OnEmpty",
    "Part",
    "Place",
    "Policy",
    "PolicyError",
    "Problem",
    "RenderError",
    "Rendering",
    "RoleMaskCollator",
    "RoleMaskError",
    "RowReport",
    "ScenarioResult",
    "Segment",
    "SelfCheck",
    "Status",
    "TemplateMismatchError",
    "TokenIds",
    "TokenizerMismatchError",
    "TrainOnEos",
    "Turns",
    "UndetectedError",
    "UnknownMarkerSetError",
    "Unsettled",
    "UnsupportedTokenizerError",
    "Verification",
    "available",
    "check_files",
    "derive",
    "detect",
    "load",
    "verify",
]

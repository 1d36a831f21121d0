"""The types in rolemask's signatures: the words that options take, and what holds token ids.

NumPy and torch are imported by type checkers only, so `TokenIdsLike`, `Values` and `TrainTurns` do not exist at run time: import them
under ``if TYPE_CHECKING:``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

TrainOnEos = Literal["turn", "all", "last", "none"]
"""Which end markers are trained: those of trained turns, of all turns, of the last trained turn that has one, or none."""
Turns = Literal["all", "last", "last_round"]
"""Which turns of the trained roles are trained: all, the last one, or those behind the last question of each document."""
Labels = Literal["auto", "refine", "replace"]
"""What becomes of labels, masks and flags that came with the data."""
OnEmpty = Literal["warn", "error", "ignore"]
"""What `Masker` does about a row in which nothing is trained."""
SelfCheck = Literal["error", "warn", "off"]
"""What `compile` does when the tokenizer's chat template does not follow the marker set."""
Backend = Literal["auto", "host", "device"]
"""Where tensors are masked."""
Fallback = Literal["derive", "media"]
"""What `detect` does when no marker set fits."""

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    TokenIdsLike: TypeAlias = list[int] | list[list[int]] | NDArray[np.integer[Any]] | Tensor
    """Token ids: one row, or a batch of rows."""
    Values: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | NDArray[Any] | Tensor
    """Integers that go with token ids: an attention mask, positions, lengths."""
    TrainTurns: TypeAlias = Sequence[bool] | Sequence[Sequence[bool]]
    """One flag per trainable turn; for a batch, one list per row."""

IdsT = TypeVar("IdsT", bound="TokenIdsLike")
"""Token ids in, labels of the same type out."""
ListsOrTensorT = TypeVar("ListsOrTensorT", bound="list[int] | list[list[int]] | Tensor")

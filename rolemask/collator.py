"""Labels in a collator, for any framework whose collators return mappings of tensors."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rolemask.errors import InputError
from rolemask.masker import Masker

FeatureT = TypeVar("FeatureT")
BatchT = TypeVar("BatchT", bound=MutableMapping[str, Any])


@dataclass
class RoleMaskCollator(Generic[FeatureT, BatchT]):
    """Calls another collator and adds `labels` to its batch, made from the final `input_ids`: padded, and with media expanded.

    >>> import rolemask
    >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
    >>> def collate(rows: list[list[int]]) -> dict[str, list[list[int]]]:
    ...     return {"input_ids": rows}
    >>> rolemask.RoleMaskCollator(collate, markers.compile())([[2, 6, 9]])
    {'input_ids': [[2, 6, 9]], 'labels': [[-100, 6, 9]]}

    The batch's `attention_mask` and the borders of packed documents are used; see `Masker.map_batch`. Labels that the other collator
    made are replaced: Transformers' collator for language modelling masks the pad id, and if pad == eos it masks every stop token too.
    To refine labels of your own, call `Masker.mask_`.

    Args:
        base_collator: Takes a list of features and returns a mapping with `input_ids` (B, T) and, if it pads, `attention_mask` (B, T).
        masker: From `MarkerSet.compile`.
    """

    base_collator: Callable[[list[FeatureT]], BatchT]
    masker: Masker

    def __call__(self, features: list[FeatureT]) -> BatchT:
        """Return the batch of the base collator, with `labels`: of the type, shape, dtype and device of its `input_ids`.

        Raises:
            InputError: The base collator returned no mapping, or one without `input_ids`.
        """
        batch = self.base_collator(features)
        if not hasattr(batch, "keys"):
            raise InputError(f"{self.base_collator!r} returned a {type(batch).__name__}, expected a mapping with 'input_ids'")
        batch.update(self.masker.map_batch(batch))
        return batch

"""Labels in a collator, for any framework whose collators return mappings of tensors."""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast, get_args

from rolemask.errors import InputError
from rolemask.masker import Masker
from rolemask.masking.borders import BORDER_KEYS, LENGTH_KEYS
from rolemask.masking.placement import place_columns
from rolemask.masking.policy import choice
from rolemask.masking.refine import CALLERS_KEYS
from rolemask.types import Labels

FeatureT = TypeVar("FeatureT")
BatchT = TypeVar("BatchT", bound=MutableMapping[str, Any])

_WITHOUT_LABELS = ("DataCollatorWithPadding", "DataCollatorForLanguageModeling")
"""Collators of Transformers that hand every column to `tokenizer.pad`, which fails for lists of several lengths."""


@dataclass
class RoleMaskCollator(Generic[FeatureT, BatchT]):
    """Calls another collator and adds `labels` to its batch, made from the final `input_ids`: padded, and with media expanded.

    >>> import rolemask
    >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
    >>> def collate(rows: list[dict[str, list[int]]]) -> dict[str, list[list[int]]]:
    ...     return {"input_ids": [row["input_ids"] for row in rows]}
    >>> collator = rolemask.RoleMaskCollator(collate, markers.compile())
    >>> collator([{"input_ids": [2, 6, 9]}])
    {'input_ids': [[2, 6, 9]], 'labels': [[-100, 6, 9]]}
    >>> collator([{"input_ids": [2, 6, 9], "labels": [2, -100, 9]}])
    {'input_ids': [[2, 6, 9]], 'labels': [[-100, -100, 9]]}

    The batch's `attention_mask` and the borders of packed documents are used; see `Masker.map_batch`.

    What the features say about their tokens counts: `labels` (-100), `completion_mask` and `assistant_masks` (0) and `train_turns`
    leave tokens and turns out. They are read from the features, and follow their tokens to where the batch has them, so a collator need not
    know them: it gets the features without masks and flags (and, if it is a `DataCollatorWithPadding` or a
    `DataCollatorForLanguageModeling` of Transformers, which cannot pad them, without labels and lengths).
    Labels that only the other collator made are replaced: the one for language modelling masks the pad id, and if pad == eos every stop
    token too.

    Args:
        base_collator: Takes a list of features and returns a mapping with `input_ids` (B, T) and, if it pads, `attention_mask` (B, T).
        masker: From `MarkerSet.compile`.
        labels: ``"auto"``: as said above. ``"refine"``: the labels of the batch count where the features have none, and no labels or masks
            at all are an error. ``"replace"``: all labels, masks and flags are ignored.

    Raises:
        PolicyError: A wrong value of `labels`.
    """

    base_collator: Callable[[list[FeatureT]], BatchT]
    masker: Masker
    labels: Labels = "auto"

    def __post_init__(self) -> None:
        choice("labels", self.labels, get_args(Labels))

    def __call__(self, features: list[FeatureT]) -> BatchT:
        """Return the batch of the base collator, with `labels`: of the type, shape, dtype and device of its `input_ids`.

        Raises:
            InputError: The base collator returned no mapping, or one without `input_ids`; or labels and masks of the features whose
                tokens are not found in the batch, because it cut them or expanded media in them; or see `Masker.map_batch`.
        """
        columns: list[Mapping[str, Any]] = [feature for feature in features if isinstance(feature, Mapping)]
        if len(columns) < len(features):  # some are no mappings: nothing to read or to remove
            columns = []
        removed = {*CALLERS_KEYS} - {"labels"}
        if any(
            kind.__name__ in _WITHOUT_LABELS and kind.__module__.startswith("transformers.") for kind in type(self.base_collator).__mro__
        ):
            removed |= {"labels", *LENGTH_KEYS}
        if any(removed & feature.keys() for feature in columns):
            bare = [{key: value for key, value in feature.items() if key not in removed} for feature in columns]
            batch = self.base_collator(cast("list[FeatureT]", bare))
        else:
            batch = self.base_collator(features)
        if not hasattr(batch, "keys"):
            raise InputError(f"{self.base_collator!r} returned a {type(batch).__name__}, expected a mapping with 'input_ids'")
        batch.update(self.masker.map_batch(self._told(columns, batch), labels=self.labels))
        return batch

    def _told(self, features: list[Mapping[str, Any]], batch: BatchT) -> Mapping[str, Any]:
        """Return the batch with what the features say, in place of the labels of the base collator."""
        told = {key: value for key, value in batch.items() if key != "labels" or self.labels == "refine"}
        if features and "input_ids" in batch:
            given = features if self.labels != "replace" else [_only_tokens(feature) for feature in features]
            told |= place_columns(given, batch, self.masker.rules.pad_id)
        return told


def _only_tokens(feature: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in feature.items() if key == "input_ids" or key in BORDER_KEYS}

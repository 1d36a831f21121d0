"""The masker: a compiled marker set with a policy, for whatever holds the token ids."""

import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from rolemask.chat_templates.self_check import self_check as check_against_template
from rolemask.errors import EmptyRowError, InputError, PolicyError
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.batch import (
    ArrayBatch,
    ListBatch,
    Row,
    as_lists,
    have_one_shape,
    is_array,
    is_tensor,
    read_batch,
    to_array,
)
from rolemask.masking.dispatch import Dispatcher
from rolemask.masking.explain import Explanation, explain_row
from rolemask.masking.policy import choice, make_policy
from rolemask.masking.report import RowReport, report_row
from rolemask.matching.compiler import rules_for

logger = logging.getLogger("rolemask")

OnEmpty = Literal["warn", "error", "ignore"]
SelfCheck = Literal["error", "warn", "off"]
Backend = Literal["auto", "host", "device"]
_warned: set[str] = set()  # the sets of which an empty row was warned about in this process


class Masker:
    """Labels token ids: the id where the token counts in the loss, -100 elsewhere. Made by `MarkerSet.compile`.

    Labels are not shifted: the model or the loss does that, as in Transformers. Picklable.

    Args:
        markers: The marker set.
        tokenizer: Tokenizer or processor whose ids will come; not needed where every marker is given as ids.
        train_on_inputs: Train everything but media and padding.
        roles_to_train: The roles whose words are trained; None means ``["assistant"]``, ``[]`` trains nothing.
        train_on_eos: ``"turn"``, ``"all"``, ``"last"`` or ``"none"``: whose end markers are trained.
        turns: ``"all"`` turns of the trained roles, or only the ``"last"``.
        on_empty: What to do about a row in which nothing is trained: ``"warn"`` (once per marker set and process), ``"error"`` or
            ``"ignore"``. On a device only ``"error"`` looks, and waits for it.
        self_check: What to do where the chat template of the tokenizer or processor does not follow the marker set, which a few short
            chats tell (some tens of milliseconds, the first time): ``"error"``, ``"warn"``, or not even look: ``"off"``.
        backend: Where tensors are masked: ``"auto"``: on the device where they are, if that is no CPU; on the ``"host"``; or with the
            operations for a ``"device"`` wherever they are. Flags per turn (`train_turns`) are always checked and used on the host.

    Raises:
        TokenizerMismatchError, TemplateMismatchError, UnsupportedTokenizerError: See `MarkerSet.compile`.
        PolicyError: A role that the set does not have, or an option with a wrong value.
    """

    def __init__(
        self,
        markers: MarkerSet,
        tokenizer: Any = None,
        *,
        train_on_inputs: bool = False,
        roles_to_train: Sequence[str] | None = None,
        train_on_eos: str = "turn",
        turns: str = "all",
        on_empty: str = "warn",
        self_check: str = "error",
        backend: str = "auto",
    ) -> None:
        choice("on_empty", on_empty, get_args(OnEmpty))
        choice("self_check", self_check, get_args(SelfCheck))
        choice("backend", backend, get_args(Backend))
        self.markers = markers
        if not markers.markers:  # media and padding only: `rolemask.detect(..., fallback="media")`
            train_on_inputs, roles_to_train = True, []
        self.policy = make_policy(
            markers.roles, train_on_inputs=train_on_inputs, roles_to_train=roles_to_train, train_on_eos=train_on_eos, turns=turns
        )
        self.on_empty = on_empty
        self.rules = rules_for(markers, tokenizer)
        check_against_template(markers, self.rules, tokenizer, self_check)
        self._paths = Dispatcher(self.rules, self.policy, backend)
        self._weighted: Dispatcher | None = None
        logger.info("%r on %s: %s; %s", markers.name, self.rules.vocabulary.name, self.policy, self._summary())

    @property
    def role_names(self) -> tuple[str, ...]:
        """The roles, in the order of the ids that `roles` returns."""
        return self.rules.roles

    def __call__(self, input_ids: Any, attention_mask: Any = None, **rows: Any) -> Any:
        """Return the labels of `input_ids`: same kind, shape, dtype and device; -100 where no loss is wanted.

        Args:
            input_ids: (B, T) or (T,), int32 or int64 tensor or array; or a list of ints, or of lists of ints of any lengths.
            attention_mask: The same shape; 0 where a token is padding. Without it the pad token is told by its id. A mask that numbers
                the documents of a row (1, 1, 2, 2, 2, 0, as Axolotl's does) tells of them too.
            **rows: What else is known of the rows. Where several documents are packed into one, tell of them by one of `position_ids` (the
                same shape; a document begins wherever the position does not go up), `seq_lens` (the lengths, per row), `cu_seqlens`
                (n + 1 borders, for one row): each is masked as if it stood alone, and the first label of every further one is -100.
                `train_turns` (flags, per row) picks turns: one flag for each turn of which anything would be trained.

        Raises:
            InputError: A wrong kind, shape or dtype; or not as many flags as turns.
            EmptyRowError: Nothing is trained in a row, and `on_empty="error"`.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries(
        ...     [
        ...         {"role": "user", "start": {"ids": [1]}, "end": {"ids": [9]}},
        ...         {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}},
        ...     ]
        ... )
        >>> markers.compile()([1, 5, 9, 2, 6, 9])
        [-100, -100, -100, -100, 6, 9]
        """
        if self._paths.stays_on_device(input_ids, rows):
            tensors, labels, _ = self._paths.mask_on_device(input_ids, attention_mask, rows)
            if self.on_empty == "error" and not (labels != IGNORE_INDEX).any(1).all():
                self._check_empty(read_batch(input_ids, attention_mask, **rows), to_array(labels))
            return tensors.restore(labels)
        batch = read_batch(input_ids, attention_mask, **rows)
        labels, _ = self._paths.mask(batch, with_roles=False)
        self._check_empty(batch, labels)
        return batch.restore(labels)

    def mask_(self, labels: Any, input_ids: Any, attention_mask: Any = None, **rows: Any) -> Any:
        """Set `labels` to -100, in place, wherever no loss is wanted; what is -100 already stays so. Returns `labels`.

        Args:
            labels: Tensor or array of the shape of `input_ids`, of any integer dtype and any device.
            input_ids: As for `__call__`.
            attention_mask: As for `__call__`.
            **rows: As for `__call__`.

        Raises:
            InputError: `labels` is no tensor or array, or of another shape.
        """
        if not (is_tensor(labels) or is_array(labels)):
            raise InputError(f"labels is a {type(labels).__name__}; only a tensor or an array can be masked in place")
        masked = self(input_ids, attention_mask, **rows)
        masked = masked if is_tensor(masked) else to_array(masked)
        if tuple(labels.shape) != tuple(masked.shape):
            raise InputError(f"labels has the shape {tuple(labels.shape)}, expected that of input_ids, {tuple(masked.shape)}")
        if is_tensor(labels):
            import torch

            labels.masked_fill_((torch.as_tensor(masked) == IGNORE_INDEX).to(labels.device), IGNORE_INDEX)
        else:
            labels[to_array(masked) == IGNORE_INDEX] = IGNORE_INDEX
        return labels

    def role_ids(self, input_ids: Any, attention_mask: Any = None, **rows: Any) -> Any:
        """Return the role id of each token, an index into `role_names`, or -1 outside any turn: int8, kind and shape of `input_ids`."""
        if self._paths.stays_on_device(input_ids, rows):
            tensors, _, roles = self._paths.mask_on_device(input_ids, attention_mask, rows)
            return tensors.restore(roles)
        batch = read_batch(input_ids, attention_mask, **rows)
        return batch.restore(self._paths.mask(batch)[1])

    def weights(self, input_ids: Any, role_weights: Mapping[str, float], attention_mask: Any = None, **rows: Any) -> Any:
        """Return a loss weight per token, float32, of the kind and shape of `input_ids`; 0 where no loss is wanted.

        What is trained is what would be with ``roles_to_train=list(role_weights)``; a token weighs what its role does. A span whose role
        is not named, and that follows its turn, weighs what the turn does: ``{"assistant": 1.0, "reasoning": 0.5}``.

        Raises:
            PolicyError: A role that the set does not have, or a negative weight.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries(
        ...     [{"role": "user", "start": {"ids": [1]}}, {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}]
        ... )
        >>> markers.compile().weights([2, 6, 9, 1, 5], {"assistant": 1.0, "user": 0.1})
        [0.0, 1.0, 1.0, 0.0, 0.10000000149011612]
        """
        if any(weight < 0 for weight in role_weights.values()):
            raise PolicyError(f"role_weights is {dict(role_weights)}, expected weights of 0 or more")
        table = [0.0] * len(self.rules.roles) + [0.0]  # the last one is for role -1
        for rule in self.rules.rules:
            if rule.follows_turn:
                table[rule.role] = role_weights.get(self.rules.roles[rule.within], 0.0)
        for role, weight in role_weights.items():
            if role in self.rules.roles:
                table[self.rules.roles.index(role)] = weight
        paths = self._paths_for(tuple(role_weights))
        if paths.stays_on_device(input_ids, rows):
            import torch

            tensors, labels, roles = paths.mask_on_device(input_ids, attention_mask, rows)
            weights = torch.tensor(table, dtype=torch.float32, device=labels.device)[roles.long()]
            return tensors.restore(torch.where(labels != IGNORE_INDEX, weights, 0.0))
        batch = read_batch(input_ids, attention_mask, **rows)
        labels, roles = paths.mask(batch)
        if isinstance(batch, ArrayBatch):
            import numpy

            return batch.restore(numpy.where(labels != IGNORE_INDEX, numpy.array(table, dtype=numpy.float32)[roles], numpy.float32(0)))
        as_float32 = [struct.unpack("f", struct.pack("f", weight))[0] for weight in table]
        return batch.restore(
            [
                [as_float32[role] if label != IGNORE_INDEX else 0.0 for label, role in zip(*row, strict=True)]
                for row in zip(labels, roles, strict=True)
            ]
        )

    def explain(self, input_ids: Any, attention_mask: Any = None, **rows: Any) -> Any:
        """Explain, token by token, what is trained and why.

        Returns:
            An `Explanation` for a row (T,), a list of them for a batch (B, T).
        """
        batch = as_lists(read_batch(input_ids, attention_mask, **rows))

        def explain_one(index: int) -> Explanation:
            row = batch.row(index)
            return explain_row(row.ids, self._paths.define(row, index), row.attention, self.rules, self.policy)

        return batch.restore([explain_one(index) for index in range(len(batch.ids))])

    def report(self, input_ids: Any, attention_mask: Any = None, **rows: Any) -> Any:
        """Count the turns found and the tokens trained, and say why where nothing is.

        Returns:
            A `RowReport` for a row (T,), a list of them for a batch (B, T).
        """
        batch = as_lists(read_batch(input_ids, attention_mask, **rows))
        return batch.restore([self._report(batch.row(index), index) for index in range(len(batch.ids))])

    def map_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Add `labels` to a batch of `datasets.Dataset.map(masker.map_batch, batched=True)`.

        Packed rows are told by the batch's `position_ids`, if they have the shape of `input_ids`, or its `seq_lens`.

        Raises:
            InputError: The batch has no `input_ids`.
        """
        if "input_ids" not in batch:
            raise InputError(f"the batch has no 'input_ids', only {', '.join(batch) or 'nothing'}. Tokenize the dataset first")
        rows = {}
        positions = batch.get("position_ids")
        # Positions with more axes (three for the multimodal rotary embedding) say where a token is in an image, not in a document.
        if positions is not None and have_one_shape(positions, batch["input_ids"]):
            rows["position_ids"] = positions
        elif batch.get("seq_lens") is not None:
            rows["seq_lens"] = batch["seq_lens"]
        return {"labels": self(batch["input_ids"], batch.get("attention_mask"), **rows)}

    def _summary(self) -> str:
        parts = []
        for marker in self.markers.markers:
            start = " | ".join(repr(str(start)) for start in marker.start)
            end = " | ".join(repr(str(end)) for end in marker.end) or "the end of the sequence"
            parts.append(f"{marker.role}: {start} ... {end}")
        return f"{'; '.join(parts)}; {len(self.rules.media)} media ids"

    def _paths_for(self, roles: tuple[str, ...]) -> Dispatcher:
        """Return the paths with other roles to train; the last are kept, since a training loop asks for the same again and again."""
        if self._weighted is None or self._weighted.policy.roles_to_train != roles:
            make_policy(self.markers.roles, roles_to_train=roles)
            self._weighted = Dispatcher(self.rules, replace(self.policy, roles_to_train=roles), self._paths.backend)
        return self._weighted

    def _report(self, row: Row, index: int) -> RowReport:
        masked = self._paths.define(row, index)
        return report_row(masked.labels, masked.roles, masked.turns, row.attention, self.rules, self.policy)

    def _check_empty(self, batch: ListBatch | ArrayBatch, labels: Any) -> None:
        # Who trains no role has asked for empty rows.
        if self.on_empty == "ignore" or not (self.policy.roles_to_train or self.policy.train_on_inputs):
            return
        if self.on_empty == "warn" and self.markers.name in _warned:
            return
        for index, row in enumerate(labels):
            is_empty = (row == IGNORE_INDEX).all() if isinstance(batch, ArrayBatch) else all(label == IGNORE_INDEX for label in row)
            if not is_empty:
                continue
            report = self._report(as_lists(batch).row(index), index)
            message = f"{self.markers.name!r}: row {index} (of 0..{len(labels) - 1}) trains nothing: {report.why_empty}"
            if self.on_empty == "error":
                raise EmptyRowError(f'{message} (pass on_empty="ignore" if that is expected)')
            logger.warning("%s. Further rows are not reported; see Masker.report", message)
            _warned.add(self.markers.name)
            return

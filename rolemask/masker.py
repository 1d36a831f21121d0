"""`Masker`: a compiled marker set with a policy, which turns token ids into labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, overload
from weakref import ReferenceType, ref

from rolemask.chat_templates.detect import detect
from rolemask.chat_templates.self_check import self_check as check_against_template
from rolemask.chat_templates.undetected import nearest_set
from rolemask.errors import EmptyRowError, InputError, RoleMaskError, TokenizerMismatchError, UndetectedError, checks_keywords
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.automaton import automaton_of, keep_automaton
from rolemask.masking.batch import ArrayBatch, as_lists, read_batch, rows_that_train
from rolemask.masking.borders import add_borders, has_borders
from rolemask.masking.columns import is_array, is_tensor, to_array
from rolemask.masking.dispatch import Dispatcher
from rolemask.masking.documents import as_nested
from rolemask.masking.explain import Explanation, explain_row
from rolemask.masking.formats import columns_of, with_labels
from rolemask.masking.lists import ListBatch, Row
from rolemask.masking.policy import Policy, choice, make_policy
from rolemask.masking.refine import LEFT_OUT, callers, count_left_out, is_same, mask_lists, refine
from rolemask.masking.report import RowReport, report_row, report_rows
from rolemask.masking.weights import weigh, weigh_on_device, weight_table
from rolemask.matching.compiler import OUTSIDE, Rules, rules_for
from rolemask.matching.packing import freeze, thaw
from rolemask.matching.vocabulary import read_vocabulary
from rolemask.types import Backend, IdsT, Labels, ListsOrTensorT, OnEmpty, SelfCheck, TrainOnEos, Turns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rolemask.types import TokenIdsLike, TrainTurns, Values

logger = logging.getLogger("rolemask")

FrameT = TypeVar("FrameT")
"""An Arrow table, or a frame of pandas or polars."""


class Masker:
    """Labels token ids: a token's own id where it counts in the loss, -100 elsewhere. `MarkerSet.compile` makes one.

    >>> import rolemask
    >>> markers = rolemask.MarkerSet.from_role_boundaries(
    ...     [
    ...         {"role": "user", "start": {"ids": [1]}, "end": {"ids": [9]}},
    ...         {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}},
    ...     ]
    ... )
    >>> rolemask.Masker(markers)
    <Masker 'role_boundaries' on no tokenizer: train_on_inputs=False, roles_to_train=[assistant], train_on_eos=turn, turns=all; \
on_empty=warn; roles user, assistant>

    Labels are not shifted: the model or the loss does that, as in Transformers. A masker can be pickled.

    Args:
        markers: The marker set.
        tokenizer: The tokenizer or processor that makes the ids. Not needed if every marker is given as ids.
        train_on_inputs: Train everything but media and padding.
        roles_to_train: The roles that are trained; None means ``["assistant"]``, ``[]`` trains nothing.
        roles_to_mask: The roles that are never trained, not even where their span follows a trained turn, or with `train_on_inputs`:
            ``["reasoning"]`` trains the answer without its reasoning.
        train_on_eos: Which end markers are trained: those of trained turns (``"turn"``), of ``"all"`` turns, of the ``"last"`` trained
            turn that has one, or ``"none"``.
        turns: ``"all"`` turns of the trained roles, only the ``"last"``, or those of the ``"last_round"``: behind the last question. A
            question is a user's turn that carries no tool's result.
        on_empty: What to do about a row in which nothing is trained: ``"warn"``, ``"error"`` or ``"ignore"``. A masker warns once; a copy
            of it (pickled, or in a worker process) warns once more. On a device only ``"error"`` looks, and it synchronises.
        self_check: What to do if the tokenizer's chat template does not follow the marker set: ``"error"``, ``"warn"``, or don't check:
            ``"off"``. The check renders a few short chats (some tens of milliseconds, once per set, template and tokenizer).
        chat_template_kwargs: Variables that the chat template needs besides the messages. Only the self-check uses them.
        backend: Where tensors are masked: ``"auto"`` (on their device, unless that is the CPU), on the ``"host"``, or with the
            ``"device"`` operations wherever they are. Batches with `train_turns` are always masked on the host.

    Raises:
        MarkerSetError, TokenizerMismatchError, TemplateMismatchError, UnsupportedTokenizerError: See `MarkerSet.compile`.
        PolicyError: A role that the set does not have, or that is both to be trained and to be masked; an option with a wrong value.
        ArgumentError: An unknown keyword.
    """

    @checks_keywords
    def __init__(
        self,
        markers: MarkerSet,
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
    ) -> None:
        choice("on_empty", on_empty, get_args(OnEmpty))
        choice("self_check", self_check, get_args(SelfCheck))
        choice("backend", backend, get_args(Backend))
        self.markers = markers
        if not markers.markers:  # media and padding only: `rolemask.detect(..., fallback="media")`
            train_on_inputs, roles_to_train = True, []
        self.policy = make_policy(
            markers.roles,
            train_on_inputs=train_on_inputs,
            roles_to_train=roles_to_train,
            roles_to_mask=roles_to_mask,
            train_on_eos=train_on_eos,
            turns=turns,
        )
        self.on_empty = on_empty
        self.rules = _compile(markers, tokenizer)
        _warn_of_endless_turns(self.rules)
        check_against_template(markers, self.rules, tokenizer, self_check, chat_template_kwargs or {})
        self._start(backend)
        self._tokenizer: ReferenceType[object] | None = _weak_reference(getattr(tokenizer, "tokenizer", tokenizer))
        logger.info("%r on %s: %s; %s", markers.name, self.rules.vocabulary.name, self.policy, self._summary())

    def _start(self, backend: Backend) -> None:
        """Set what changes while the masker is used, and what is no part of a pickle."""
        self._paths = Dispatcher(self.rules, self.policy, backend).prepare()
        self._weighted: Dispatcher | None = None
        self._has_warned = False
        self._has_told = False

    def __getstate__(self) -> dict[str, Any]:
        # Caches of datasets are named after a hash of these bytes. So they hold the version, and nothing that calling the masker changes:
        # no matter whether the automaton was needed here, the copy gets it. The copy may not see the log, and warns once more.
        import rolemask

        own = (self.markers, self.policy, self.on_empty, self._paths.backend, self.rules, automaton_of(self.rules))
        others = {name: value for name, value in self.__dict__.items() if name not in _OWN}
        return others | {"version": rolemask.__version__, "frozen": freeze(own)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.markers, self.policy, self.on_empty, backend, self.rules, automaton = thaw(state["frozen"])
        self.__dict__.update({name: value for name, value in state.items() if name not in ("version", "frozen")})
        keep_automaton(self.rules, automaton)
        self._start(backend)
        self._tokenizer = None

    def __repr__(self) -> str:
        roles = ", ".join(self.role_names) or "none"
        return f"<Masker {self.markers.name!r} on {self.rules.vocabulary.name}: {self.policy}; on_empty={self.on_empty}; roles {roles}>"

    @property
    def role_names(self) -> tuple[str, ...]:
        """The roles, in the order of the ids that `role_ids` returns."""
        return self.rules.roles

    @checks_keywords
    def __call__(
        self,
        input_ids: IdsT,
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> IdsT:
        """Return the labels of `input_ids`, -100 for tokens that are not trained.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries(
        ...     [
        ...         {"role": "user", "start": {"ids": [1]}, "end": {"ids": [9]}},
        ...         {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}},
        ...     ]
        ... )
        >>> markers.compile()([1, 5, 9, 2, 6, 9])
        [-100, -100, -100, -100, 6, 9]

        If a row packs several documents, pass one of `position_ids`, `cu_seqlens` and `seq_lens`: each document is masked as if it stood
        alone, and the first label of every document but the first is -100. An `attention_mask` that numbers the documents
        (1, 1, 2, 2, 2, 0, as Axolotl's does) says it too. `map_batch` and `RoleMaskCollator` find the borders under more names.

        Args:
            input_ids: (B, T) or (T,) tensor or array, int32 or int64; a list of ints; or rows of any lengths: a list of lists, arrays or
                tensors, an array of these, or a column of Arrow, pandas or polars.
            attention_mask: The same shape; 0 where a token is padding. Without it, tokens with the pad id are padding.
            position_ids: The same shape; a document begins wherever the position does not go up. Those of a multimodal model have one
                more axis, in front: of three, a document begins where all are at their least value of the row; of four, the first counts.
            cu_seqlens: (n + 1,) ascending borders from 0, for a batch of one row; or (B, n + 1).
            seq_lens: (B, n) or, for one row, (n,): the lengths of the documents, 0 for none.
            train_turns: One flag per trainable turn, per row: False leaves that turn out.

        Returns:
            Labels of the type, shape, dtype and device of `input_ids`.

        Raises:
            InputError: A wrong type, shape or dtype; not one flag per trainable turn; or, without an attention mask, a pad token that the
                tokenizer got after `compile`.
            EmptyRowError: Nothing is trained in a row, and `on_empty="error"`.
        """
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        if self._paths.stays_on_device(input_ids, rows):
            tensors, labels, _ = self._paths.mask_on_device(cast("Tensor", input_ids), attention_mask, rows)
            if self.on_empty == "error" and not all(trains := (labels != IGNORE_INDEX).any(1).tolist()):
                self._check_empty(read_batch(input_ids, attention_mask, **rows), trains)
            return cast("IdsT", tensors.restore(labels))
        batch = read_batch(input_ids, attention_mask, **rows)
        return cast("IdsT", batch.restore_labels(self._label(batch)))

    @checks_keywords
    def mask_(
        self,
        labels: IdsT,
        input_ids: "Values",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> IdsT:
        """Set `labels` to -100, in place, for tokens that are not trained; what is -100 already stays so. Returns `labels`.

        >>> import numpy, rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
        >>> labels = numpy.array([2, -100, 7, 9])
        >>> markers.compile().mask_(labels, numpy.array([2, 6, 7, 9])).tolist()
        [-100, -100, 7, 9]

        Args:
            labels: Of the shape of `input_ids`: a tensor or array, of any integer dtype and on any device, or a list of ints or lists.
            input_ids: As for `__call__`; and so are the others.
            attention_mask: See `__call__`.
            position_ids: See `__call__`.
            cu_seqlens: See `__call__`.
            seq_lens: See `__call__`.
            train_turns: See `__call__`.

        Raises:
            InputError: `labels` is no tensor, array or list, has another shape, or a dtype that cannot hold -100.
        """
        own: Any = labels
        if not (isinstance(own, list) or is_tensor(own) or is_array(own)):
            raise InputError(f"labels is a {type(own).__name__}; only a tensor, an array or a list can be masked in place")
        dtype = str(getattr(own, "dtype", ""))
        if "uint" in dtype or "bool" in dtype:
            raise InputError(f"labels has the dtype {dtype}, which cannot hold {IGNORE_INDEX}; expected int32 or int64")
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        masked: Any = self(cast("TokenIdsLike", input_ids), attention_mask, **rows)
        if isinstance(own, list):
            mask_lists(own, as_nested(masked))
            return labels
        masked = masked if is_tensor(masked) else to_array(masked)
        if tuple(own.shape) != tuple(masked.shape):
            raise InputError(f"labels has the shape {tuple(own.shape)}, expected that of input_ids, {tuple(masked.shape)}")
        if is_tensor(own):
            import torch

            own.masked_fill_((torch.as_tensor(masked) == IGNORE_INDEX).to(own.device), IGNORE_INDEX)
        else:
            own[to_array(masked) == IGNORE_INDEX] = IGNORE_INDEX
        return labels

    @overload
    def role_ids(
        self,
        input_ids: ListsOrTensorT,
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> ListsOrTensorT: ...
    @overload
    def role_ids(
        self,
        input_ids: "NDArray[np.integer[Any]]",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> "NDArray[np.int8]": ...
    @checks_keywords
    def role_ids(
        self,
        input_ids: "TokenIdsLike",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> "TokenIdsLike":
        """Return the role id of each token: an index into `role_names`, or -1 outside any turn.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries(
        ...     [{"role": "user", "start": {"ids": [1]}}, {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}]
        ... )
        >>> markers.compile().role_ids([7, 2, 6, 9, 1, 5])
        [-1, 1, 1, 1, 0, 0]

        The arguments and errors are those of `__call__`.

        Returns:
            int8, of the type, shape and device of `input_ids`.
        """
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        if self._paths.stays_on_device(input_ids, rows):
            tensors, _, roles = self._paths.mask_on_device(cast("Tensor", input_ids), attention_mask, rows)
            role_ids: Tensor = tensors.restore(roles)
            return role_ids
        batch = read_batch(input_ids, attention_mask, **rows)
        return cast("TokenIdsLike", batch.restore(self._paths.mask(batch).roles))

    @overload
    def weights(
        self,
        input_ids: list[int],
        attention_mask: "Values | None" = None,
        *,
        role_weights: Mapping[str, float],
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> list[float]: ...
    @overload
    def weights(
        self,
        input_ids: list[list[int]],
        attention_mask: "Values | None" = None,
        *,
        role_weights: Mapping[str, float],
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> list[list[float]]: ...
    @overload
    def weights(
        self,
        input_ids: "NDArray[np.integer[Any]]",
        attention_mask: "Values | None" = None,
        *,
        role_weights: Mapping[str, float],
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> "NDArray[np.float32]": ...
    @overload
    def weights(
        self,
        input_ids: "Tensor",
        attention_mask: "Values | None" = None,
        *,
        role_weights: Mapping[str, float],
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> "Tensor": ...
    @checks_keywords
    def weights(
        self,
        input_ids: "TokenIdsLike",
        attention_mask: "Values | None" = None,
        *,
        role_weights: Mapping[str, float],
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> "list[float] | list[list[float]] | NDArray[np.float32] | Tensor":
        """Return a loss weight per token, 0 for tokens that are not trained.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries(
        ...     [{"role": "user", "start": {"ids": [1]}}, {"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}]
        ... )
        >>> markers.compile().weights([2, 6, 9, 1, 5], role_weights={"assistant": 1.0, "user": 0.5})
        [0.0, 1.0, 1.0, 0.0, 0.5]

        The roles of `role_weights` are trained, in place of the masker's `roles_to_train`, and a token has the weight of its role.
        A span that follows its turn, and whose role is not named, has the weight of the turn's role: with
        ``{"assistant": 1.0, "reasoning": 0.5}``, tool calls have 1.0.

        Args:
            input_ids: As for `__call__`; and so are the others.
            attention_mask: See `__call__`.
            role_weights: Role -> weight, 0 or more.
            position_ids: See `__call__`.
            cu_seqlens: See `__call__`.
            seq_lens: See `__call__`.
            train_turns: See `__call__`.

        Returns:
            float32, of the type, shape and device of `input_ids`.

        Raises:
            PolicyError: A role that the set does not have, or that `roles_to_mask` names; a negative weight.
        """
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        table = weight_table(self.rules, role_weights)
        paths = self._paths_for(tuple(role_weights))
        if paths.stays_on_device(input_ids, rows):
            tensors, labels, roles = paths.mask_on_device(cast("Tensor", input_ids), attention_mask, rows)
            return tensors.restore(weigh_on_device(labels, roles, table))
        batch = read_batch(input_ids, attention_mask, **rows)
        found = paths.mask(batch)
        return cast("list[list[float]]", batch.restore(weigh(batch, found.labels, found.roles, table)))

    @overload
    def explain(
        self,
        input_ids: list[int],
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        input_ids: list[list[int]],
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        input_ids: "NDArray[np.integer[Any]] | Tensor",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> Explanation | list[Explanation]: ...
    @checks_keywords
    def explain(
        self,
        input_ids: "TokenIdsLike",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> Explanation | list[Explanation]:
        """Explain, token by token, what is trained and why.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
        >>> for segment in markers.compile().explain([2, 6, 7, 9]).segments:
        ...     print(segment.start, segment.stop, segment.role, segment.part, segment.trained)
        0 1 assistant header False
        1 3 assistant content True
        3 4 assistant end marker True

        The arguments and errors are those of `__call__`.

        Returns:
            An `Explanation` for one row, (T,); a list of them for a batch, (B, T).
        """
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        batch = as_lists(read_batch(input_ids, attention_mask, **rows))
        explanations = []
        for index in range(len(batch.ids)):
            row = batch.row(index)
            explanations.append(explain_row(row.ids, self._paths.define(row, index), row.attention, self.rules, self.policy))
        return explanations[0] if batch.flat else explanations

    @overload
    def report(
        self,
        input_ids: list[int],
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> RowReport: ...
    @overload
    def report(
        self,
        input_ids: list[list[int]],
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> list[RowReport]: ...
    @overload
    def report(
        self,
        input_ids: "NDArray[np.integer[Any]] | Tensor",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> RowReport | list[RowReport]: ...
    @checks_keywords
    def report(
        self,
        input_ids: "TokenIdsLike",
        attention_mask: "Values | None" = None,
        *,
        position_ids: "Values | None" = None,
        cu_seqlens: "Values | None" = None,
        seq_lens: "Values | None" = None,
        train_turns: "TrainTurns | None" = None,
    ) -> RowReport | list[RowReport]:
        """Count the turns and the trained tokens of each row; for a row that trains nothing, say why.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
        >>> print(markers.compile().report([2, 6, 7, 9]))
        3 of 4 tokens trained; turns: 1 assistant

        The arguments and errors are those of `__call__`.

        Returns:
            A `RowReport` for one row, (T,); a list of them for a batch, (B, T).
        """
        rows = _given(position_ids=position_ids, cu_seqlens=cu_seqlens, seq_lens=seq_lens, train_turns=train_turns)
        batch = read_batch(input_ids, attention_mask, **rows)
        reports = self._reports(batch)
        return reports[0] if batch.flat else reports

    @overload
    def map_batch(self, batch: Mapping[str, Any], *, labels: Labels = "auto") -> "dict[str, TokenIdsLike]": ...
    @overload
    def map_batch(self, batch: FrameT, *, labels: Labels = "auto") -> FrameT: ...
    @checks_keywords
    def map_batch(self, batch: Any, *, labels: Labels = "auto") -> Any:
        """Return ``{"labels": ...}`` for a batch, as ``dataset.map(masker.map_batch, batched=True)`` calls it.

        >>> import rolemask
        >>> markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
        >>> markers.compile().map_batch({"input_ids": [[2, 6, 9], [2, 7]]})
        {'labels': [[-100, 6, 9], [-100, 7]]}

        Args:
            batch: A mapping with `input_ids` and, if it has them, `attention_mask` and the borders of documents: `position_ids`,
                `seq_lens` and `cu_seqlens`, which mean what they mean for `__call__`, `seq_lengths` (TRL's name of `seq_lens`),
                `cu_seq_lens_q` (Transformers' name of `cu_seqlens`) and `seq_idx` (a number per token, another one for another document).
                What the data says about its tokens counts too: `labels`, where -100 leaves a token out, `completion_mask` and
                `assistant_masks`, where 0 does, and `train_turns`, as for `__call__`. They have the shape of `input_ids`, or are shorter
                by the padding that `attention_mask` shows. Other keys are ignored. A batch on a device that has any of these keys
                is masked on the host. An Arrow table or a frame of pandas or polars comes back with a column `labels`.
            labels: ``"auto"``: what the batch leaves out, by its labels, masks or flags, is not trained. ``"refine"``: the same, and a
                batch without labels and masks is an error. ``"replace"``: those of the batch are ignored.

        The first time that labels or masks take something away, the log (INFO) says how many tokens and stop tokens.

        Raises:
            InputError: The batch has no `input_ids`; a key with borders has another shape; two of them disagree; labels or masks of
                another length; `assistant_masks` that are 0 in a whole row, where the masker trains something.
            PolicyError: A wrong value of `labels`.
        """
        choice("labels", labels, get_args(Labels))
        columns = columns_of(batch)
        if "input_ids" not in columns:
            raise InputError(f"the batch has no 'input_ids', only {', '.join(columns) or 'nothing'}. Tokenize the dataset first")
        given = {} if labels == "replace" else callers(columns)
        if labels == "refine" and not given.keys() & {*LEFT_OUT}:
            raise InputError(f'labels="refine", and the batch has none of {", ".join(LEFT_OUT)}: there is nothing to refine')
        input_ids, attention_mask = columns["input_ids"], columns.get("attention_mask")
        if not (given or has_borders(columns)):
            return with_labels(batch, self(input_ids, attention_mask))
        rows = read_batch(input_ids, attention_mask, train_turns=as_nested(given.get("train_turns")))
        add_borders(rows, columns, self.rules.pad_id)
        return with_labels(batch, rows.restore_labels(self._label(rows, given)))

    def _summary(self) -> str:
        parts = []
        for marker in self.markers.markers:
            start = " | ".join(repr(str(start)) for start in marker.start)
            end = " | ".join(repr(str(end)) for end in marker.end) or "the end of the sequence"
            parts.append(f"{marker.role}: {start} ... {end}")
        return f"{'; '.join(parts)}; {len(self.rules.media)} media ids"

    def _paths_for(self, roles: tuple[str, ...]) -> Dispatcher:
        """Return a dispatcher that trains other roles. The last one is kept: a training loop asks for the same roles again and again."""
        if self._weighted is None or self._weighted.policy.roles_to_train != roles:
            make_policy(self.markers.roles, roles_to_train=roles, roles_to_mask=self.policy.roles_to_mask)
            self._weighted = Dispatcher(self.rules, replace(self.policy, roles_to_train=roles), self._paths.backend)
        return self._weighted

    def _label(self, batch: ListBatch | ArrayBatch, given: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - lists or an array, like the batch
        """Return the labels of a batch, masked on the host, without what the columns `given` leave out."""
        if batch.attention is None:
            self._check_pad_token()
        found = self._paths.mask(batch, with_roles=False)
        labels, trains = found.labels, found.trains
        if given:
            refined = refine(batch, labels, given)
            self._tell_what_is_left_out(batch, labels, refined)
            labels, trains = refined, rows_that_train(batch, refined)
        self._check_empty(batch, trains)
        return labels

    def _tell_what_is_left_out(self, batch: ListBatch | ArrayBatch, labels: Any, refined: Any) -> None:  # noqa: ANN401 - like the batch
        """Log, the first time, how many tokens and stop tokens the caller's labels leave out."""
        if self._has_told or not logger.isEnabledFor(logging.INFO) or is_same(labels, refined):
            return
        ends = Dispatcher(self.rules, Policy(roles_to_train=(), train_on_eos="all"), "host")
        counts = count_left_out(labels, refined, ends.mask(replace(batch, train_turns=None), with_roles=False).labels)
        logger.info(
            "%r: the labels or masks that came with the data leave out %d of the %d tokens that are trained in this batch, "
            '%d of the %d stop tokens among them. labels="replace" ignores them. This masker does not say it again',
            self.markers.name,
            counts[True, False] + counts[False, False],
            counts.total(),
            counts[True, False],
            counts[True, False] + counts[True, True],
        )
        self._has_told = True

    def _reports(self, batch: ListBatch | ArrayBatch) -> list[RowReport]:
        if isinstance(batch, ListBatch):
            return [self._report(batch.row(index), index) for index in range(len(batch.ids))]
        found = self._paths.mask(batch, with_events=True)
        rows = cache(lambda: as_lists(batch))  # only some rows that train nothing are looked at
        return report_rows(batch, found, lambda index: self._paths.define(rows().row(index), index).turns, self.rules, self.policy)

    def _report(self, row: Row, index: int) -> RowReport:
        masked = self._paths.define(row, index)
        return report_row(masked.labels, masked.roles, masked.turns, row.attention, self.rules, self.policy)

    def _check_pad_token(self) -> None:
        """Raise InputError if the tokenizer got another pad token after `compile`: that one would be trained."""
        tokenizer = None if self._tokenizer is None else self._tokenizer()
        pad_id = getattr(tokenizer, "pad_token_id", self.rules.pad_id)
        if pad_id != self.rules.pad_id:
            raise InputError(
                f"the pad token of {self.rules.vocabulary.name} is id {pad_id} now, and was {self.rules.pad_id} when {self.markers.name!r} "
                "was compiled: compile again, or pass attention_mask"
            )

    def _check_empty(self, batch: ListBatch | ArrayBatch, trains: Sequence[bool]) -> None:
        """Warn of the first row that trains nothing, or raise."""
        # With no trained roles, empty rows are expected.
        if self.on_empty == "ignore" or not (self.policy.roles_to_train or self.policy.train_on_inputs):
            return
        if self.on_empty == "warn" and self._has_warned:
            return
        for index, is_trained in enumerate(trains):
            if is_trained:
                continue
            report = self._report(as_lists(batch).row(index), index)
            reason = report.why_empty or f"the labels or masks that came with the data leave out its {report.trained} tokens"
            message = f"{self.markers.name!r}: row {index} (of 0..{len(trains) - 1}) trains nothing: {reason}"
            if self.on_empty == "error":
                raise EmptyRowError(f'{message} (pass on_empty="ignore" if that is expected)')
            logger.warning("%s. This masker does not warn again; see Masker.report", message)
            self._has_warned = True
            return


_OWN = ("markers", "policy", "on_empty", "rules", "_paths", "_weighted", "_has_warned", "_has_told", "_tokenizer")
"""The attributes of a masker; a subclass may have more."""


def _weak_reference(value: object) -> ReferenceType[object] | None:
    """Return a reference that does not keep the value alive, None where its type has none."""
    try:
        return ref(value)
    except TypeError:
        return None


def _given(**rows: object) -> dict[str, Any]:
    """Return the arguments that are not None."""
    return {name: value for name, value in rows.items() if value is not None}


def _compile(markers: MarkerSet, tokenizer: object) -> Rules:
    """Compile; for a wrong tokenizer, the error names the set that fits it."""
    try:
        return rules_for(markers, tokenizer)
    except TokenizerMismatchError as error:
        nearest = _nearest(tokenizer) if error.missing else None
        if nearest in (None, markers.name):
            raise
        raise TokenizerMismatchError(f"{error} The set nearest to this tokenizer is {nearest!r}.", missing=error.missing) from None


def _warn_of_endless_turns(rules: Rules) -> None:
    """Warn if a turn without an end marker would take in the next turn: a start of text doesn't close it."""
    endless = {rules.roles[rule.role] for rule in rules.rules if not rule.has_end and rule.within == OUTSIDE}
    openings = [rules.openings[value] for value in sorted(rules.starts.values - rules.special_starts.values)]
    text_roles = dict.fromkeys(rules.roles[rules.rules[rule].role] for rule, _ in openings)
    if endless and text_roles:
        logger.warning(
            "%r: turns of %s have no end marker and run on through those of %s, whose starts are text. Declare `end: next_start`",
            rules.name,
            ", ".join(sorted(endless)),
            ", ".join(text_roles),
        )


def _nearest(tokenizer: object) -> str | None:
    """Return the set that fits the tokenizer's chat template, or comes nearest to it, or else the one whose special tokens do."""
    try:
        return detect(tokenizer).name
    except RoleMaskError as error:  # no chat template, or no set that fits it
        nearest = error.nearest if isinstance(error, UndetectedError) else None
        return nearest or nearest_set(read_vocabulary(tokenizer))

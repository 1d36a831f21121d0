"""Picks the kernel for a batch: torch on a device, numba or NumPy for arrays, the definition without NumPy."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from rolemask.errors import InputError
from rolemask.masking.batch import ArrayBatch, TensorBatch, read_tensor, rows_that_train
from rolemask.masking.columns import is_tensor
from rolemask.masking.labelled import Labelled
from rolemask.masking.lists import ListBatch, Row
from rolemask.masking.policy import Policy
from rolemask.masking.reference import Masked, check_train_turns, mask, may_be_trained
from rolemask.matching.compiler import Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rolemask.masking.kernels.torch_kernel import TorchKernel


logger = logging.getLogger("rolemask")


class ArrayKernel(Protocol):
    """Masks rows that stand end to end, under one policy."""

    def mask(
        self,
        ids: "NDArray[np.integer[Any]]",
        offsets: "NDArray[np.int64]",
        attention: "NDArray[np.bool_] | None" = None,
        *,
        starts: "NDArray[np.bool_] | None" = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
        with_events: bool = False,
    ) -> Labelled:
        """Mask the rows ``ids[offsets[0]:offsets[1]]``, ``ids[offsets[1]:offsets[2]]`` and so on.

        Args:
            ids: (N,), int32 or int64.
            offsets: (B + 1,), ascending from 0 to N.
            attention: (N,), whether a token is attended to. Without it, tokens with the pad id are padding.
            starts: (N,), whether a document begins, or None where each row is one.
            train_turns: One flag per trainable turn, per row; the caller checks their number.
            with_roles: Whether the roles are wanted.
            with_events: Whether the events are wanted.
        """
        ...


class Dispatcher:
    """Picks the kernel for a batch and runs it.

    Each kernel is made when it is first used, or by `prepare`.
    """

    def __init__(self, rules: Rules, policy: Policy, backend: str) -> None:
        self.rules = rules
        self.policy = policy
        self.backend = backend
        self.array_path: ArrayKernel | None = None
        self._device_path: TorchKernel | None = None

    def prepare(self) -> "Dispatcher":
        """Make the kernel of ``backend="device"`` now: under `torch.compile`, the first call must not make it."""
        if self.backend == "device":
            with suppress(ImportError):  # no torch, so no tensors
                self._make_device_path()
        return self

    def stays_on_device(self, input_ids: Any, rows: Mapping[str, Any]) -> bool:
        """Whether the torch kernel masks these ids.

        Raises:
            InputError: It doesn't, and `torch.compile` is tracing the call.
        """
        if self.backend == "host" or not is_tensor(input_ids) or "train_turns" in rows:
            return False
        on_device: bool = self.backend == "device" or not input_ids.is_cpu
        if not on_device and _is_traced():
            raise InputError('torch.compile cannot trace what masks tensors on the CPU: compile the markers with backend="device"')
        return on_device

    def mask_on_device(self, input_ids: "Tensor", attention_mask: Any, rows: Mapping[str, Any]) -> "tuple[TensorBatch, Tensor, Tensor]":
        """Return the batch, and its labels (B, T) and roles (B, T) int8 on the device of `input_ids`.

        Raises:
            InputError: `torch.compile` is tracing the first call.
        """
        if self._device_path is None and _is_traced():
            raise InputError(
                "torch.compile met a masker that has no tables yet, and they cannot be made in compiled code: make this call once "
                'without torch.compile, on a batch of any size, or compile the markers with backend="device"'
            )
        path = self._device_path or self._make_device_path()
        batch = read_tensor(input_ids, attention_mask, **rows)
        return batch, *path.mask(batch.ids, batch.attention, starts=batch.starts)

    def _make_device_path(self) -> "TorchKernel":
        import torch

        from rolemask.masking.kernels.torch_kernel import TorchKernel

        # Without fullgraph=True, torch.compile leaves a call that it cannot trace, and traces what that one calls: thousands of steps.
        disable: Any = torch.compiler.disable
        kernel: TorchKernel = disable(lambda: TorchKernel(self.rules, self.policy))()
        self._device_path = kernel
        return kernel

    def mask(self, batch: ListBatch | ArrayBatch, *, with_roles: bool = True, with_events: bool = False) -> Labelled:
        """Mask a batch on the host. The labels have the dtype of the ids.

        Raises:
            InputError: Not one flag of `train_turns` per trainable turn.
        """
        if isinstance(batch, ListBatch):
            rows = [self.define(batch.row(index), index) for index in range(len(batch.ids))]
            labels = [row.labels for row in rows]
            return Labelled(labels, [row.roles for row in rows], None, rows_that_train(batch, labels))
        if self.array_path is None:
            self.array_path = _make_array_kernel(self.rules, self.policy)
        ids, offsets = batch.column.values, batch.column.offsets
        found = self.array_path.mask(
            ids,
            offsets,
            batch.attention,
            starts=batch.starts,
            train_turns=batch.train_turns,
            with_roles=with_roles,
            with_events=with_events,
        )
        for row, flags in enumerate(batch.train_turns or ()):
            check_train_turns(flags, int(found.counts[row]), self.policy, row)
        return found if found.labels.dtype == ids.dtype else found._replace(labels=found.labels.astype(ids.dtype))

    def define(self, row: Row, index: int) -> Masked:
        """Mask one row by the definition, which returns its turns too."""
        masked = mask(row.ids, self.rules, self.policy, row.attention, starts=row.starts, train_turns=row.train_turns)
        if row.train_turns is not None:
            count = sum(may_be_trained(turn, self.rules, self.policy) for turn in masked.turns)
            check_train_turns(row.train_turns, count, self.policy, index)
        return masked


def _make_array_kernel(rules: Rules, policy: Policy) -> ArrayKernel:
    try:
        from rolemask.masking.kernels.numba_kernel import NumbaKernel

        return NumbaKernel(rules, policy)
    except ImportError:  # numba is not installed
        pass
    except Exception as error:  # numba is broken, which it shows in many ways
        _tell_of_numba(f"{type(error).__name__}: {error}")
    from rolemask.masking.kernels.numpy_kernel import NumpyKernel

    return NumpyKernel(rules, policy)


@cache
def _tell_of_numba(error: str) -> None:
    """Warn once."""
    logger.warning("numba does not work (%s), so NumPy is used, which is slower. Reinstall numba, or remove it", error)


def _is_traced() -> bool:
    """Whether `torch.compile` is tracing this code. Before torch 2.3, nothing tells."""
    import torch

    return hasattr(torch.compiler, "is_compiling") and torch.compiler.is_compiling()

"""Picks the kernel for a batch: torch on a device, numba or NumPy for arrays, the definition without NumPy."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from rolemask.errors import InputError
from rolemask.masking.batch import ArrayBatch, ListBatch, Row, TensorBatch, has_numpy, is_tensor, read_tensor, to_array
from rolemask.masking.policy import Policy
from rolemask.masking.reference import Masked, check_train_turns, mask, may_be_trained
from rolemask.matching.compiler import Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rolemask.masking.kernels.torch_kernel import TorchKernel


class ArrayKernel(Protocol):
    """Masks arrays under one policy."""

    def mask(
        self,
        ids: "NDArray[np.integer[Any]]",
        attention: "NDArray[np.bool_] | None" = None,
        *,
        starts: "NDArray[np.bool_] | None" = None,
        train_turns: Sequence[Sequence[bool]] | None = None,
        with_roles: bool = True,
    ) -> "tuple[NDArray[np.integer[Any]], NDArray[np.int8], list[int]]":
        """Return labels (B, T) of the dtype of `ids`, roles (B, T) int8, and the number of trainable turns of each row."""
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
        if self.backend == "host" or not is_tensor(input_ids) or rows.get("train_turns") is not None:
            return False
        on_device: bool = self.backend == "device" or input_ids.device.type != "cpu"
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

    def mask(self, batch: ListBatch | ArrayBatch, *, with_roles: bool = True) -> tuple[Any, Any]:
        """Return labels and roles: lists of rows for a ListBatch, arrays for an ArrayBatch."""
        if isinstance(batch, ArrayBatch):
            return self._mask_array(batch.ids, batch.attention, batch.starts, batch.train_turns, with_roles=with_roles)
        if not has_numpy():
            defined = [self.define(batch.row(index), index) for index in range(len(batch.ids))]
            return [row.labels for row in defined], [row.roles for row in defined]
        labels, roles = [], []
        for index in range(len(batch.ids)):
            row = batch.row(index)
            row_labels, row_roles = self._mask_array(
                to_array([row.ids]).astype("int64"),
                None if row.attention is None else to_array([row.attention]) != 0,
                None if row.starts is None else to_array([row.starts]),
                None if row.train_turns is None else [row.train_turns],
                with_roles=with_roles,
                first_row=index,
            )
            labels += row_labels.tolist()
            roles += row_roles.tolist()
        return labels, roles

    def _mask_array(
        self,
        ids: "NDArray[np.integer[Any]]",
        attention: "NDArray[np.bool_] | None",
        starts: "NDArray[np.bool_] | None",
        train_turns: list[list[bool]] | None,
        *,
        with_roles: bool,
        first_row: int = 0,
    ) -> "tuple[NDArray[np.integer[Any]], NDArray[np.int8]]":
        if self.array_path is None:
            self.array_path = _make_array_kernel(self.rules, self.policy)
        labels, roles, counts = self.array_path.mask(ids, attention, starts=starts, train_turns=train_turns, with_roles=with_roles)
        for row, flags in enumerate(train_turns or ()):
            check_train_turns(flags, counts[row], self.policy, first_row + row)
        return labels, roles

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
    except ImportError:
        from rolemask.masking.kernels.numpy_kernel import NumpyKernel

        return NumpyKernel(rules, policy)
    return NumbaKernel(rules, policy)


def _is_traced() -> bool:
    """Whether `torch.compile` is tracing this code. Before torch 2.3, nothing tells."""
    import torch

    return hasattr(torch.compiler, "is_compiling") and torch.compiler.is_compiling()

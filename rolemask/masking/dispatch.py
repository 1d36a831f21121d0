"""Which path runs: the device's operations, arrays with or without numba, or the definition. Each is made when first used."""

from collections.abc import Mapping
from typing import Any

from rolemask.masking.batch import ArrayBatch, ListBatch, Row, has_numpy, is_tensor, read_tensor, to_array
from rolemask.masking.policy import Policy
from rolemask.masking.reference import Masked, check_train_turns, mask, may_be_trained
from rolemask.matching.compiler import Rules


class Dispatcher:
    """All ways to run one policy. Picklable: what was made is made anew."""

    def __init__(self, rules: Rules, policy: Policy, backend: str) -> None:
        self.rules = rules
        self.policy = policy
        self.backend = backend
        self.array_path: Any = None
        self._device_path: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"array_path": None, "_device_path": None}

    def stays_on_device(self, input_ids: Any, rows: Mapping[str, Any]) -> bool:
        """Whether these ids are masked by the operations for a device."""
        if self.backend == "host" or not is_tensor(input_ids) or rows.get("train_turns") is not None:
            return False
        return self.backend == "device" or input_ids.device.type != "cpu"

    def mask_on_device(self, input_ids: Any, attention_mask: Any, rows: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return the tensors as they were read, labels (B, T) and roles (B, T) int8, on the device of `input_ids`."""
        if self._device_path is None:
            from rolemask.masking.kernels.torch_kernel import TorchKernel

            self._device_path = TorchKernel(self.rules, self.policy)
        tensors = read_tensor(input_ids, attention_mask, **rows)
        return tensors, *self._device_path.mask(tensors.ids, tensors.attention, starts=tensors.starts)

    def mask(self, batch: ListBatch | ArrayBatch, *, with_roles: bool = True) -> tuple[Any, Any]:
        """Return labels and roles, per row: lists for a ListBatch, arrays for an ArrayBatch."""
        if isinstance(batch, ArrayBatch):
            return self._mask_array(batch.ids, batch.attention, batch.starts, batch.train_turns, with_roles=with_roles)
        if not has_numpy():
            defined = [self.define(batch.row(index), index) for index in range(len(batch.ids))]
            return [row.labels for row in defined], [row.roles for row in defined]
        labels, roles = [], []
        for index in range(len(batch.ids)):
            row = batch.row(index)
            found = self._mask_array(
                to_array([row.ids]).astype("int64"),
                None if row.attention is None else to_array([row.attention]) != 0,
                None if row.starts is None else to_array([row.starts]),
                None if row.train_turns is None else [row.train_turns],
                with_roles=with_roles,
                first_row=index,
            )
            labels += found[0].tolist()
            roles += found[1].tolist()
        return labels, roles

    def _mask_array(
        self, ids: Any, attention: Any, starts: Any, train_turns: list[list[bool]] | None, *, with_roles: bool, first_row: int = 0
    ) -> tuple[Any, Any]:
        options = {"attention": attention, "starts": starts, "train_turns": train_turns, "with_roles": with_roles}
        labels, roles, counts = self._arrays().mask(ids, **options)
        for row, flags in enumerate(train_turns or ()):
            check_train_turns(flags, counts[row], self.policy, first_row + row)
        return labels, roles

    def define(self, row: Row, index: int) -> Masked:
        """Ask the definition about one row."""
        masked = mask(row.ids, self.rules, self.policy, row.attention, starts=row.starts, train_turns=row.train_turns)
        if row.train_turns is not None:
            count = sum(may_be_trained(turn, self.rules, self.policy) for turn in masked.turns)
            check_train_turns(row.train_turns, count, self.policy, index)
        return masked

    def _arrays(self) -> Any:
        if self.array_path is None:
            try:
                from rolemask.masking.kernels.numba_kernel import NumbaKernel as Path
            except ImportError:
                from rolemask.masking.kernels.numpy_kernel import NumpyKernel as Path  # type: ignore[assignment]
            self.array_path = Path(self.rules, self.policy)
        return self.array_path

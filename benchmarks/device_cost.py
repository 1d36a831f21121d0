"""What the torch kernel costs, counted and not timed: the torch operations of a call, and the bytes of their inputs and outputs.

    python benchmarks/device_cost.py

An operation that is no view is one kernel or two (`constant_pad_nd` fills and copies). A table counts whole at each look-up, though most
of it is not touched. The floor reads each id once and writes each label once.
"""

from collections import Counter
from typing import Any

import torch
from tables import table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rolemask
from rolemask.masking.kernels.torch_kernel import TorchKernel
from rolemask.matching.toy_tokenizer import ToyTokenizer

SHAPES = ((8, 8192), (1, 131072))


class Cost(TorchDispatchMode):
    """Counts the operations that are no views, by name, and the bytes that go in and out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations[str(func)] += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor))
        return result


def counts() -> str:
    """The operations and bytes of a call."""
    markers = rolemask.load("chatml")
    tokenizer = ToyTokenizer(markers, ["user assistant system tool"])
    turn = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nIt is a dog, and it is asleep.<|im_end|>\n"
    ids = torch.tensor(tokenizer.encode(turn))
    cells = []
    for policy in ({}, {"turns": "last"}, {"train_on_eos": "last"}):
        masker = markers.compile(tokenizer, **policy)
        device_masker = TorchKernel(masker.rules, masker.policy)
        options = ", ".join(f'`{name}="{value}"`' for name, value in policy.items()) or "default"
        for batch, size in SHAPES:
            row = ids.repeat(-(-size // len(ids)))[:size]
            rows = row.expand(batch, size).contiguous()
            starts = torch.zeros_like(rows, dtype=torch.bool)
            starts[:, :: 100 * len(ids)] = True
            for packed in (False, True):
                with Cost() as cost:
                    device_masker.mask(rows, starts=starts if packed else None)
                floor = 2 * rows.nbytes
                name = f"({batch}, {size}), {options}{', packed' if packed else ''}"
                cells.append([name, str(cost.operations.total()), cost.bytes / 1e6, floor / 1e6, cost.bytes / floor])
    return table(["shape and policy", "operations", "MB", "floor: MB", "times the floor"], cells)


if __name__ == "__main__":
    print(counts())

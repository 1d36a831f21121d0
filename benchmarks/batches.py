"""Tables of one batch on the host: each way to label it, what a call costs at least, and that it grows with the tokens alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import BATCH, POLICY, flat, masker, rows, rules
from tables import MASKER, WHERE, table
from timing import medians, torch_threads

from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.masking.kernels.torch_kernel import TorchKernel
from rolemask.masking.reference import mask


def batch() -> str:
    """Each way to label one batch, beside one torch.where with the same result."""
    calls = _ways()
    threads = torch.get_num_threads()
    settings = [(1, False), (1, True), *([(threads, False)] if threads > 1 else [])]
    found = []
    for count, evicted in settings:
        with torch_threads(count):
            found.append(medians(calls, 12, evicted=evicted))
    head = ["way"]
    for count, evicted in settings:
        head += [f"{count} thread{'s' * (count > 1)}, caches {'evicted' if evicted else 'warm'}: ms", "times `torch.where`"]
    return table(head, [[name, *(cell for times in found for cell in (times[name] * 1e3, times[name] / times[WHERE]))] for name in calls])


def _ways() -> dict[str, Callable[[], Any]]:
    ids, lengths = rows(BATCH)
    tensor, seq_lens = torch.from_numpy(ids), torch.from_numpy(lengths)
    positions = torch.from_numpy(rows(BATCH).position_ids)
    attention = torch.ones_like(tensor)
    attention[:, -BATCH[1] // 16 :] = 0  # padding
    label, values = masker(), flat(ids)
    compiled, arrays, device = NumbaKernel(rules(), POLICY), NumpyKernel(rules(), POLICY), TorchKernel(rules(), POLICY)
    expected = np.array([mask(row, rules(), POLICY).labels for row in ids.tolist()])
    for labels in (label(tensor).numpy(), compiled.mask(*values).labels, arrays.mask(*values).labels, device.mask(tensor)[0].numpy()):
        assert np.array_equal(labels.reshape(BATCH), expected)
    trained = torch.from_numpy(expected != -100)
    lists = ids.tolist()
    return {
        WHERE: lambda: torch.where(trained, tensor, -100),
        MASKER: lambda: label(tensor),
        "`masker(tensor, attention_mask)`": lambda: label(tensor, attention),
        "`masker(tensor, position_ids=...)`": lambda: label(tensor, position_ids=positions),
        "`masker(tensor, seq_lens=...)`": lambda: label(tensor, seq_lens=seq_lens),
        "the numba kernel: labels": lambda: compiled.mask(*values, with_roles=False),
        "the numba kernel: labels and roles": lambda: compiled.mask(*values),
        "the NumPy kernel: labels": lambda: arrays.mask(*values, with_roles=False),
        "the NumPy kernel: labels and roles": lambda: arrays.mask(*values),
        "the operations for a device, on this CPU": lambda: device.mask(tensor),
        "the definition, in plain Python": lambda: [mask(row, rules(), POLICY) for row in lists],
    }


def fixed() -> str:
    """What a call costs at least."""
    ids = rows((1, 512)).ids
    tensor, lists, label = torch.from_numpy(ids), ids.tolist(), masker()
    attention, trained = torch.ones_like(tensor), label(tensor) != -100
    calls = {
        WHERE: lambda: torch.where(trained, tensor, -100),
        "`masker(tensor)`": lambda: label(tensor),
        "`masker(tensor, attention_mask)`": lambda: label(tensor, attention),
        "`masker(list)`": lambda: label(lists),
    }
    with torch_threads(1):
        times = medians(calls, 5)
    return table(["one row of 512 tokens", "us"], [[name, taken * 1e6] for name, taken in times.items()])


def linear() -> str:
    """Time per token over shapes."""
    compiled, label = NumbaKernel(rules(), POLICY), masker()
    calls: dict[str, Callable[[], Any]] = {}
    shapes = ((1, 1024), (8, 1024), (8, 8192), (1, 131072), (8, 65536))
    for shape in shapes:
        ids = rows(shape).ids
        tensor, values = torch.from_numpy(ids), flat(ids)
        calls[f"kernel {shape}"] = lambda values=values: compiled.mask(*values, with_roles=False)
        calls[f"masker {shape}"] = lambda tensor=tensor: label(tensor)
    times = medians(calls, 8)
    return table(
        ["shape", "the numba kernel: ns a token", "`masker(tensor)`: ns a token"],
        [[str(shape), *(times[f"{way} {shape}"] / np.prod(shape) * 1e9 for way in ("kernel", "masker"))] for shape in shapes],
    )

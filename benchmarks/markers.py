"""Tables of what markers and rows do to the array kernels: many markers, text, and the worst rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import texts
from common import BATCH, POLICY, flat, rows, rules, vocabulary, with_text_markers
from numpy.typing import NDArray
from tables import table
from timing import medians

from rolemask.markers.spec import MarkerSet
from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.matching.compiler import Rules, compile_rules

USUAL = "the usual row: chats of real text"


class _Case(NamedTuple):
    rules: Rules
    ids: NDArray[np.int64]
    starts: NDArray[np.bool_] | None = None


def worst() -> str:
    """The worst rows, with numba and without."""
    cases = _worst_cases()
    calls: dict[str, Callable[[], Any]] = {}
    for name, case in cases.items():
        for kernel in (NumbaKernel(case.rules, POLICY), NumpyKernel(case.rules, POLICY)):
            values = flat(case.ids)
            calls[f"{type(kernel).__name__} {name}"] = lambda kernel=kernel, values=values, case=case: kernel.mask(
                *values, starts=case.starts, with_roles=False
            )
    times = medians(calls, 12)
    cells = []
    for name, case in cases.items():
        row: list[str | float] = [name]
        for kernel_name in ("NumbaKernel", "NumpyKernel"):
            taken = times[f"{kernel_name} {name}"] / case.ids.size
            row += [taken * 1e9, taken / (times[f"{kernel_name} {USUAL}"] / cases[USUAL].ids.size)]
        cells.append(row)
    return table(["row", "numba: ns a token", "times usual", "NumPy: ns a token", "times usual"], cells)


def _worst_cases() -> dict[str, _Case]:
    encode = vocabulary().encode
    assert encode is not None
    start, hash_sign = encode("<|im_start|>")[0], encode("#")[0]
    header = MarkerSet.from_role_boundaries([{"role": role, "start": f"###{role}", "end": "<|im_end|>"} for role in ("user", "assistant")])
    turns = [[*encode(f"<|im_start|>{role}\n"), *encode(word)] for role, word in (("user", "Why"), ("assistant", "So"))]
    dense = np.resize([*turns[0], *encode("<|im_end|>"), *turns[1], *encode("<|im_end|>")], BATCH)
    starts = np.zeros(np.prod(BATCH), dtype=np.bool_)
    starts[np.linspace(0, len(starts), 1000, endpoint=False).astype(np.int64)] = True
    chats = texts.pack(texts.encode(texts.chats(100), texts.qwen(), "### {role}:\n", "\n###END"), BATCH).ids
    return {
        USUAL: _Case(rules(), rows(BATCH).ids),
        "`<|im_start|>` alone": _Case(rules(), np.full(BATCH, start)),
        "`#` alone, where text markers begin with `###`": _Case(compile_rules(header, vocabulary()), np.full(BATCH, hash_sign)),
        "turns of 5 tokens": _Case(rules(), dense),
        "1,000 documents in one row": _Case(rules(), rows(BATCH).ids.reshape(1, -1), starts),
        "500 text markers": _Case(with_text_markers(500).rules, chats),
    }


def kinds() -> str:
    """Three markers or sixty, special tokens or text."""
    calls: dict[str, Callable[[], Any]] = {}
    for kind, start, end in (
        ("special tokens", "<|im_start|>{role}\n", "<|im_end|>"),
        ("headers of text, an EOS", "### {role}:\n", "<|im_end|>"),
        ("text alone, ends that begin with a newline", "### {role}:\n", "\n###END"),
    ):
        chats = texts.encode(texts.chats(100), texts.qwen(), start, f"{end}\n")
        values = flat(texts.pack(chats, BATCH).ids)
        for count in (3, 60):
            roles = ["system", "user", "assistant", *(f"role{number}" for number in range(count - 3))]
            markers = MarkerSet.from_role_boundaries([{"role": role, "start": start.format(role=role), "end": end} for role in roles])
            kernel = NumbaKernel(compile_rules(markers, vocabulary()), POLICY)
            calls[f"{count}: {kind}"] = lambda kernel=kernel, values=values: kernel.mask(*values, with_roles=False)
    times = medians(calls, 8)
    first = next(iter(times.values()))
    return table(
        ["markers", "ns a token", "times the first"],
        [[name, taken / np.prod(BATCH) * 1e9, taken / first] for name, taken in times.items()],
    )

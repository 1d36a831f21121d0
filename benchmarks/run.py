"""Print the tables of docs/performance.md: every figure of a table is measured in this one run.

Run from the repository with the `test` extra installed: python benchmarks/run.py
Gemma's row is printed if ROLEMASK_TOKENIZERS names a folder with its tokenizer, `gemma3`.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from real import byte_level, from_folder, template_text

import rolemask
from rolemask import MarkerSet
from rolemask.markers.spec import Marker
from rolemask.masking.automaton import build_automaton
from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.masking.kernels.torch_kernel import TorchKernel
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.vocabulary import Vocabulary, read_vocabulary

BATCH, LENGTH = 8, 8192
POLICY = make_policy(["assistant"])


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, the first one left out."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def chat_rows(encode: Callable[[str], Sequence[int]], headers: tuple[str, str], end: str, shape: tuple[int, int]) -> np.ndarray:
    """Rows of chats with turns of about 200 tokens."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(shape[0]):
        row: list[int] = []
        while len(row) < shape[1]:
            for header in headers:
                row += [*encode(header), *random.integers(1000, 100_000, 190).tolist(), *encode(end)]
        rows.append(row[: shape[1]])
    return np.array(rows, dtype=np.int64)


def list_scanner(row: list[int], boundaries: list[tuple[list[int], list[int], bool]]) -> list[int]:
    """Label one row the way list scanners in training frameworks do: at every position, compare a slice with every marker."""
    labels, at = [-100] * len(row), 0
    while at < len(row):
        for start, end, trained in boundaries:
            if row[at : at + len(start)] == start:
                stop = at + len(start)
                while stop < len(row) and row[stop : stop + len(end)] != end:
                    stop += 1
                if trained:
                    labels[at + len(start) : stop + len(end)] = row[at + len(start) : stop + len(end)]
                at = stop + len(end)
                break
        else:
            at += 1
    return labels


def paths(rules: Rules, ids: np.ndarray, vocabulary: Vocabulary) -> None:
    """Time each way to label one batch against one torch.where."""
    tensor = torch.from_numpy(ids)
    wanted = torch.rand(tensor.shape) > 0.5
    base = seconds(lambda: torch.where(wanted, tensor, -100), 200)
    assert vocabulary.encode is not None
    encode = vocabulary.encode
    boundaries = [
        (list(encode(f"<|im_start|>{role}\n")), list(encode("<|im_end|>")), role == "assistant") for role in ("system", "user", "assistant")
    ]
    rows = ids.tolist()
    compiled, events, device = NumbaKernel(rules, POLICY), NumpyKernel(rules, POLICY), TorchKernel(rules, POLICY)
    expected = [mask(row, rules, POLICY).labels for row in rows]
    assert compiled.mask(ids)[0].tolist() == expected
    assert [list_scanner(row, boundaries) for row in rows] == expected
    masker = rolemask.load("qwen3").compile(vocabulary)
    timed = [
        (f"`torch.where(mask, input_ids, -100)`, {torch.get_num_threads()} threads", base),
        ("compiled (numba), one thread: labels", seconds(lambda: compiled.mask(ids, with_roles=False), 200)),
        ("compiled (numba), one thread: labels and roles", seconds(lambda: compiled.mask(ids), 200)),
        ("`masker(tensor)`, checks and all", seconds(lambda: masker(tensor), 200)),
        ("NumPy and Python over the events (no numba)", seconds(lambda: events.mask(ids), 10)),
        ("operations for a device, on this CPU", seconds(lambda: device.mask(tensor), 2)),
        ("the reference, plain Python", seconds(lambda: [mask(row, rules, POLICY) for row in rows], 2)),
        ("list scanner: a slice compared at every position", seconds(lambda: [list_scanner(row, boundaries) for row in rows], 2)),
    ]
    print(f"\n### One batch of {BATCH} x {LENGTH} tokens (int64), Qwen3 chats of ~200-token turns\n")
    print("| way | ms | times torch.where |\n| --- | ---: | ---: |")
    for name, taken in timed:
        print(f"| {name} | {taken * 1e3:.2f} | {taken / base:.1f} |")


def growth(vocabulary: Vocabulary) -> None:
    """Time per token over lengths, and over numbers and kinds of markers."""
    rules = compile_rules(rolemask.load("qwen3"), vocabulary)
    assert vocabulary.encode is not None
    headers = ("<|im_start|>user\n", "<|im_start|>assistant\n")
    print("\n### Linear in tokens\n\n| shape | ns a token |\n| --- | ---: |")
    compiled = NumbaKernel(rules, POLICY)
    for shape in ((1, 1024), (8, 1024), (8, 8192), (1, 131072), (8, 65536)):
        ids = chat_rows(vocabulary.encode, headers, "<|im_end|>\n", shape)
        print(f"| {shape} | {seconds(lambda: compiled.mask(ids, with_roles=False), 50) / ids.size * 1e9:.2f} |")  # noqa: B023

    calls: dict[str, Callable[[], Any]] = {}
    kinds = (
        ("special tokens", "<|im_start|>{}\n", "<|im_end|>"),
        ("headers of text, an EOS", "### {}:\n", "<|im_end|>"),
        ("text alone, ends that begin with a newline", "### {}:\n", "\n###END"),
    )
    for kind, start, end in kinds:
        ids = chat_rows(vocabulary.encode, (start.format("user"), start.format("assistant")), f"{end}\n", (BATCH, LENGTH))
        for count in (3, 60):
            roles = ["system", "user", "assistant", *(f"role{number}" for number in range(count - 3))]
            markers = MarkerSet("many", "Many", tuple(Marker(role, (start.format(role),), (end,)) for role in roles))
            compiled = NumbaKernel(compile_rules(markers, vocabulary), POLICY)
            calls[f"{count}: {kind}"] = partial(compiled.mask, ids, with_roles=False)
    rounds = [[seconds(call, 5) for call in calls.values()] for _ in range(40)]  # in turns: what slows the machine down slows all of them
    nanoseconds = [statistics.median(taken) / (BATCH * LENGTH) * 1e9 for taken in zip(*rounds, strict=True)]
    print("\n### Three markers or sixty, special tokens or text\n\n| markers | ns a token | times the first |\n| --- | ---: | ---: |")
    for name, taken in zip(calls, nanoseconds, strict=True):
        print(f"| {name} | {taken:.2f} | {taken / nanoseconds[0]:.2f} |")


def first_calls(tokenizers: dict[str, Any]) -> None:
    """Time what is paid once."""
    print("\n### Paid once\n\n| what | s |\n| --- | ---: |")
    for name, tokenizer in tokenizers.items():
        start = time.perf_counter()
        vocabulary = read_vocabulary(tokenizer)
        read = time.perf_counter()
        rules = compile_rules(rolemask.load(name), vocabulary)
        compiled = time.perf_counter()
        build_automaton(rules)
        built = time.perf_counter()
        print(f"| `{name}`, {len(vocabulary.pieces) + len(vocabulary.special_tokens):,} ids: read the vocabulary | {read - start:.2f} |")
        print(f"| compile the markers | {compiled - read:.2f} |")
        print(f"| build the automaton | {built - compiled:.2f} |")
        print(f"| all of it | {built - start:.2f} |")


def beside_tokenizing(tokenizer: Any) -> None:
    """Time masking beside what TRL does: tokenizing with a template that marks the assistant's tokens."""
    chat = [
        {"role": role, "content": "The quick brown fox jumps over the lazy dog. " * 15} for _ in range(10) for role in ("user", "assistant")
    ]
    template, training = template_text("trl/qwen3.jinja"), template_text("trl/qwen3_training.jinja")
    options = {"tokenize": True, "return_dict": True}
    masker = rolemask.load("qwen3").compile(tokenizer)
    ids = torch.tensor(tokenizer.apply_chat_template(chat, chat_template=template, **options)["input_ids"])
    plain = seconds(lambda: tokenizer.apply_chat_template(chat, chat_template=template, **options), 20)
    masks = seconds(lambda: tokenizer.apply_chat_template(chat, chat_template=training, return_assistant_tokens_mask=True, **options), 20)
    print(f"\n### Beside tokenizing: one chat of {len(ids)} tokens\n\n| what | ms |\n| --- | ---: |")
    print(f"| tokenize | {plain * 1e3:.2f} |")
    print(f"| tokenize with TRL's training template and `return_assistant_tokens_mask` | {masks * 1e3:.2f} |")
    print(f"| rolemask on the ids | {seconds(lambda: masker(ids), 200) * 1e3:.3f} |")


def main() -> None:
    """Print all tables."""
    qwen = byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    llama4 = byte_level("llama4", bos_token="<|begin_of_text|>", eos_token="<|eot|>")
    vocabulary = read_vocabulary(qwen)
    rules = compile_rules(rolemask.load("qwen3"), vocabulary)
    assert vocabulary.encode is not None
    ids = chat_rows(vocabulary.encode, ("<|im_start|>user\n", "<|im_start|>assistant\n"), "<|im_end|>\n", (BATCH, LENGTH))
    paths(rules, ids, vocabulary)
    growth(vocabulary)
    tokenizers = {"qwen3": qwen, "llama4": llama4}
    if os.environ.get("ROLEMASK_TOKENIZERS"):
        tokenizers["gemma3"] = from_folder("gemma3")
    first_calls(tokenizers)
    if "gemma3" not in tokenizers:
        print("\n`gemma3` was not timed: ROLEMASK_TOKENIZERS is not set.")
    beside_tokenizing(qwen)


if __name__ == "__main__":
    main()

"""Tables of what is paid once: for a tokenizer and a marker set, in a process, and for numba."""

import copy
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import texts
from common import BATCH, masker, rows, text_markers
from datasets.fingerprint import Hasher
from real import byte_level, from_folder
from tables import BATCH_ROW, table
from timing import median, seconds

import rolemask
from rolemask.markers.spec import MarkerSet
from rolemask.masking.automaton import build_automaton
from rolemask.matching.compiler import compile_rules
from rolemask.matching.vocabulary import read_vocabulary

RUNS = 3
"""Processes of each kind; of their times the median counts."""


def compiling() -> str:
    """What a marker set costs on a tokenizer."""
    cells = []
    for name, tokenizer, markers in _sets():
        fresh = lambda tokenizer=tokenizer: copy.copy(tokenizer)  # noqa: E731 - what is kept for a tokenizer is not kept for its copy
        known = read_vocabulary(fresh())
        compiled = compile_rules(markers, known)
        label = markers.compile(fresh(), on_empty="ignore")
        label([[0]])  # builds what the first batch needs
        pickled = pickle.dumps(label)
        cells.append(
            [
                name,
                seconds(lambda: read_vocabulary(fresh())),  # noqa: B023 - called here
                seconds(lambda: compile_rules(markers, known)),  # noqa: B023
                seconds(lambda: build_automaton(compiled)),  # noqa: B023
                seconds(lambda: markers.compile(fresh())),  # noqa: B023
                len(pickled) / 1e6,
                median(lambda: Hasher.hash(label), RUNS) * 1e3,  # noqa: B023
                median(lambda: pickle.loads(pickled), RUNS) * 1e3,  # noqa: B023
            ]
        )
    head = ["markers and tokenizer", "read the vocabulary: s", "compile the markers: s", "build the automaton: s"]
    return table([*head, "`markers.compile(tokenizer)`, all of it: s", "pickle: MB", "hash: ms", "unpickle: ms"], cells)


def _sets() -> Iterator[tuple[str, Any, MarkerSet]]:
    yield "`qwen3`", texts.qwen(), rolemask.load("qwen3")
    if os.environ.get("ROLEMASK_TOKENIZERS"):
        yield "`gemma3`", from_folder("gemma3"), rolemask.load("gemma3")
    yield "`llama4`", byte_level("llama4", bos_token="<|begin_of_text|>", eos_token="<|eot|>"), rolemask.load("llama4")
    seed = byte_level("qwen3", ("<seed:bos>", "<seed:eos>"), eos_token="<seed:eos>", pad_token="<|endoftext|>")
    yield "`seed_oss` on Qwen 3's tokenizer, where most of its markers are text", seed, rolemask.load("seed_oss")
    plain = copy.copy(texts.qwen())
    plain.chat_template = None  # it has other markers
    for count in (120, 500):
        yield f"{count} text markers on Qwen 3's tokenizer", plain, text_markers(count)


def numba() -> str:
    """What numba costs and gives, beside the NumPy kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masker"
        file.write_bytes(pickle.dumps((masker(), rows(BATCH).ids, rows((1, 512)).ids)))
        ways = [_processes(file), _processes(file, "--without-numba")]
        compiles = _processes(file, runs=1, NUMBA_CACHE_DIR=str(Path(folder) / "empty"))["first"]
    cells: list[list[str | float]] = [
        ["installed, numba and llvmlite: MB", _size("numba") + _size("llvmlite"), 0.0],
        ["`import numba`: s", ways[0]["import"], 0.0],
    ]
    for name, key, factor in (
        ("the first batch of a process, after that: s", "first", 1),
        ("memory of the process, after that: MB", "memory", 1),
        (BATCH_ROW, "batch", 1e3),
        ("100,000 of these: s", "batch", 1e5),
        ("the same batch as lists: ms", "lists", 1e3),
        ("a row of 512: us", "row", 1e6),
    ):
        cells.append([name, *(way[key] * factor for way in ways)])
    cells.insert(3, ["the same where numba finds no compiled code: s", compiles, ways[1]["first"]])
    return table(["what", "with numba", "without"], cells)


def _size(package: str) -> float:
    """Return the size of an installed package in megabytes."""
    files = [Path(str(file.locate())) for file in distribution(package).files or ()]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _processes(file: Path, *options: str, runs: int = RUNS, **environment: str) -> dict[str, float]:
    """Return the medians of what `first_batch.py` prints."""
    command = [sys.executable, str(Path(__file__).with_name("first_batch.py")), str(file), *options]
    found = [json.loads(subprocess.check_output(command, env=os.environ | environment)) for _ in range(runs)]
    return {name: statistics.median(run[name] for run in found) for name in found[0]}

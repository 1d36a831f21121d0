"""Times calls: in turns, so that what slows the machine down slows all of them; with warm caches, or with evicted ones."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

SLOT = 0.01
"""Seconds that a call gets in each round; a call that takes longer gets one."""

scale = 1.0
"""What part of the time that a table is given is used: `run.py --quick` sets it."""


def seconds(function: Callable[[], Any]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(calls: Mapping[str, Callable[[], Any]], budget: float, *, evicted: bool = False) -> dict[str, float]:
    """Return the median time of each call in seconds, from rounds in which each has its turn, for `budget` seconds in all.

    `evicted`: nothing that a call reads is in a cache, as when a training step lies between two batches. Otherwise the same call went
    before it.
    """
    repeats = {}
    for name, call in calls.items():
        call()  # compiles, and fills what is kept
        repeats[name] = 1 if evicted else max(1, min(50, int(SLOT / seconds(call))))
    evict = _evictor() if evicted else None
    taken: dict[str, list[float]] = {name: [] for name in calls}
    stop, rounds = time.perf_counter() + budget * scale, 0
    while rounds < 3 or time.perf_counter() < stop:
        rounds += 1
        for name, call in calls.items():
            if evict is not None:
                evict()
            elif repeats[name] > 1:
                call()  # the other calls took the caches
            taken[name] += [seconds(call) for _ in range(repeats[name])]
    return {name: statistics.median(times) for name, times in taken.items()}


def median(function: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, the first one included."""
    return statistics.median(seconds(function) for _ in range(repeats))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def last_level_cache() -> int:
    """Return the size of the last-level cache in bytes; 64 MiB where Linux does not tell it."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes if size.endswith("K")), default=64 << 20)


def _evictor() -> Callable[[], None]:
    buffer = np.zeros(2 * last_level_cache() // 8, dtype=np.int64)

    def evict() -> None:
        np.add(buffer, 1, out=buffer)

    return evict

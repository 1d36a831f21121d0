"""A process that masks its first batches, for `once.py`: prints seconds and megabytes as JSON.

    python first_batch.py FILE [--without-numba]

FILE is a pickle of a masker, the ids of a batch, and those of one row.
"""

import json
import pickle
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    if "--without-numba" in sys.argv:
        sys.modules["numba"] = None  # type: ignore[assignment]
    import numpy  # noqa: F401 - whoever has ids has imported it

    import rolemask  # noqa: F401

    masker, batch, row = pickle.loads(Path(sys.argv[1]).read_bytes())
    start = time.perf_counter()
    if "--without-numba" not in sys.argv:
        import numba  # noqa: F401
    imported = time.perf_counter()
    masker(batch)
    masked = time.perf_counter()
    memory = _most_memory()
    again = {"batch": _median(masker, batch, 200), "lists": _median(masker, batch.tolist(), 50), "row": _median(masker, row, 2000)}
    print(json.dumps({"import": imported - start, "first": masked - imported, "memory": memory, **again}))


def _most_memory() -> float:
    """Return the most memory that the process has held, in megabytes. On Linux, `ru_maxrss` holds that of the parent, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _median(masker: Any, ids: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        masker(ids)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()

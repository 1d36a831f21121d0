"""A process that masks its first batches, for `once.py`: prints seconds and megabytes as JSON.

    python first_batch.py FILE [--without-numba]

FILE is a pickle of a masker and the ids of a batch.
"""

import json
import pickle
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    if "--without-numba" in sys.argv:
        sys.modules["numba"] = None  # type: ignore[assignment]
    import numpy  # noqa: F401 - whoever has ids has imported it

    import rolemask  # noqa: F401

    times = [time.perf_counter()]
    masker, ids = pickle.loads(Path(sys.argv[1]).read_bytes())
    times.append(time.perf_counter())
    if "--without-numba" not in sys.argv:
        import numba  # noqa: F401
    times.append(time.perf_counter())
    masker(ids)
    times.append(time.perf_counter())
    spent = [after - before for before, after in zip(times, times[1:], strict=False)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(dict(zip(("unpickle", "import", "first", "memory"), [*spent, memory], strict=True))))


if __name__ == "__main__":
    main()

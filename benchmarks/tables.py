"""Tables in Markdown, and their places in the pages: what stands between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""

import math
import re
from collections.abc import Iterable, Sequence

MASKER, WHERE = "`masker(tensor)`", "`torch.where(trained, input_ids, -100)`"
"""Rows of the table `batch`. The README's sentence is about the first."""
BATCH_ROW = "a batch of 8 x 8192: ms"
"""The row of the table `numba` that the README's sentence is about."""


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Return a table: the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[cell if isinstance(cell, str) else figure(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, name: str, content: str) -> str:
    """Return a page with other content at a place.

    Raises:
        ValueError: The page has no such place.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"no place for {name!r}: the page needs {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def content(page: str, name: str) -> str:
    """Return what stands at a place of a page."""
    found = re.search(rf"<!-- begin: {name} -->\n(.*?)\n<!-- end: {name} -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no place {name!r}")
    return found[1]


def speed_sentence(page: str) -> str:
    """Return the README's sentence about speed, from the tables of docs/performance.md."""
    milliseconds, times = _row(page, "batch", MASKER)[:2]
    without = _row(page, "numba", BATCH_ROW)[1]
    return (
        f"A batch of 8 x 8192 tokens takes {milliseconds} ms with numba (`pip install '.[fast]'`) and {without} ms without it, "
        "on one thread of the machine of [docs/performance.md](docs/performance.md), with warm caches. "
        f"With numba that is {times} times one `torch.where` over it."
    )


def _row(page: str, name: str, first: str) -> list[str]:
    """Return the other cells of a row of a table, given its first."""
    rows = [line.strip("| ").split(" | ") for line in content(page, name).splitlines()]
    return next(cells[1:] for cells in rows if cells[0] == first)

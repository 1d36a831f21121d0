"""Write the pages that are made from the registry: docs/models.md, names.md, differences.md, undecidable.md, first-load.md.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 if one is stale

docs/differences.md compares with TRL and with Prime Intellect's renderers. The extra `test` installs both; renderers needs Python 3.11.
docs/first-load.md needs the templates that ROLEMASK_UNSEEN_TEMPLATES names; `--check` leaves it to tests/chat_templates/test_first_load.py,
which has its results at hand.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# The tests make the same comparisons as the page of differences, and damage the same chats as that of what is undecidable.
sys.path.insert(0, str(FOLDER.parent / "tests" / "helpers"))

from pages import COMMAND, differences, first_load, models, names, undecidable  # noqa: E402

PAGES = {"models.md": models.page, "names.md": names.page, "differences.md": differences.page, "undecidable.md": undecidable.page}


def write() -> int:
    """Write the pages that have changed."""
    pages = dict(PAGES)
    if reason := first_load.why_not_written():
        print(reason)
    else:
        pages["first-load.md"] = first_load.page
    for name, page in pages.items():
        if _read(name) != (text := page()):
            (FOLDER / name).write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    return 0


def check() -> int:
    """Return 1 if a page is stale. Skip the page of differences if it is about other versions than those installed."""
    pages = dict(PAGES)
    if reason := differences.why_not_checked(_read("differences.md")):
        print(reason)
        del pages["differences.md"]
    stale = [f"docs/{name}" for name, page in pages.items() if _read(name) != page()]
    if stale:
        print(f"stale: {', '.join(stale)}. Run: {COMMAND}", file=sys.stderr)
    return 1 if stale else 0


def _read(name: str) -> str:
    path = FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(check() if "--check" in sys.argv[1:] else write())

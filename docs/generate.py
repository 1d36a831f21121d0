"""Write the pages that are made from the registry: docs/models.md, names.md, undecidable.md, differences.md, first-load.md.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 if one is stale

A page whose packages are not installed is left as it is. models.md needs none but those of rolemask: enough to add a marker set.
docs/differences.md compares with TRL and with Prime Intellect's renderers. The extra `test` installs both; renderers needs Python 3.11.
docs/first-load.md needs the templates that ROLEMASK_UNSEEN_TEMPLATES names; `--check` leaves it to tests/chat_templates/test_first_load.py,
which has its results at hand.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
# The tests make the same comparisons as the page of differences, and damage the same chats as that of what is undecidable.
sys.path.insert(0, str(FOLDER.parent / "tests" / "helpers"))

from pages import COMMAND  # noqa: E402

PAGES = ("models", "names", "undecidable", "differences", "first-load")


def write() -> int:
    """Write the pages that have changed."""
    for name in PAGES:
        try:
            page = _module(name)
        except ModuleNotFoundError as error:
            print(f"docs/{name}.md: not made, it needs the package {error.name}")
            continue
        reason = page.why_not_written() if name in ("differences", "first-load") else ""
        if reason:
            print(reason)
        elif _read(name) != (text := page.page()):
            _path(name).write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}.md")
    return 0


def check() -> int:
    """Return 1 if a page is stale. Skip the page of differences if it is about other versions than those installed."""
    pages = {name: _module(name) for name in PAGES if name != "first-load"}
    if reason := pages["differences"].why_not_checked(_read("differences")):
        print(reason)
        del pages["differences"]
    stale = [f"docs/{name}.md" for name, page in pages.items() if _read(name) != page.page()]
    if stale:
        print(f"stale: {', '.join(stale)}. Run: {COMMAND}", file=sys.stderr)
    return 1 if stale else 0


def _module(name: str) -> Any:
    return import_module(f"pages.{name.replace('-', '_')}")


def _path(name: str) -> Path:
    return FOLDER / f"{name}.md"


def _read(name: str) -> str:
    return _path(name).read_text(encoding="utf-8") if _path(name).exists() else ""


if __name__ == "__main__":
    raise SystemExit(check() if "--check" in sys.argv[1:] else write())

"""docs/names.md: what other projects call the formats, and the marker sets that `load` finds by these names."""

from pathlib import Path
from typing import Any

import yaml

from . import COMMAND
from .markdown import cell

SOURCE = Path(__file__).parent / "names.yaml"


def projects() -> list[dict[str, Any]]:
    """Return the entries of names.yaml, one per project."""
    found: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """Return the page."""
    lines = [
        "# Names in other projects",
        "",
        f"Written by `{COMMAND}` from [pages/names.yaml](pages/names.yaml): change that.",
        "",
        "`rolemask.load` knows the names that other projects have for a format. Case, `-`, `_`, `.` and blanks don't count.",
        "A name is listed only if the format is the same: the same headers, and the same end of an answer.",
        "",
        "*Several*: different formats are called so. `load` raises an error that lists them; load one by the name given here.",
        "*By its own name*: here, the project's name means another format, or nothing; load the set by the name given here.",
    ]
    for project in projects():
        lines += ["", *_section(project)]
    return "\n".join(lines) + "\n"


def _section(project: dict[str, Any]) -> list[str]:
    repository, revision = project["repository"], project["revision"]
    link = f"https://github.com/{repository}/blob/{revision}/{project['path']}"
    names, shared, other = (project.get(key, {}) for key in ("names", "shared", "other"))
    rows = {name: f"`{found}`" for name, found in names.items()}
    for name, found in shared.items():
        sets = [found] if isinstance(found, str) else found
        rows[name] = f"{' or '.join(f'`{one}`' for one in sets)} (several)"
    for name, entry in other.items():
        rows[name] = f"`{entry['set']}` (by its own name): {entry['why']}" if entry["set"] else f"none: {entry['why']}"
    without = project.get("without", {})
    counts = (
        f"{len(names)} names load a set, {len(shared)} mean several formats, {len(other)} mean another format here, "
        f"{sum(map(len, without.values()))} have no set."
    )
    return [
        f"## {project['project']}",
        "",
        f"`{project['setting']}`, read in [{repository} {revision[:8]}]({link}): {counts}",
        "",
        "| there | here |",
        "| --- | --- |",
        *(f"| `{name}` | {cell(rows[name])} |" for name in sorted(rows, key=str.lower)),
        *(["", "Without a set:", ""] if without else []),
        *(f"- {reason}: {_listed(without_set)}" for reason, without_set in without.items()),
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names, key=str.lower))

"""docs/first-load.md: what `detect` and `derive` make of templates that no set was written for."""

from collections import Counter

from first_load import LOST, REASONS, REFUSED, RIGHT, TOO_MUCH, outcomes, unseen_templates

from . import COMMAND
from .markdown import cell


def why_not_written() -> str:
    """Return why the page cannot be made here; empty if it can."""
    return "" if next(unseen_templates(), None) else "docs/first-load.md: not made, ROLEMASK_UNSEEN_TEMPLATES is not set"


def page() -> str:
    """Return the page."""
    found = outcomes()
    counts = Counter(outcome.result for outcome in found)
    derived = sum(outcome.how == "derived" for outcome in found)
    lines = [
        "# First load",
        "",
        "What happens with a chat template that nobody here has looked at? "
        f"{len(found)} templates from public repositories, most of them rewrites:",
        "`rolemask.detect(tokenizer)` looks for a set, and where none fits, `rolemask.derive(tokenizer)` derives one. "
        "The labels are held against the ground truth",
        "in every scenario of `rolemask verify` that the template can write. "
        "`tests/chat_templates/test_first_load.py` holds the ground truth against a second one, which knows nothing of it.",
        f"Written by `{COMMAND}`.",
        "",
        "| result | templates |",
        "| --- | --- |",
        *(f"| {result} | {counts[result]} |" for result in (RIGHT, LOST, TOO_MUCH, REFUSED)),
        "",
        f"{derived} of the right ones were derived. Tokens are only lost where the set says so (`masks_more`).",
        "",
        "## Refused",
        "",
        "Nothing fits, and what would be derived is not right. These are all the reasons there are, and what to do:",
        "",
        "| reason | templates | what to do |",
        "| --- | --- | --- |",
    ]
    refused = Counter(outcome.reason for outcome in found if outcome.result == REFUSED)
    for reason, (words, advice) in REASONS.items():
        lines.append(f"| {words} | {refused[reason]} | {advice} |")
    lines += ["", "## All", "", "| template | set | result | detail |", "| --- | --- | --- | --- |"]
    for outcome in found:
        detail = outcome.detail if len(outcome.detail) < _LONGEST else f"{outcome.detail[:_LONGEST]}…"
        lines.append(f"| {cell(outcome.name)} | {outcome.how} | {outcome.result} | {cell(detail)} |")
    return "\n".join(lines) + "\n"


_LONGEST = 200  # characters

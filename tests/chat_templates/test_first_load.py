"""Templates that no set was written for: right on first load, or refused for one of the listed reasons. And the two truths agree."""

import re
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from first_load import LOST, REASONS, REFUSED, RIGHT, TOO_MUCH, Outcome, Unseen, disagreements, outcomes, templates_in, unseen_templates
from real import given_folders

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from pages import first_load as page

UNSEEN = list(unseen_templates())
GIVEN = [template for folder in given_folders("ROLEMASK_TEMPLATES") for template in templates_in(folder)]
TRL = [
    Unseen(path.name, path.read_text(), "<s>", "</s>", original=True)
    for path in sorted((files("trl") / "chat_templates").iterdir(), key=lambda path: path.name)
    if path.name.endswith(".jinja")
]
needs_unseen = pytest.mark.skipif(
    not UNSEEN, reason="ROLEMASK_UNSEEN_TEMPLATES is not set: what detect makes of new templates is not tested"
)


@pytest.fixture(scope="session")
def results() -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in outcomes()}


@needs_unseen
@pytest.mark.parametrize("name", [template.name for template in UNSEEN])
def test_a_new_template_is_right_or_refused_for_a_listed_reason(name: str, results: dict[str, Outcome]) -> None:
    outcome = results[name]
    assert outcome.result != TOO_MUCH, outcome.detail
    if outcome.result == REFUSED:
        assert outcome.reason in REASONS, f"not a listed reason: {outcome.detail}"


@needs_unseen
def test_most_new_templates_are_right(results: dict[str, Outcome]) -> None:
    counts = Counter(outcome.result for outcome in results.values())
    print(", ".join(f"{count} {result}" for result, count in counts.most_common()))
    assert counts[RIGHT] >= 0.9 * len(UNSEEN)
    assert counts[LOST] <= 0.02 * len(UNSEEN)
    assert counts[TOO_MUCH] == 0


@needs_unseen
def test_the_page_says_so() -> None:
    assert (Path(page.__file__).parents[1] / "first-load.md").read_text(encoding="utf-8") == page.page()


def test_the_readme_says_what_the_page_counts() -> None:
    root = Path(page.__file__).parents[2]
    right = re.search(r"\| right \| (\d+) \|", (root / "docs/first-load.md").read_text(encoding="utf-8"))
    assert right
    assert f"got {right[1]} right on first load, and none with a token too many" in (root / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("template", [*TRL, *GIVEN, *UNSEEN], ids=lambda template: template.name)
def test_the_two_truths_agree(template: Unseen) -> None:
    assert disagreements(template)[0] == []


def test_the_second_truth_tells_something() -> None:
    assert sum(disagreements(template)[1] for template in TRL) > 10 * len(TRL)


def test_every_reason_is_a_pattern() -> None:
    for pattern in REASONS:
        re.compile(pattern)

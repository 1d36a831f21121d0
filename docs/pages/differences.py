"""docs/differences.md: where the masks of TRL and of Prime Intellect's renderers differ from rolemask's labels."""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from peer_masks import ByteTokenizer, Comparison, compare, compare_renderer, set_for, training_templates
from peers import NO_RENDERER_SETS, REASONS, RENDERER_SETS

from rolemask.markers.registry import load

from . import COMMAND
from .markdown import cell, code

TRL = f"TRL {version('trl')}"
try:
    RENDERERS = f"renderers {version('renderers')}"
except PackageNotFoundError:
    RENDERERS = ""


def why_not_written() -> str:
    """Return why the page cannot be made here; empty if it can."""
    return "" if RENDERERS else "docs/differences.md: not made, it needs the package renderers (Python 3.11)"


def why_not_checked(old: str) -> str:
    """Return why this page can't be made again here: it is about other versions than those installed. Empty if it can."""
    if RENDERERS and all(f"\n{peer} " in old for peer in (TRL, RENDERERS)):
        return ""
    return f"docs/differences.md is about other packages than those installed ({TRL}, {RENDERERS or 'no renderers'}): not checked"


def page() -> str:
    """Return the page."""
    with_trl = []
    for name, source in training_templates():
        markers = set_for(name)
        if markers is None:
            raise SystemExit(f"docs/differences.md: no marker set was verified on {name}.jinja: name one in TRL_SETS")
        with_trl.append(compare(name, source, markers))
    sets = {name: load(markers) for name, markers in RENDERER_SETS.items()}
    with_renderers = [compare_renderer(name, markers, ByteTokenizer(markers)) for name, markers in sets.items()]
    lines = [
        "# Where other projects' masks differ",
        "",
        f"Written by `{COMMAND}`. The reasons are in `tests/helpers/peers.py`; `tests/peers` fails if a difference has none.",
        "",
        "## TRL's training templates",
        "",
        f"{TRL} patches chat templates with `{{% generation %}}` blocks and trains what is inside them (`assistant_only_loss`).",
        "Compared with the labels of the marker set for the same template, on the scenarios of `rolemask verify` that it supports.",
        "",
        *_tables("TRL", "training template", with_trl),
        "",
        "## Prime Intellect's renderers",
        "",
        f"{RENDERERS} renders conversations in Python, without a chat template, and marks what the model generates",
        "(`build_training_sample`). Compared with the labels of the marker set, on its own ids for the same scenarios, with its default",
        "settings. Images and switched reasoning are left out.",
        "",
        *_tables("renderers", "renderer", with_renderers),
        "",
        "Not compared:",
        "",
        *(f"- `{name}`: {reason}." for name, reason in NO_RENDERER_SETS.items()),
        "",
        "## mistral-common",
        "",
        "No difference, in any version: exactly what Mistral's own encoding adds for an assistant message is trained",
        "(`tests/peers/test_mistral_common.py`).",
    ]
    return "\n".join(lines) + "\n"


def _tables(peer: str, what: str, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield f"| {what} | marker set | scenarios | equal |"
    yield "| --- | --- | ---: | ---: |"
    for one in comparisons:
        yield f"| {one.name} | {one.markers} | {one.compared} | {'all' if one.equal == one.compared else one.equal} |"
    yield ""
    yield f"| {what} | who trains it | what | after | why |"
    yield "| --- | --- | --- | --- | --- |"
    for one in comparisons:
        for difference in one.differences:
            who = peer if difference.theirs else "rolemask"
            reason = REASONS.get((who, difference.text))
            if reason is None:
                after = f"{difference.text!r} after {difference.context!r}"
                raise SystemExit(f"docs/differences.md: no reason for {one.name}: {who} trains {after}")
            yield f"| {one.name} | {who} | {code(difference.text)} | {code(difference.context)} | {cell(reason)} |"

"""docs/models.md: the table of all marker sets, and the families without one."""

from pathlib import Path
from typing import Any

import yaml

from rolemask.chat_templates.verify import SYNTHETIC
from rolemask.markers.folders import data_folder
from rolemask.markers.proofs import read_proofs
from rolemask.markers.registry import load_file
from rolemask.markers.spec import MarkerSet

from . import COMMAND
from .markdown import cell, code

WITHOUT = Path(__file__).parent / "without.yaml"


def without() -> dict[str, Any]:
    """Return without.yaml: the families without a set, and the sets that are not verified on the model's own template."""
    found: dict[str, Any] = yaml.safe_load(WITHOUT.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """Return the page."""
    sets = [load_file(path) for path in sorted(data_folder("registry").glob("*.yaml"))]
    lines = [
        "# The formats",
        "",
        f"{len(sets)} marker sets. Written by `{COMMAND}` from [registry/](../registry): change the files there.",
        "",
        "In names, case, `-`, `_`, `.` and blanks don't count. [names.md](names.md) lists what other projects call the formats.",
        "",
        "*Verified on*: the number of chat templates with a proof, and the real tokenizers among the proofs.",
        "*Masks more*: the roles in which a set masks, on purpose, what the model generates; its file says why.",
        "`rolemask verify NAME --tokenizer ORG/MODEL` verifies a set on your model.",
        "",
        "| name | family | roles | spans inside turns | media | an answer ends with | verified on |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for markers in sets:
        turns = dict.fromkeys(marker.role for marker in markers.markers if marker.within is None)
        spans = dict.fromkeys(f"{marker.role} in {marker.within}" for marker in markers.markers if marker.within is not None)
        ends = dict.fromkeys(str(end) for marker in markers.markers if marker.role == "assistant" for end in marker.end)
        cells = (
            f"[{markers.name}](../registry/{markers.name}.yaml)",
            cell(markers.title) + (f"<br>also: {', '.join(markers.aliases)}" if markers.aliases else ""),
            ", ".join(turns),
            ", ".join(spans),
            ", ".join(markers.media),
            " ".join(code(end) for end in ends) or "the end of the text",
            _verified_on(markers),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_without()]) + "\n"


def _without() -> list[str]:
    known = without()
    return [
        "## Families without a set",
        "",
        "Written from [pages/without.yaml](pages/without.yaml). Where only the template is missing, your tokenizer has it:",
        '`rolemask.detect(tokenizer)` finds the set that fits, and with `fallback="derive"` it derives one if none does.',
        "",
        *(f"- {', '.join(family['names'])}: {family['why']}." for family in known["families"]),
        "",
        "These have a set that is not verified on the model's own template:",
        "",
        *(f"- [{name}](../registry/{name}.yaml): {why}." for name, why in known["sets"].items()),
    ]


def _verified_on(markers: MarkerSet) -> str:
    proofs = read_proofs(Path(markers.origin))
    if not proofs:
        return "**not verified**"
    templates = {proof.sha256 for proof in proofs}
    tokenizers = sorted({proof.tokenizer for proof in proofs} - {SYNTHETIC})
    count = f"{len(templates)} template{'' if len(templates) == 1 else 's'}"
    masked = [f"masks more: {', '.join(markers.masks_more)}"] if markers.masks_more else []
    return "; ".join([count, *([", ".join(tokenizers)] if tokenizers else []), *masked])

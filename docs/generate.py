"""Write the docs that repeat what the registry says: docs/models.md, docs/differences.md.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 where one is stale

The second page compares with TRL, whose package must be installed (the extra `test` brings it).
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from rolemask.compiler import Rules, compile_rules
from rolemask.conversations import CONVERSATIONS
from rolemask.embedded import DEFAULT_EOS, EmbeddedTokenizer
from rolemask.explain import visible
from rolemask.parse import data_folder
from rolemask.policy import make_policy
from rolemask.proof import tokens_of
from rolemask.registry import load_file
from rolemask.scan import mask
from rolemask.spec import IGNORE_INDEX, MarkerSet
from rolemask.template import ChatTemplate
from rolemask.truth import NotWrittenError, Oracle, Truth, lies_within
from rolemask.verification import SYNTHETIC

FOLDER = Path(__file__).parent
COMMAND = "python docs/generate.py"
TRL = f"TRL {version('trl')}"


@cache
def registry() -> list[MarkerSet]:
    """All sets of the built-in registry, in the order of their names."""
    return [load_file(path) for path in sorted(data_folder("registry").glob("*.yaml"))]


# --- models.md


def models() -> str:
    """The table of all marker sets."""
    lines = [
        "# The formats",
        "",
        f"{len(registry())} marker sets. This page is written by `{COMMAND}` from [registry/](../registry); change the files there.",
        "",
        "*Verified on*: how many chat templates the set came out right on, and with which real tokenizers.",
        "`rolemask verify NAME --tokenizer ORG/MODEL` makes the proof again on yours.",
        "",
        "| name | family | roles | spans inside turns | media | an answer ends with | verified on |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for markers in registry():
        turns = dict.fromkeys(marker.role for marker in markers.markers if marker.within is None)
        spans = dict.fromkeys(f"{marker.role} in {marker.within}" for marker in markers.markers if marker.within is not None)
        ends = dict.fromkeys(str(end) for marker in markers.markers if marker.role == "assistant" for end in marker.end)
        cells = (
            f"[{markers.name}](../registry/{markers.name}.yaml)",
            _cell(markers.title) + (f"<br>also: {', '.join(markers.aliases)}" if markers.aliases else ""),
            ", ".join(turns),
            ", ".join(spans),
            ", ".join(markers.media),
            " ".join(_code(end) for end in ends) or "the end of the text",
            _verified_on(markers),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verified_on(markers: MarkerSet) -> str:
    if not markers.verified:
        return "**not verified**"
    templates = {entry.sha256 for entry in markers.verified}
    tokenizers = sorted({entry.tokenizer for entry in markers.verified} - {SYNTHETIC})
    count = f"{len(templates)} template{'' if len(templates) == 1 else 's'}"
    return f"{count}; {', '.join(tokenizers)}" if tokenizers else count


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(visible(text))}`"


# --- differences.md

# The set of a training template on whose original none was verified. DiffusionGemma repeats the model's header behind a tool's result, but
# its generation prompt does not: what the model has to write there is left open.
SETS = {"diffusion_gemma": "gemma4"}

_PROMPT = "the generation prompt supplies it"
_BEHIND = "it stands behind the stop token: generation has ended"
# (who trains it, what) -> why the other does not.
REASONS = {
    ("TRL", "\n"): _BEHIND,
    ("TRL", "\n<|endoftext|>"): "it closes the whole text; generation has ended at `<|end|>`",
    ("TRL", "<|start|>assistant"): _PROMPT,
    ("TRL", "<｜Assistant｜>"): _PROMPT,
    ("TRL", "<｜tool▁outputs▁end｜>"): "it closes the tools' results; the model is given it",
    ("TRL", "<think>\n"): f"{_PROMPT}, with reasoning on",
    ("TRL", "<think></think>"): f"{_PROMPT}, with reasoning off",
    ("TRL", "<think>\n\n</think>\n\n"): f"{_PROMPT}, with reasoning off",
    ("TRL", "\n<think></think>"): f"{_PROMPT}, with reasoning off",
    ("rolemask", "<|tool_response>"): "generation stops at it, to wait for the result",
}


@dataclass(frozen=True)
class Difference:
    """A stretch that one side trains and the other does not, and where it was seen first."""

    theirs: bool
    text: str
    context: str


@dataclass(frozen=True)
class Comparison:
    """A training template of TRL's beside a marker set."""

    template: str
    markers: str
    compared: int
    equal: int
    differences: tuple[Difference, ...]


def training_templates() -> Iterator[tuple[str, str]]:
    """Yield (name without `_training`, text) of TRL's training templates."""
    for path in sorted((files("trl") / "chat_templates").iterdir(), key=lambda path: path.name):
        if path.name.endswith("_training.jinja"):
            yield path.name.removesuffix("_training.jinja"), path.read_text(encoding="utf-8")


def set_for(name: str) -> MarkerSet | None:
    """The set that was verified on the original of a training template."""
    original = files("trl") / "chat_templates" / f"{name}.jinja"
    digest = sha256(original.read_bytes()).hexdigest() if original.is_file() else ""
    for markers in registry():
        if markers.name == SETS.get(name) or digest in {entry.sha256 for entry in markers.verified}:
            return markers
    return None


def compare(name: str, source: str, markers: MarkerSet) -> Comparison:
    """Compare the labels of a set with what stands in the `generation` blocks of a template."""
    template = ChatTemplate(source, name, {"bos_token": "<s>", "eos_token": markers.eos_token or DEFAULT_EOS})
    oracle = Oracle(template, markers.special_tokens)
    rules = compile_rules(markers, EmbeddedTokenizer(markers).vocabulary)  # single bytes: exact to the character
    found = []
    for conversation in CONVERSATIONS:
        try:
            found.append(list(_differences(oracle.tell(conversation), rules)))
        except NotWrittenError:
            continue
    kinds = {(one.theirs, one.text): one for differences in reversed(found) for one in differences}
    differences = tuple(sorted(kinds.values(), key=lambda one: (one.theirs, one.text)))
    return Comparison(name, markers.name, len(found), sum(not one for one in found), differences)


def _differences(truth: Truth, rules: Rules) -> Iterator[Difference]:
    ids, places = tokens_of(truth.text, rules.vocabulary)
    ours = [label != IGNORE_INDEX for label in mask(ids, rules, make_policy(rules.roles)).labels]
    in_bytes = [(len(truth.text[:start].encode()), len(truth.text[:stop].encode())) for start, stop in truth.generated]
    theirs = [lies_within(start, stop, in_bytes) for start, stop in places]
    at = 0
    while at < len(ids):
        if ours[at] == theirs[at]:
            at += 1
            continue
        stop = at
        while stop < len(ids) and ours[stop] != theirs[stop] and theirs[stop] == theirs[at]:
            stop += 1
        before = rules.vocabulary.text(ids[max(at - 12, 0) : at])[-30:]
        yield Difference(theirs[at], rules.vocabulary.text(ids[at:stop]), before)
        at = stop


def differences() -> str:
    """The page about other projects' masks."""
    lines = [
        "# Where other projects' masks differ",
        "",
        f"Written by `{COMMAND}`; the reasons stand there. `tests/test_peers.py` fails where a difference has none.",
        "",
        "## TRL's training templates",
        "",
        f"{TRL} patches chat templates with `{{% generation %}}` blocks and trains what stands in them (`assistant_only_loss`).",
        "Here they are beside the labels of the marker set for the same template, on the conversations of `rolemask verify` that it takes.",
        "",
        "| training template | marker set | conversations | equal |",
        "| --- | --- | ---: | ---: |",
    ]
    comparisons = []
    for name, source in training_templates():
        markers = set_for(name)
        if markers is None:
            raise SystemExit(f"docs/generate.py: no marker set was verified on {name}.jinja; name one in SETS")
        comparisons.append(compare(name, source, markers))
    for one in comparisons:
        lines.append(f"| {one.template} | {one.markers} | {one.compared} | {'all' if one.equal == one.compared else one.equal} |")
    lines += ["", "| template | who trains it | what | behind | why |", "| --- | --- | --- | --- | --- |"]
    for one in comparisons:
        for difference in one.differences:
            who = "TRL" if difference.theirs else "rolemask"
            reason = REASONS.get((who, difference.text))
            if reason is None:
                raise SystemExit(
                    f"docs/generate.py: no reason for {one.template}: {who} trains {difference.text!r} behind {difference.context!r}"
                )
            lines.append(f"| {one.template} | {who} | {_code(difference.text)} | {_code(difference.context)} | {_cell(reason)} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"models.md": models, "differences.md": differences}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check tell whether they are fresh."""
    stale = []
    for name, make in PAGES.items():
        path = FOLDER / name
        if "--check" in arguments and name == "differences.md" and TRL not in path.read_text(encoding="utf-8"):
            print(f"docs/{name} is about another version than {TRL}: not checked")
            continue
        text = make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
                print(f"wrote docs/{name}")
    if stale and "--check" in arguments:
        print(f"stale: {', '.join(f'docs/{name}' for name in stale)}. Run: {COMMAND}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

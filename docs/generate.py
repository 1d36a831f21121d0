"""Write the docs that repeat what the registry says: docs/models.md, docs/differences.md.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 where one is stale

The second page compares with TRL and with Prime Intellect's renderers. The extra `test` brings both packages; renderers needs Python 3.11.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from rolemask.chat_templates.compare import tokens_of, tokens_within
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import IMAGE, SCENARIOS
from rolemask.chat_templates.template import ChatTemplate
from rolemask.chat_templates.verify import SYNTHETIC
from rolemask.markers.parse import data_folder
from rolemask.markers.registry import load_file
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.explain import visible
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules, compile_rules, rules_for
from rolemask.matching.toy_tokenizer import DEFAULT_EOS, ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens

FOLDER = Path(__file__).parent
COMMAND = "python docs/generate.py"
TRL = f"TRL {version('trl')}"
try:
    RENDERERS = f"renderers {version('renderers')}"
except PackageNotFoundError:
    RENDERERS = ""


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

# A renderer -> the set of its format.
RENDERER_SETS = {
    "deepseek-r1": "deepseek_r1",
    "deepseek-v3": "deepseek_v3",
    "deepseek-v4": "deepseek_v4",
    "gemma4": "gemma4",
    "glm-4.5": "glm4_moe",
    "glm-5": "glm4_7",
    "glm-5.1": "glm4_7",
    "glm-5.3": "glm5_2",
    "hy3": "hy3",
    "kimi-k2": "kimi_k2",
    "kimi-k2.5": "kimi_k2_5",
    "laguna-m.1": "laguna_xs",
    "laguna-s-2.1": "laguna_s",
    "laguna-xs-2.1": "laguna_s",
    "laguna-xs.2": "laguna_xs",
    "llama-3": "llama3",
    "minimax-m2": "minimax_m2",
    "nemotron-3": "nemotron_3",
    "nemotron-3-ultra": "nemotron_3",
    "nemotron-3.5": "nemotron_3",
    "prime-qwen3": "qwen3",
    "qwen3": "qwen3",
    "qwen3-vl": "qwen3",
    "qwen3.5": "qwen3_5",
    "qwen3.6": "qwen3_5",
    "qwen3.8": "qwen3_5",
}
# The renderers that are not compared.
NO_RENDERER_SETS = {
    "auto": "no format of its own",
    "custom": "no format of its own",
    "default": "it wraps any chat template, and does not tell which tokens the model writes",
    "gpt-oss": "it downloads its vocabulary when it is made, so it does not run offline",
    "inkling": "there is no marker set for it",
}

_PROMPT = "the generation prompt supplies it"
_ON, _OFF = f"{_PROMPT}, with reasoning on", f"{_PROMPT}, with reasoning off"
_BEHIND = "it stands behind the stop token: generation has ended"
_FILLED = "a filled block of reasoning is the model's; the renderer takes reasoning to be off unless told otherwise"
# (who trains it, what) -> why the other does not.
REASONS = {
    ("TRL", "\n"): _BEHIND,
    ("TRL", "\n<|endoftext|>"): "it closes the whole text; generation has ended at `<|end|>`",
    ("TRL", "<|start|>assistant"): _PROMPT,
    ("TRL", "<｜Assistant｜>"): _PROMPT,
    ("TRL", "<｜tool▁outputs▁end｜>"): "it closes the tools' results; the model is given it",
    ("TRL", "<think>\n"): _ON,
    ("TRL", "<think></think>"): _OFF,
    ("TRL", "<think>\n\n</think>\n\n"): _OFF,
    ("TRL", "\n<think></think>"): _OFF,
    ("rolemask", "<|tool_response>"): "generation stops at it, to wait for the result",
    ("renderers", "<think>"): _ON,
    ("renderers", "<think>\n"): _ON,
    ("renderers", "<|channel>thought\n"): f"{_PROMPT} behind a tool's result, with reasoning on",
    ("renderers", "</think>"): _OFF,
    ("renderers", "Reply2.<｜end▁of▁sentence｜>"): "of two answers in a row the second has no header, so that ids do not tell whose it is",
    ("renderers", "<think></think>"): _OFF,
    ("renderers", "<think>\n\n</think>\n\n"): _OFF,
    ("rolemask", "\n"): "the header ends before it: it is the first thing that the model writes",
    ("rolemask", "Thought1.</think:opensource>"): _FILLED,
    ("rolemask", "Thought2.</think:opensource>"): _FILLED,
}


@dataclass(frozen=True)
class Difference:
    """A stretch that one side trains and the other does not, and where it was seen first."""

    theirs: bool
    text: str
    context: str


@dataclass(frozen=True)
class Comparison:
    """Another project's mask (by the name of a training template, of a renderer) beside a marker set."""

    name: str
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
    finder = GroundTruthFinder(template, markers.special_tokens)
    rules = compile_rules(markers, ToyTokenizer(markers).vocabulary)  # single bytes: exact to the character
    found = []
    for scenario in SCENARIOS:
        try:
            truth = finder.find(scenario)
        except UnsupportedScenarioError:
            continue
        ids, places = tokens_of(truth.text, rules.vocabulary)
        found.append(list(_differences(ids, tokens_within(places, truth.generated, truth.text), rules)))
    return _comparison(name, markers, found)


def compare_renderer(name: str, markers: MarkerSet, tokenizer: Any) -> Comparison:
    """Compare the labels of a set with the loss mask of a renderer, on the ids that the renderer makes."""
    samples = list(rendered(name, tokenizer))
    rules = rules_for(markers, tokenizer)
    return _comparison(name, markers, [list(_differences(ids, theirs, rules)) for ids, theirs in samples])


def rendered(name: str, tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield (ids, loss mask) that a renderer makes of each conversation that it takes."""
    import renderers

    renderer = renderers.create_renderer(tokenizer, renderers.config_from_name(name))
    for scenario in SCENARIOS:
        if scenario.options or scenario == IMAGE:  # the one are settings of a renderer, the other wants a real image
            continue
        tools = [tool["function"] for tool in scenario.tools]
        try:
            sample = renderers.build_training_sample(renderer, list(scenario.messages), tools=tools or None)
        except ValueError:  # Llama 3 takes one call at a time
            continue
        yield sample.token_ids, sample.loss_mask


class ByteTokenizer:
    """Single bytes and special tokens, with as much of Transformers' interface as renderers wants: it tells places to the character."""

    name_or_path = "bytes"
    unk_token_id = None

    def __init__(self, markers: MarkerSet) -> None:
        special_tokens = dict.fromkeys([*markers.special_tokens, *([markers.eos_token] if markers.eos_token else [])])
        self.special_tokens = {text: 256 + index for index, text in enumerate(special_tokens)}
        self.eos_token_id = self.special_tokens.get(markers.eos_token or "")

    @property
    def vocabulary(self) -> Vocabulary:
        """What rolemask needs to know of it."""
        return Vocabulary("bytes", {byte: bytes([byte]) for byte in range(256)}, self.special_tokens, self.encode, self.eos_token_id)

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the id of a special token: of any that it is asked for."""
        return self.special_tokens.setdefault(token, 256 + len(self.special_tokens))

    def encode(self, text: str, **_: Any) -> list[int]:
        """Return the ids of a text."""
        if re.fullmatch(r"<｜[^｜]+｜>", text):  # DeepSeek's renderers ask for a special token in this way
            return [self.convert_tokens_to_ids(text)]
        parts = cut_at_special_tokens(text, self.special_tokens)
        return [id_ for part in parts for id_ in ([part] if isinstance(part, int) else part.encode())]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Return the text of ids."""
        return self.vocabulary.text(ids)

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Return the ids, and the characters [start, stop) that each of them stands for."""
        ids = self.encode(text)
        character = [index for index, char in enumerate(text) for _ in char.encode()]  # of each byte
        texts = self.vocabulary.special_token_texts
        stops = list(accumulate(len(texts[id_].encode()) if id_ in texts else 1 for id_ in ids))
        return {
            "input_ids": ids,
            "offset_mapping": [(character[start], character[stop - 1] + 1) for start, stop in zip([0, *stops], stops, strict=False)],
        }


def _differences(ids: Sequence[int], theirs: Sequence[bool], rules: Rules) -> Iterator[Difference]:
    ours = [label != IGNORE_INDEX for label in mask(ids, rules, make_policy(rules.roles)).labels]
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


def _comparison(name: str, markers: MarkerSet, found: Sequence[Sequence[Difference]]) -> Comparison:
    kinds = {(one.theirs, one.text): one for differences in reversed(found) for one in differences}
    differences = tuple(sorted(kinds.values(), key=lambda one: (one.theirs, one.text)))
    return Comparison(name, markers.name, len(found), sum(not one for one in found), differences)


def unexplained(peer: str, comparison: Comparison) -> list[Difference]:
    """Return the differences that have no reason."""
    return [one for one in comparison.differences if (peer if one.theirs else "rolemask", one.text) not in REASONS]


def differences() -> str:
    """The page about other projects' masks."""
    if not RENDERERS:
        raise SystemExit("docs/generate.py: docs/differences.md compares with renderers, which is not installed (pip install renderers)")
    with_trl = []
    for name, source in training_templates():
        markers = set_for(name)
        if markers is None:
            raise SystemExit(f"docs/generate.py: no marker set was verified on {name}.jinja; name one in SETS")
        with_trl.append(compare(name, source, markers))
    sets = {markers.name: markers for markers in registry()}
    with_renderers = [compare_renderer(name, sets[markers], ByteTokenizer(sets[markers])) for name, markers in RENDERER_SETS.items()]
    lines = [
        "# Where other projects' masks differ",
        "",
        f"Rendering by `{COMMAND}`; the reasons stand there. `tests/test_peers.py` fails where a difference has none.",
        "",
        "## TRL's training templates",
        "",
        f"{TRL} patches chat templates with `{{% generation %}}` blocks and trains what stands in them (`assistant_only_loss`).",
        "Here they are beside the labels of the marker set for the same template, on the conversations of `rolemask verify` that it takes.",
        "",
        *_tables("TRL", "training template", with_trl),
        "",
        "## Prime Intellect's renderers",
        "",
        f"{RENDERERS} writes conversations in Python, without a chat template, and marks what the model writes (`build_training_sample`).",
        "Here its mask is beside the labels of the marker set, on the ids that it makes itself of the same conversations, with its default",
        "settings; images and switched reasoning are left out.",
        "",
        *_tables("renderers", "renderer", with_renderers),
        "",
        "Not compared:",
        "",
        *(f"- `{name}`: {reason}." for name, reason in NO_RENDERER_SETS.items()),
        "",
        "## mistral-common",
        "",
        "None: what Mistral's own encoding adds for an assistant's message is trained, and nothing else, in all its versions",
        "(`tests/test_mistral_common.py`).",
    ]
    return "\n".join(lines) + "\n"


def _tables(peer: str, what: str, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield f"| {what} | marker set | conversations | equal |"
    yield "| --- | --- | ---: | ---: |"
    for one in comparisons:
        yield f"| {one.name} | {one.markers} | {one.compared} | {'all' if one.equal == one.compared else one.equal} |"
    yield ""
    yield f"| {what} | who trains it | what | behind | why |"
    yield "| --- | --- | --- | --- | --- |"
    for one in comparisons:
        for difference in unexplained(peer, one):
            who = peer if difference.theirs else "rolemask"
            raise SystemExit(f"docs/generate.py: no reason for {one.name}: {who} trains {difference.text!r} behind {difference.context!r}")
        for difference in one.differences:
            who = peer if difference.theirs else "rolemask"
            reason = REASONS[who, difference.text]
            yield f"| {one.name} | {who} | {_code(difference.text)} | {_code(difference.context)} | {_cell(reason)} |"


PAGES: dict[str, Callable[[], str]] = {"models.md": models, "differences.md": differences}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check tell whether they are fresh."""
    stale = []
    for name, make in PAGES.items():
        path = FOLDER / name
        if "--check" in arguments and name == "differences.md":
            old = path.read_text(encoding="utf-8")
            if not RENDERERS or any(f"\n{peer} " not in old for peer in (TRL, RENDERERS)):
                print(f"docs/{name} is about other packages than those installed ({TRL}, {RENDERERS or 'no renderers'}): not checked")
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

"""Other projects' loss masks beside the labels of a marker set, for tests/peers and docs/differences.md."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import accumulate
from typing import Any

from peers import REASONS, TRL_SETS

from rolemask.chat_templates.compare import tokens_of, tokens_within
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import IMAGE, SCENARIOS
from rolemask.chat_templates.template import ChatTemplate
from rolemask.markers.folders import data_folder
from rolemask.markers.proofs import proven_hashes
from rolemask.markers.registry import load_file
from rolemask.markers.spec import IGNORE_INDEX, MarkerSet
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules, compile_rules, rules_for
from rolemask.matching.toy_tokenizer import DEFAULT_EOS, ToyTokenizer
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens


@dataclass(frozen=True)
class Difference:
    """A text that one side trains and the other does not, and the text before its first occurrence. `theirs`: they train it."""

    theirs: bool
    text: str
    context: str


@dataclass(frozen=True)
class Comparison:
    """The mask of another project (a training template, a renderer) beside a marker set, over `compared` conversations."""

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
    """Return the set that was verified on the original of a training template."""
    original = files("trl") / "chat_templates" / f"{name}.jinja"
    digest = sha256(original.read_bytes()).hexdigest() if original.is_file() else ""
    for path in sorted(data_folder("registry").glob("*.yaml")):
        if path.stem == TRL_SETS.get(name) or digest in proven_hashes(path):
            return load_file(path)
    return None


def compare(name: str, source: str, markers: MarkerSet) -> Comparison:
    """Compare the labels of a set with the `generation` blocks of a template."""
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
    """Compare the labels of a set with the loss mask of a renderer, on the renderer's own ids."""
    samples = list(rendered(name, tokenizer))
    rules = rules_for(markers, tokenizer)
    return _comparison(name, markers, [list(_differences(ids, theirs, rules)) for ids, theirs in samples])


def rendered(name: str, tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield (ids, loss mask) of a renderer for each scenario that it supports."""
    import renderers

    renderer = renderers.create_renderer(tokenizer, renderers.config_from_name(name))
    for scenario in SCENARIOS:
        if scenario.options or scenario == IMAGE:  # options are settings of the renderer; an image must be a real one
            continue
        tools = [tool["function"] for tool in scenario.tools]
        try:
            sample = renderers.build_training_sample(renderer, list(scenario.messages), tools=tools or None)
        except ValueError:  # Llama 3 renders one call at a time
            continue
        yield sample.token_ids, sample.loss_mask


class ByteTokenizer:
    """Single bytes and special tokens, with the part of Transformers' interface that renderers uses: places are exact to the character."""

    name_or_path = "bytes"
    unk_token_id = None

    def __init__(self, markers: MarkerSet) -> None:
        special_tokens = dict.fromkeys([*markers.special_tokens, *([markers.eos_token] if markers.eos_token else [])])
        self.special_tokens = {text: 256 + index for index, text in enumerate(special_tokens)}
        self.eos_token_id = self.special_tokens.get(markers.eos_token or "")

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, for rolemask."""
        return Vocabulary("bytes", {byte: bytes([byte]) for byte in range(256)}, self.special_tokens, self.encode, self.eos_token_id)

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the id of a special token; an unknown one becomes one."""
        return self.special_tokens.setdefault(token, 256 + len(self.special_tokens))

    def encode(self, text: str, **_: Any) -> list[int]:
        """Return the ids of a text."""
        if re.fullmatch(r"<｜[^｜]+｜>", text):  # DeepSeek's renderers look up a special token this way
            return [self.convert_tokens_to_ids(text)]
        parts = cut_at_special_tokens(text, self.special_tokens)
        return [id_ for part in parts for id_ in ([part] if isinstance(part, int) else part.encode())]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Return the text of ids."""
        return self.vocabulary.text(ids)

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Return the ids, and the characters [start, stop) of each."""
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

"""`rolemask verify`: a marker set against a model's own chat template and tokenizer, over conversations of many shapes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from rolemask.chat_templates.compare import ScenarioResult, prove
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError, looks_special
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.chat_templates.template import ChatTemplate, plain_name, read_templates, templates_of, variables_of
from rolemask.errors import ChatError, FileReadError
from rolemask.markers.registry import load
from rolemask.markers.source import read_source, read_text
from rolemask.markers.spec import MarkerSet, Verified
from rolemask.matching.compiler import compile_rules, rules_for
from rolemask.matching.toy_tokenizer import DEFAULT_EOS, ToyTokenizer

SYNTHETIC = "synthetic"
"""The name of the tokenizer that is built for the proof, where the model's own is not at hand."""

_WIDTH = 140  # of a line in the file
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Verification:
    """What came of one marker set on one template and tokenizer."""

    markers: str
    template: ChatTemplate
    tokenizer: str
    shapes: tuple[ScenarioResult, ...]

    @property
    def ok(self) -> bool:
        """Whether the set was proven: no shape differs, and there was one to prove it on."""
        statuses = {shape.status for shape in self.shapes}
        return "ok" in statuses and "differs" not in statuses

    @property
    def passed(self) -> tuple[str, ...]:
        """The names of the shapes that agree."""
        return tuple(shape.shape for shape in self.shapes if shape.status == "ok")


def verify(markers: MarkerSet | str | Path, tokenizer: Any = None, template: ChatTemplate | str | Path | None = None) -> list[Verification]:
    """Hold a marker set to a chat template: what is trained must be what the model has to generate, token by token.

    Args:
        markers: A marker set, or whatever `rolemask.load` takes.
        tokenizer: A tokenizer or processor; its own chat templates are used if no other is given. Without it, a small tokenizer is built
            from the set's special tokens.
        template: A template, its text, or the path of a file of it: Jinja, or JSON with the key `chat_template`.

    Returns:
        One `Verification` per template; `.ok` tells whether it was proven.

    Raises:
        ChatError: There is no template, or it is no Jinja.
        FileReadError: The template's file cannot be read.
        TokenizerMismatchError: The markers do not exist in this tokenizer.
    """
    markers = markers if isinstance(markers, MarkerSet) else load(markers)
    if isinstance(template, ChatTemplate):
        templates = [template]
    elif template is not None:
        guessed = {"bos_token": "<s>", "eos_token": markers.eos_token or DEFAULT_EOS}
        templates = read_templates(template, guessed | variables_of(tokenizer))
    else:
        templates = templates_of(tokenizer)
    if not templates:
        raise ChatError(f"{markers.name!r}: there is no chat template to hold it to. Pass a tokenizer that has one, or the template itself")
    return [_verify_one(markers, tokenizer, one) for one in templates]


def _verify_one(markers: MarkerSet, tokenizer: Any, template: ChatTemplate) -> Verification:
    if tokenizer is not None:
        rules = rules_for(markers, tokenizer)
        return Verification(markers.name, template, plain_name(rules.vocabulary.name), tuple(prove(rules, template, SCENARIOS)))
    headers = [str(start) for marker in markers.markers for start in marker.start]
    # What looks special, less what the set says is text (Zephyr's `<|user|>`).
    special_tokens = {token for token in looks_special(template) if not any(token in header for header in headers)}
    finder = GroundTruthFinder(template, {*markers.special_tokens, *special_tokens})
    texts = []
    for conversation in SCENARIOS:
        try:
            texts.append(finder.put(conversation)[1])
        except UnsupportedScenarioError:
            continue
    # Words of the texts become tokens, so that white space of contents merges with that of the markers, as real tokenizers do it.
    rules = compile_rules(markers, ToyTokenizer(markers, texts).vocabulary)
    return Verification(markers.name, template, SYNTHETIC, tuple(prove(rules, template, SCENARIOS, more_special_tokens=special_tokens)))


def write_verified(markers: MarkerSet, verifications: Sequence[Verification], version: str) -> None:
    """Write the `verified` block of a marker set's file, in place of the one it has; nothing else of the file changes.

    What was proven on other templates stays, as long as the markers are the same.

    Raises:
        FileReadError: The file cannot be read or written.
    """
    path = Path(markers.origin)
    fingerprint = markers.fingerprint
    new = [
        Verified(one.template.name, one.template.sha256, one.tokenizer, one.passed, fingerprint, version) for one in verifications if one.ok
    ]
    kept = [entry for entry in markers.verified if entry.markers == fingerprint]
    by_proof = {(entry.sha256, entry.tokenizer): entry for entry in (*kept, *new)}
    entries = sorted(by_proof.values(), key=lambda entry: (entry.template, entry.tokenizer))
    text = read_text(path)
    lines = text.splitlines(keepends=True)
    place = read_source(text, str(path)).keys.get(("verified",))
    first = len(lines) if place is None else place[0] - 1
    last = first + 1
    while last < len(lines) and lines[last].startswith((" ", "-")):
        last += 1
    head = "".join(lines[:first])
    block = _block(entries) if entries else ""
    try:
        path.write_text(head + ("" if head.endswith("\n") else "\n") + block + "".join(lines[last:]), encoding="utf-8")
    except OSError as error:
        raise FileReadError(f"{path}: cannot be written: {error.strerror or error}") from error


def _block(entries: Sequence[Verified]) -> str:
    lines = ["verified:                            # written by `rolemask verify --write`"]
    for entry in entries:
        lines.append(f"  - template: {_quoted(entry.template)}")
        lines.append(f"    sha256: {_quoted(entry.sha256)}")
        lines.append(f"    tokenizer: {_quoted(entry.tokenizer)}")
        lines.append(f"    markers: {_quoted(entry.markers)}")
        lines.append(f"    rolemask: {_quoted(entry.rolemask)}")
        # The blanks inside the names are no places to break a line at.
        shapes = ", ".join(_quoted(shape).replace(" ", _NO_BREAK) for shape in entry.shapes)
        wrapped = wrap(f"shapes: [{shapes}]", _WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
        lines += [line.replace(_NO_BREAK, " ") for line in wrapped]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

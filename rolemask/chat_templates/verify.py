"""`rolemask verify`: a marker set against a model's own chat template and tokenizer, over conversations of many shapes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from rolemask.chat_templates.compare import ScenarioResult, Status, compare_labels, compare_with_toy_tokenizer
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import guess_special_tokens
from rolemask.chat_templates.template import ChatTemplate, plain_name, read_templates, templates_of, variables_of
from rolemask.errors import ChatError, FileReadError
from rolemask.markers.registry import load
from rolemask.markers.source import read_source, read_text
from rolemask.markers.spec import MarkerSet, Verified
from rolemask.matching.compiler import rules_for
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
    scenarios: tuple[ScenarioResult, ...]

    @property
    def ok(self) -> bool:
        """Whether the set is proven: at least one scenario agrees, and none differs."""
        statuses = {result.status for result in self.scenarios}
        return Status.OK in statuses and Status.DIFFERS not in statuses

    @property
    def passed(self) -> tuple[str, ...]:
        """The names of the scenarios that agree."""
        return tuple(result.scenario for result in self.scenarios if result.status is Status.OK)


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
        raise ChatError(f"{markers.name!r}: no chat template to verify against. Pass a tokenizer that has one, or the template itself")
    return [_verify_one(markers, tokenizer, one) for one in templates]


def _verify_one(markers: MarkerSet, tokenizer: Any, template: ChatTemplate) -> Verification:
    if tokenizer is None:
        truths = GroundTruthFinder(template, _special_tokens_without_tokenizer(markers, template)).truths
        return Verification(markers.name, template, SYNTHETIC, tuple(compare_with_toy_tokenizer(markers, truths)))
    rules = rules_for(markers, tokenizer)
    truths = GroundTruthFinder(template, rules.vocabulary.special_tokens).truths
    return Verification(markers.name, template, plain_name(rules.vocabulary.name), tuple(compare_labels(rules, truths)))


def _special_tokens_without_tokenizer(markers: MarkerSet, template: ChatTemplate) -> set[str]:
    """Return the set's special tokens and what looks like one, except inside headers: there the set says what is text (Zephyr)."""
    headers = [str(start) for marker in markers.markers for start in marker.start]
    guessed = {token for token in guess_special_tokens(template) if not any(token in header for header in headers)}
    return {*guessed, *ToyTokenizer(markers).vocabulary.special_tokens}


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

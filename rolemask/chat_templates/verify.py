"""`rolemask verify`: a marker set against a model's own chat template and tokenizer, over conversations of many shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolemask.chat_templates.compare import ScenarioResult, prove
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError, looks_special
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.chat_templates.template import ChatTemplate, plain_name, read_templates, templates_of, variables_of
from rolemask.errors import ChatError, FileReadError
from rolemask.markers.proofs import SEMANTICS, Proof, proofs_path, read_proofs, write_proofs
from rolemask.markers.registry import load
from rolemask.markers.spec import MarkerSet
from rolemask.matching.compiler import compile_rules, rules_for
from rolemask.matching.toy_tokenizer import DEFAULT_EOS, ToyTokenizer

SYNTHETIC = "synthetic"
"""The name of the tokenizer that is built for a proof without the model's own."""


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


def write_verified(markers: MarkerSet, verifications: Sequence[Verification], version: str) -> Path:
    """Write proofs into the proofs file of a marker set, and return its path.

    Other proofs stay, unless they are stale. A verification with a difference is not written.

    Raises:
        FileReadError: The set is not a file, or its proofs file cannot be read or written.
        MarkerSetError: Its proofs file is malformed.
    """
    path = Path(markers.origin)
    if not path.is_file():
        raise FileReadError(f"{path}: is not a file, so its proofs cannot be written beside it")
    kept = [proof for proof in read_proofs(path) if not proof.is_stale(markers)]
    new = [_proof(markers, one, version) for one in verifications if one.ok]
    by_case = {(proof.sha256, proof.tokenizer): proof for proof in (*kept, *new)}
    write_proofs(path, list(by_case.values()))
    return proofs_path(path)


def _proof(markers: MarkerSet, one: Verification, version: str) -> Proof:
    return Proof(
        template=one.template.name,
        sha256=one.template.sha256,
        tokenizer=one.tokenizer,
        passed=one.passed,
        not_supported=tuple(shape.shape for shape in one.shapes if shape.status == "not supported"),
        markers=markers.fingerprint,
        semantics=SEMANTICS,
        rolemask=version,
    )

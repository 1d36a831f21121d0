"""`rolemask verify`: compares a marker set with a model's own chat template and tokenizer, in many scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rolemask.chat_templates.compare import ScenarioResult, Status, compare_labels, compare_with_toy_tokenizer
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import guess_special_tokens
from rolemask.chat_templates.template import ChatTemplate, plain_name, read_templates, templates_of, variables_of
from rolemask.errors import ChatError, FileReadError
from rolemask.markers.proofs import SEMANTICS, Proof, proofs_path, read_proofs, write_proofs
from rolemask.markers.registry import load
from rolemask.markers.spec import MarkerSet
from rolemask.matching.compiler import rules_for
from rolemask.matching.toy_tokenizer import DEFAULT_EOS, ToyTokenizer

SYNTHETIC = "synthetic"
"""The name of the tokenizer that is built for a proof without the model's own."""


@dataclass(frozen=True)
class Verification:
    """How one marker set compares with one chat template and tokenizer."""

    markers: str
    template: ChatTemplate
    tokenizer: str
    scenarios: tuple[ScenarioResult, ...]

    @property
    def ok(self) -> bool:
        """Whether the set is proven: at least one scenario agrees, and none differs, except by what the set masks on purpose."""
        statuses = {result.status for result in self.scenarios}
        return Status.OK in statuses and Status.DIFFERS not in statuses

    @property
    def passed(self) -> tuple[str, ...]:
        """The names of the scenarios that agree."""
        return self.with_status(Status.OK)

    def with_status(self, status: Status) -> tuple[str, ...]:
        """Return the names of the scenarios with a status, such as "not supported"."""
        return tuple(result.scenario for result in self.scenarios if result.status == status)


def verify(
    markers: MarkerSet | str | Path, tokenizer: object = None, template: ChatTemplate | str | Path | None = None
) -> list[Verification]:
    """Compare a marker set with a chat template: what is trained must be what the model must generate, token by token.

    For example, ``verify("qwen3", tokenizer)[0].ok`` says whether the set `qwen3` is proven on the tokenizer's own chat template.

    Args:
        markers: A marker set, or anything that `rolemask.load` accepts.
        tokenizer: A tokenizer or processor; its own chat templates are used if you pass no other. Without it, a small tokenizer is made
            from the set's special tokens.
        template: A template, its text, or the path of a file: Jinja, or JSON with the key `chat_template`.

    Returns:
        One `Verification` per template; `.ok` says whether the set is proven on it.

    Raises:
        ChatError: There is no template, or it isn't Jinja.
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


def _verify_one(markers: MarkerSet, tokenizer: object, template: ChatTemplate) -> Verification:
    if tokenizer is None:
        truths = GroundTruthFinder(template, _special_tokens_without_tokenizer(markers, template)).truths
        return Verification(markers.name, template, SYNTHETIC, tuple(compare_with_toy_tokenizer(markers, truths)))
    rules = rules_for(markers, tokenizer)
    truths = GroundTruthFinder(template, rules.vocabulary.special_tokens).truths
    return Verification(markers.name, template, plain_name(rules.vocabulary.name), tuple(compare_labels(rules, truths, markers.masks_more)))


def _special_tokens_without_tokenizer(markers: MarkerSet, template: ChatTemplate) -> set[str]:
    """Return the set's special tokens and what looks like one, except inside headers: there the set says what is text (Zephyr)."""
    headers = [str(start) for marker in markers.markers for start in marker.start]
    guessed = {token for token in guess_special_tokens(template) if not any(token in header for header in headers)}
    return {*guessed, *ToyTokenizer(markers).vocabulary.special_tokens}


def write_verified(markers: MarkerSet, verifications: Sequence[Verification], version: str) -> Path:
    """Write proofs into the proofs file of a marker set, and return its path.

    Other proofs stay, unless they are stale. A verification with a difference is not written, and an earlier proof of it goes.

    Raises:
        FileReadError: The set is not a file, or its proofs file cannot be read or written.
        MarkerSetError: Its proofs file is malformed.
    """
    path = Path(markers.origin)
    if not path.is_file():
        raise FileReadError(f"{path}: is not a file, so its proofs cannot be written beside it")
    again = {(one.template.sha256, one.tokenizer) for one in verifications}
    kept = [proof for proof in read_proofs(path) if not proof.is_stale(markers) and (proof.sha256, proof.tokenizer) not in again]
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
        not_supported=one.with_status(Status.NOT_SUPPORTED),
        markers=markers.fingerprint,
        semantics=SEMANTICS,
        rolemask=version,
        masks_more=one.with_status(Status.MASKS_MORE),
    )

"""Deriving a marker set from a chat template.

The template renders scenarios with known words. The ground truth says which text the model generates; the text in between is the markers.
The derived set is then compared with the template like any other, and every disagreement is reported.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rolemask.chat_templates.compare import Difference, ScenarioResult, Status, compare_labels, compare_with_toy_tokenizer
from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder
from rolemask.chat_templates.reading import Draft, Reader, Unsettled
from rolemask.chat_templates.rendering import guess_more_special_tokens
from rolemask.chat_templates.scenarios import REASONING_AND_TOOLS, SYSTEM, THREE_TURNS, TOOLS
from rolemask.chat_templates.template import ChatTemplate, read_templates, templates_of
from rolemask.errors import ChatError, MarkerSetError, RoleMaskError
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_source
from rolemask.markers.spec import MarkerSet
from rolemask.masking.examples import check_examples
from rolemask.matching.compiler import rules_for
from rolemask.matching.vocabulary import read_vocabulary

_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|>[^<>\s]+<|\][^\[\]\s]+\[")
_LONGEST_EXAMPLE = 4000  # characters


@dataclass(frozen=True)
class DerivedMarkerSet:
    """A marker set derived from a chat template.

    Attributes:
        text: The marker set as YAML.
        markers: The same, loaded.
        unsettled: What could not be derived, or disagrees with the template; empty if everything agrees. `about` names the scenarios or the
            part of the set, `problem` says what is wrong, and `str()` has both. `trains_too_much`: the set trains what the model never
            generates.
        notes: What else is worth knowing, such as that the format has no stop token.
    """

    text: str
    markers: MarkerSet
    unsettled: tuple[Unsettled, ...]
    notes: tuple[str, ...] = ()


def derive(source: object, *, name: str = "inferred") -> DerivedMarkerSet:
    """Derive a marker set from a chat template.

    >>> turns = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    >>> derived = derive(turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}", name="mine")
    >>> [(marker.role, *marker.start) for marker in derived.markers.markers]
    [('user', '<|user|>'), ('assistant', '<|assistant|>'), ('system', '<|system|>')]
    >>> derived.unsettled
    ()

    Args:
        source: A tokenizer or processor with a chat template, a `ChatTemplate`, Jinja text, or the path of a file with a template.
        name: The name of the set.

    Raises:
        ChatError: There is no template, or it doesn't render a question and an answer.
        FileReadError: The template's file cannot be read.
    """
    if isinstance(source, (str, Path, ChatTemplate)):
        template = source if isinstance(source, ChatTemplate) else read_templates(source, {"bos_token": "<s>", "eos_token": "</s>"})[0]
        return derive_with(GroundTruthFinder(template, guess_more_special_tokens(template)), None, name=name)
    templates = templates_of(source)
    if not templates:
        raise ChatError(f"{type(source).__name__} has no chat template to derive a marker set from")
    return derive_with(GroundTruthFinder(templates[0], read_vocabulary(source).special_tokens), source, name=name)


def derive_with(finder: GroundTruthFinder, tokenizer: object, *, name: str = "inferred") -> DerivedMarkerSet:
    """Derive a marker set from ground truths, and compare it with them: on `tokenizer`, or on a toy tokenizer if that is None.

    Raises:
        ChatError: As for `derive`.
    """
    reader = Reader(finder)
    drafts, media = reader.read()
    text, markers = _parsed(name, finder, drafts, media, reader.notes)
    unsettled = [*reader.unsettled, *(Unsettled("examples", problem.message) for problem in check_examples(markers))]
    try:
        if tokenizer is None:
            results = compare_with_toy_tokenizer(markers, finder.truths)
        else:
            results = compare_labels(rules_for(markers, tokenizer), finder.truths)
        unsettled = list(_disagreements(markers, list(results))) or unsettled
    except RoleMaskError as error:
        unsettled.append(Unsettled("tokenizer", str(error)))
    notes = tuple(dict.fromkeys(reader.notes))
    return DerivedMarkerSet(text + _comments("Not settled:", unsettled) + _comments("Notes:", notes), markers, tuple(unsettled), notes)


def _comments(heading: str, entries: Sequence[object]) -> str:
    return "".join(f"{line}\n" for line in (f"# {heading}", *(f"# - {entry}".replace("\n", " ") for entry in entries))) if entries else ""


def _parsed(name: str, finder: GroundTruthFinder, drafts: Sequence[Draft], media: Sequence[str], notes: list[str]) -> tuple[str, MarkerSet]:
    """Return the set as YAML and loaded. A marker that the parser refuses is left out, and `notes` say so: user and assistant must stay.

    Raises:
        ChatError: The parser refuses the markers of user and assistant.
    """
    kept = list(drafts)
    while True:
        text = _to_yaml(name, finder, kept, media)
        try:
            return text, parse_marker_set(read_source(text, f"{name}.yaml"))
        except MarkerSetError as error:
            reason = error.problems[0].message
        # The last of the optional markers without which there is one problem less, or else the last one.
        optional = [draft for draft in kept if draft.role not in ("user", "assistant")]
        if not optional:
            raise ChatError(f"{finder.renderer.template.name}: its headers cannot be markers: {reason}")
        guilty = next(
            (draft for draft in reversed(optional) if _is_valid(name, finder, [one for one in kept if one is not draft], media)),
            optional[-1],
        )
        kept.remove(guilty)
        notes.append(f"{guilty.role}: left out, since {reason}")


def _is_valid(name: str, finder: GroundTruthFinder, drafts: Sequence[Draft], media: Sequence[str]) -> bool:
    try:
        parse_marker_set(read_source(_to_yaml(name, finder, drafts, media), f"{name}.yaml"))
    except MarkerSetError:
        return False
    return True


def _disagreements(markers: MarkerSet, results: Sequence[ScenarioResult]) -> Iterator[Unsettled]:
    if all(result.status is Status.NOT_SUPPORTED for result in results):
        yield Unsettled("tokenizer", f"nothing could be compared: {results[0].detail}")
    alike: dict[tuple[str, str], list[ScenarioResult]] = {}
    for result in results:
        if result.difference is not None:
            alike.setdefault((result.difference.kind, _without_words(result.difference.text)), []).append(result)
    for (kind, _), group in alike.items():
        assert group[0].difference is not None
        about = ", ".join(result.scenario for result in group)
        yield Unsettled(about, f"{group[0].detail}.", trains_too_much=kind == "extra", mend=_mend(markers, group[0].difference))


def _mend(markers: MarkerSet, difference: Difference) -> str:
    """Return the line of YAML that may mend a difference."""
    starts = [str(start) for marker in markers.markers if marker.role == "assistant" for start in marker.start]
    header = next((start for start in sorted(starts, key=len, reverse=True) if difference.before.endswith(start)), None)
    tag = _TAG.match(difference.text.lstrip())
    if difference.kind == "missing":
        found = _TAG.search(difference.before.rstrip()[::-1]) or re.search(r"\S+", difference.before.rstrip()[::-1])
        before = difference.before[-found.end() :] if found else difference.before
        return f"another start of the assistant: start: {_flow([*starts, before])}"
    if any(difference.text.strip().startswith(str(start).strip()) for marker in markers.markers for start in marker.start):
        return ""  # another turn's start: the ids do not tell whose it is
    if header is not None:
        return f"a longer start of the assistant: start: {_flow([*starts, header + difference.text])}"
    if tag is not None and "Result" in difference.text:
        closing = f"{tag.group()[0]}/{tag.group()[1:]}"
        return f"a span: {{role: tool, within: assistant, start: {_quoted(tag.group())}, end: {_quoted(closing)}}}"
    first = tag.group() if tag is not None else difference.text.strip().partition("\n")[0] or difference.text
    return f"an end of the assistant that is not trained: end: {_flow([first])}, include_end: false"


def _without_words(text: str) -> str:
    """Return a text without the words of the scenarios, so that the same difference in two of them is the same text."""
    return re.sub(r"\w+", "", text)


def _to_yaml(name: str, finder: GroundTruthFinder, drafts: Sequence[Draft], media: Sequence[str]) -> str:
    template = finder.renderer.template
    texts = [part for draft in drafts for part in (*draft.start, *(draft.end or ()))]
    special_tokens = dict.fromkeys(match.group() for text in texts for match in finder.renderer.find_special_tokens(text))
    uses_eos = any(draft.end and "eos_token" in draft.end for draft in drafts)
    lines = ["# yaml-language-server: $schema=../schemas/marker-set.schema.json", f"name: {name}"]
    if special_tokens:
        lines.append(f"special_tokens: {_flow(list(special_tokens))}")
    if uses_eos:
        lines.append(f"eos_token: {_quoted(str(template.variables['eos_token']))}")
    lines.append("markers:")
    for draft in drafts:
        lines.append(f"  - role: {draft.role}")
        if "within" in draft.extra:
            lines.append(f"    within: {draft.extra['within']}")
        lines.append(f"    start: {_one_or_list(draft.start)}")
        lines.append(f"    end: {'null' if draft.end is None else _one_or_list(draft.end)}")
        lines += [
            f"    {key}: {json.dumps(value) if isinstance(value, bool) else value}" for key, value in draft.extra.items() if key != "within"
        ]
    if media:
        lines.append(f"media: {{image: {_flow(media)}}}")
    lines.append("source:                              # name the repository and revision that have the chat template")
    lines.append(f"  repository: {_quoted(template.name)}")
    lines.append(f'  revision: "sha256:{template.sha256[:16]}"')
    lines.append("  note: derived by `rolemask derive`")
    examples = _examples(finder)
    lines += ["examples:"] if examples else []
    for truth in examples:
        lines.append(f"  - text: {_quoted(truth.text)}")
        lines.append(f"    trained: {_flow(truth.region_texts)}")
    return "\n".join(lines) + "\n"


def _examples(finder: GroundTruthFinder) -> list[GroundTruth]:
    """Return the ground truth of a plain scenario and of the most special one that the template supports."""
    truths = {scenario.name: truth for scenario, truth in finder.truths}
    wanted = [truths[scenario.name] for scenario in (SYSTEM, THREE_TURNS, TOOLS, REASONING_AND_TOOLS)]
    found = [truth for truth in wanted if isinstance(truth, GroundTruth) and len(truth.text) < _LONGEST_EXAMPLE]
    return [found[0], found[-1]] if len(found) > 1 else found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _one_or_list(texts: Sequence[str]) -> str:
    return _quoted(texts[0]) if len(texts) == 1 else _flow(texts)

"""Deriving a marker set from a chat template: conversations of known words are written, and what stands around the words is read off.

What the model generates is the ground truth; the markers are what stands between. What comes out is held to the template like
any other set, and what does not agree is told.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder, region_texts
from rolemask.chat_templates.reading import Draft, Reader
from rolemask.chat_templates.rendering import UnsupportedScenarioError, looks_special
from rolemask.chat_templates.scenarios import SCENARIOS, SYSTEM, THREE_TURNS, TOOLS
from rolemask.chat_templates.template import ChatTemplate, read_templates, templates_of
from rolemask.chat_templates.verify import verify
from rolemask.errors import ChatError, MarkerSetError, RoleMaskError
from rolemask.markers.parse import parse_marker_set
from rolemask.markers.source import read_source
from rolemask.markers.spec import MarkerSet
from rolemask.masking.examples import check_examples
from rolemask.matching.vocabulary import read_vocabulary


@dataclass(frozen=True)
class DerivedMarkerSet:
    """What was derived from a template.

    Attributes:
        text: The marker set as YAML.
        markers: The same, loaded.
        unsettled: What could not be settled, in words; empty where everything agrees.
    """

    text: str
    markers: MarkerSet
    unsettled: tuple[str, ...]


def derive(source: Any, *, name: str = "inferred") -> DerivedMarkerSet:
    """Derive a marker set from a chat template.

    Args:
        source: A tokenizer or processor with a chat template; or a template: its text, or the path of a file of it.
        name: The name of the set.

    Raises:
        ChatError: There is no template, or it does not even write a user's question and an answer.
        FileReadError: The template's file cannot be read.
    """
    if isinstance(source, (str, Path, ChatTemplate)):
        tokenizer = None
        template = source if isinstance(source, ChatTemplate) else read_templates(source, {"bos_token": "<s>", "eos_token": "</s>"})[0]
        special_tokens = looks_special(template)
    else:
        tokenizer = source
        templates = templates_of(tokenizer)
        if not templates:
            raise ChatError(f"{type(tokenizer).__name__} has no chat template to derive a marker set from")
        template = templates[0]
        special_tokens = set(read_vocabulary(tokenizer).special_tokens)
    reader = Reader(template, special_tokens)
    drafts, media = reader.read()
    text = _write(name, template, drafts, media, reader)
    try:
        markers = parse_marker_set(read_source(text, f"{name}.yaml"))
    except MarkerSetError as error:
        raise ChatError(f"{template.name}: what was derived is no marker set: {error}\n{text}") from error
    unsettled = [*dict.fromkeys(reader.unsettled), *(problem.message for problem in check_examples(markers))]
    try:
        for shape in verify(markers, tokenizer, template)[0].shapes:
            if shape.status == "differs":
                unsettled.append(f"{shape.shape}: {shape.detail}")
    except RoleMaskError as error:
        unsettled.append(str(error))
    return DerivedMarkerSet(text, markers, tuple(unsettled))


def _write(name: str, template: ChatTemplate, drafts: Sequence[Draft], media: Sequence[str], reader: Reader) -> str:
    """Write the YAML of a marker set."""
    texts = [part for draft in drafts for part in (*draft.start, *(draft.end or ()))]
    special_tokens = dict.fromkeys(match.group() for text in texts for match in reader.finder.special_tokens(text))
    uses_eos = any(draft.end and "eos_token" in draft.end for draft in drafts)
    lines = ["# yaml-language-server: $schema=../schemas/marker-set.schema.json", f"name: {name}"]
    if special_tokens:
        lines.append(f"special_tokens: {_flow(list(special_tokens))}")
    if uses_eos:
        lines.append(f"eos_token: {_quoted(reader.eos)}")
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
    lines.append("source:                              # name it: repository and revision of the chat template")
    lines.append(f"  repository: {_quoted(template.name)}")
    lines.append(f"  note: derived by `rolemask derive` from the template with SHA-256 {template.sha256[:16]}")
    lines.append("examples:")
    for truth in _examples(reader.finder):
        lines.append(f"  - text: {_quoted(truth.text)}")
        lines.append(f"    trained: {_flow(region_texts(truth))}")
    return "\n".join(lines) + "\n"


def _examples(finder: GroundTruthFinder) -> list[GroundTruth]:
    """Return what the template writes for several turns, and for what is special about it."""
    found = []
    for conversation in (SYSTEM, THREE_TURNS, TOOLS, SCENARIOS[-2]):
        try:
            truth = finder.find(conversation)
        except UnsupportedScenarioError:
            continue
        if len(truth.text) < 4000:
            found.append(truth)
    return [found[0], found[-1]] if len(found) > 1 else found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _one_or_list(texts: Sequence[str]) -> str:
    return _quoted(texts[0]) if len(texts) == 1 else _flow(texts)

"""Golden labels: what every marker set trains, in files that a change of labels shows up in.

``python tests/golden.py`` writes them anew. One file per set, ``tests/golden/NAME.json``: the text of each example and scenario with the
trained stretches in ``⟦ ⟧``, and a hash of the labels and roles of all of them under other policies.
"""

import json
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import rolemask
from rolemask import IGNORE_INDEX, MarkerSet
from rolemask.chat import Chat, render_with_markers
from rolemask.conversations import CONVERSATIONS
from rolemask.embedded import EmbeddedTokenizer

FOLDER = Path(__file__).parent / "golden"


def golden(markers: MarkerSet) -> dict[str, Any]:
    """Return what the golden file of a set holds."""
    texts = {f"example {number}": example.text for number, example in enumerate(markers.examples, start=1)}
    for conversation in CONVERSATIONS:
        try:
            texts[conversation.name] = render_with_markers(Chat(list(conversation.messages)), markers)
        except rolemask.ChatError:  # the set has no marker for a role of it
            continue
    tokenizer = EmbeddedTokenizer(markers, texts.values())
    rows = {name: tokenizer.encode(text) for name, text in texts.items()}
    masker = markers.compile(tokenizer, on_empty="ignore", self_check="off")
    trained = {}
    for name, ids in rows.items():
        runs = groupby(zip(ids, masker(ids), strict=True), lambda pair: pair[1] != IGNORE_INDEX)
        parts = [(is_trained, tokenizer.vocabulary.text(id_ for id_, _ in run)) for is_trained, run in runs]
        trained[name] = "".join(f"⟦{text}⟧" if is_trained else text for is_trained, text in parts)
    return {"trained": trained, "other_policies": _hash(markers, tokenizer, list(rows.values()))}


def _hash(markers: MarkerSet, tokenizer: EmbeddedTokenizer, rows: list[list[int]]) -> str:
    policies: list[dict[str, Any]] = [
        {"roles_to_train": markers.roles, "train_on_eos": "all"},
        {"roles_to_train": markers.roles[:1], "train_on_eos": "last"},
        {"roles_to_train": [], "train_on_eos": "all"},
        {"train_on_eos": "last"},
        {"train_on_eos": "none"},
        {"turns": "last"},
        {"train_on_inputs": True},
    ]
    maskers = [markers.compile(tokenizer, on_empty="ignore", self_check="off", **policy) for policy in policies]
    found = [[masker(rows) for masker in maskers], maskers[0].roles(rows)]
    packed = [id_ for row in rows for id_ in row]
    lengths = [len(row) for row in rows]
    found.append([[masker(packed, seq_lens=lengths), masker(packed)] for masker in maskers])
    return sha256(json.dumps(found).encode()).hexdigest()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in rolemask.available():
        text = json.dumps(golden(rolemask.load(name)), ensure_ascii=False, indent=1)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

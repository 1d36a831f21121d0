"""Golden labels, by the reference: what every marker set trains, in files that a change of labels shows up in.

``python tests/helpers/golden.py`` writes them anew. One file per set, ``tests/golden/NAME.json``: the text of each example and scenario with the
trained stretches in ``⟦ ⟧``, and a hash of what is trained and of the roles under other policies.
"""

import json
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import rolemask
from rolemask import IGNORE_INDEX, MarkerSet
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.cli.chats import Chat, render_with_markers
from rolemask.masking.policy import Policy, make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer

FOLDER = Path(__file__).parent.parent / "golden"


def golden(markers: MarkerSet) -> dict[str, Any]:
    """Return what the golden file of a set holds."""
    texts = {f"example {number}": example.text for number, example in enumerate(markers.examples, start=1)}
    for scenario in SCENARIOS:
        try:
            texts[scenario.name] = render_with_markers(Chat(list(scenario.messages)), markers)
        except rolemask.ChatError:  # the set has no marker for a role of it
            continue
    tokenizer = ToyTokenizer(markers, texts.values())
    rows = {name: tokenizer.encode(text) for name, text in texts.items()}
    rules = compile_rules(markers, tokenizer.vocabulary)
    trained = {}
    for name, ids in rows.items():
        labels = mask(ids, rules, make_policy(rules.roles)).labels
        runs = groupby(zip(ids, labels, strict=True), lambda pair: pair[1] != IGNORE_INDEX)
        parts = [(is_trained, tokenizer.vocabulary.text(id_ for id_, _ in run)) for is_trained, run in runs]
        trained[name] = "".join(f"⟦{text}⟧" if is_trained else text for is_trained, text in parts)
    return {"trained": trained, "other_policies": _hash(rules, list(rows.values()))}


def _hash(rules: Rules, rows: list[list[int]]) -> str:
    options: list[dict[str, Any]] = [
        {"roles_to_train": rules.roles, "train_on_eos": "all"},
        {"roles_to_train": rules.roles[:1], "train_on_eos": "last"},
        {"roles_to_train": [], "train_on_eos": "all"},
        {"train_on_eos": "last"},
        {"train_on_eos": "none"},
        {"turns": "last"},
        {"train_on_inputs": True},
    ]
    policies = [make_policy(rules.roles, **option) for option in options]

    def trained(ids: list[int], policy: Policy, starts: list[int] | None = None) -> list[bool]:
        return [label != IGNORE_INDEX for label in mask(ids, rules, policy, starts=starts).labels]

    found: list[Any] = [[[trained(row, policy) for row in rows] for policy in policies]]
    found.append([mask(row, rules, policies[0]).roles for row in rows])
    packed = [id_ for row in rows for id_ in row]
    starts = [int(at == 0) for row in rows for at in range(len(row))]
    found.append([[trained(packed, policy, starts), trained(packed, policy)] for policy in policies])
    return sha256(json.dumps(found).encode()).hexdigest()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in rolemask.available():
        text = json.dumps(golden(rolemask.load(name)), ensure_ascii=False, indent=1)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Sets that mask on purpose what the model generates: only these losses pass, and only with the reason in the log."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rolemask import MarkerSet, TemplateMismatchError, detect, verify
from rolemask.chat_templates.verify import write_verified
from rolemask.check import check_files
from rolemask.markers.proofs import read_proofs
from rolemask.markers.registry import load_file

# Results stand in brackets inside the model's turn, and nothing shows where the last bracket closes.
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}[{{ m.content }}]{% else %}"
    "{% if m.role != 'assistant' or loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>{{ m.role }}\n{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{% if not m.tool_calls %}<|im_end|>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|im_start|>assistant\n{% endif %}"
)
REASON = "ids do not tell where a result ends"
TEXT = f"""\
name: inside
special_tokens: ["<|im_start|>", "<|im_end|>", "</call>"]
markers:
  - role: [system, user, assistant]
    start: "<|im_start|>{{{{ role }}}}\\n"
    end: "<|im_end|>"
  - role: tool
    within: assistant
    start: "</call>"
    start_owner: turn
    end: null
masks_more:
  tool: {REASON}
examples:
  - {{text: "<|im_start|>assistant\\n<call>1</call>[2]It is 2.<|im_end|>", trained: ["<call>1</call>", "<|im_end|>"]}}
"""
WITH_RESULTS = {"tools", "two tool results", "words before a call"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "inside.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def tokenizer(small_tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</call>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def without_reason(markers: MarkerSet) -> MarkerSet:
    return replace(markers, masks_more={})


def differing(markers: MarkerSet) -> set[str]:
    (one,) = verify(markers, template=TEMPLATE)
    return {result.scenario for result in one.scenarios if result.status == "differs"}


def test_only_with_the_reason_do_the_losses_pass(path: Path) -> None:
    assert check_files([path]) == []
    markers = load_file(path)
    (one,) = verify(markers, template=TEMPLATE)
    assert one.ok
    assert {result.scenario for result in one.scenarios if result.status == "masks more"} >= WITH_RESULTS
    assert not WITH_RESULTS & set(one.passed)
    assert differing(without_reason(markers)) >= WITH_RESULTS


def test_losses_of_other_roles_differ(path: Path) -> None:
    markers = load_file(path)
    assistant = replace(markers.markers[2], include_end=False)
    assert "one turn" in differing(replace(markers, markers=(*markers.markers[:2], assistant, markers.markers[3])))


def test_what_is_trained_too_much_differs(path: Path) -> None:
    markers = load_file(path)
    tool = replace(markers.markers[3], follows_turn=True)  # the results are trained
    assert differing(replace(markers, markers=(*markers.markers[:3], tool))) >= WITH_RESULTS


def test_the_proof_names_the_scenarios_and_needs_the_reason(path: Path) -> None:
    markers = load_file(path)
    write_verified(markers, verify(markers, template=TEMPLATE), "1")
    (proof,) = read_proofs(path)
    assert set(proof.masks_more) >= WITH_RESULTS
    assert check_files([path]) == []
    assert without_reason(markers).fingerprint == markers.fingerprint  # the labels are the same
    path.write_text(TEXT.replace(f"masks_more:\n  tool: {REASON}\n", ""))
    (problem,) = check_files([path])
    assert "1 of 1 proofs is stale" in str(problem)


def test_compile_and_detect_accept_it_with_one_line(
    path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(path.parent))
    markers = detect(tokenizer)
    assert markers.name == "inside"
    markers.compile(tokenizer)
    lines = [record.getMessage() for record in caplog.records if REASON in record.getMessage()]
    assert len(lines) == 2  # one of each
    assert all(f"masks on purpose some of what the model generates: tool: {REASON}" in line for line in lines)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with pytest.raises(TemplateMismatchError, match="is not trained, but the model generates it"):
        without_reason(markers).compile(tokenizer)


def test_detect_prefers_a_set_that_masks_nothing_on_purpose(path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLEMASK_REGISTRY", str(path.parent))
    tokenizer.chat_template = tokenizer.chat_template.replace("[{{ m.content }}]", "{{ raise_exception('no tools') }}")
    path.write_text(TEXT.replace("special_tokens", f'match: {{model_id: ["{tokenizer.name_or_path}"]}}\nspecial_tokens'))
    assert detect(tokenizer).name == "chatml"
    path.write_text(path.read_text().replace(f"masks_more:\n  tool: {REASON}\n", ""))
    assert detect(tokenizer).name == "inside"


def test_markers_that_are_replaced_take_their_reasons_with_them(path: Path) -> None:
    boundaries = [{"role": "assistant", "start": "<|im_start|>assistant\n", "end": "<|im_end|>"}]
    assert MarkerSet.from_role_boundaries(boundaries, load_file(path)).masks_more == {}

"""`rolemask verify`: what agrees, what differs, and the proofs it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import rolemask
from rolemask import ChatError, ChatTemplate, MarkerSet, verify
from rolemask.chat_templates.compare import Status, compare_labels, tokens_of
from rolemask.chat_templates.ground_truth import GroundTruthFinder
from rolemask.chat_templates.rendering import UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS, THREE_TURNS
from rolemask.chat_templates.verify import write_verified
from rolemask.check import check_files
from rolemask.cli.main import main
from rolemask.markers.proofs import SEMANTICS, proofs_path, read_proofs
from rolemask.markers.registry import load_file
from rolemask.matching.compiler import compile_rules
from rolemask.matching.vocabulary import Vocabulary, cut_at_special_tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITNESSED = CHATML.replace(
    "{{ m.content }}<|im_end|>",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}",
)
TOY = """\
# yaml-language-server: $schema=../schemas/marker-set.schema.json
name: toy       # a comment
special_tokens: ["<|im_start|>", "<|im_end|>"]
markers:
  - role: [system, user, assistant]
    start: "<|im_start|>{{ role }}\\n"
    end: "<|im_end|>"
# the examples come last
examples:
  - {text: "<|im_start|>assistant\\nHi<|im_end|>\\n", trained: ["Hi<|im_end|>"]}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


def statuses(markers: Any, template: str) -> dict[str, str]:
    (one,) = verify(markers, template=template)
    return {result.scenario: result.status for result in one.scenarios}


def test_a_set_that_fits_is_proven_shape_by_shape(toy: Path) -> None:
    (one,) = verify(toy, template=CHATML)
    assert one.ok
    assert one.tokenizer == "synthetic"
    assert {"three turns", "system", "CJK", "newlines at the edges", "an empty answer", "answers in a row"} <= set(one.passed)
    by_name = {result.scenario: result for result in one.scenarios}
    assert by_name["tools"].status == "not supported"
    assert by_name["tools"].detail == "the template leaves out 'Place1' of message 1, assistant"
    assert by_name["one turn"].trained == by_name["one turn"].expected
    assert by_name["one turn"].trained.endswith("<|im_start|>assistant\n[[Reply1!<|im_end|>]]\n")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"end": ("<|im_end|>\n",)}, "'\\n' is trained, but the model never generates it"),
        ({"include_end": False, "rewind": False}, "'<|im_end|>' is not trained, but the model generates it"),
        ({"start": ("<|im_start|>assistant",)}, "'\\n' is trained, but the model never generates it"),
        ({"include_start": True}, "'<|im_start|>assistant\\n' is trained, but the model never generates it"),
    ],
)
def test_a_set_that_is_wrong_differs_and_shows_where(toy: Path, change: dict[str, Any], complaint: str) -> None:
    markers = load_file(toy)
    wrong = replace(markers, markers=(*markers.markers[:2], replace(markers.markers[2], **change)))
    (one,) = verify(wrong, template=CHATML)
    assert not one.ok
    (result,) = (result for result in one.scenarios if result.scenario == "one turn")
    assert result.status == "differs"
    assert complaint in result.detail


def test_where_no_shape_can_be_told_nothing_is_proven(toy: Path) -> None:
    (one,) = verify(toy, template="{{ raise_exception('no') }}")
    assert not one.ok
    assert {result.status for result in one.scenarios} == {"not supported"}


def test_generation_blocks_are_a_second_witness(toy: Path) -> None:
    def note(template: str) -> str:
        (one,) = verify(toy, template=template)
        return next(result.notes[-1] for result in one.scenarios if result.scenario == "one turn")

    assert note(WITNESSED) == "the template's own `generation` blocks agree"
    assert (
        note(WITNESSED.replace("<|im_end|>{% endg", "<|im_end|>\n{% endg"))
        == "the template's own `generation` blocks have 1 more tokens, and lack 0"
    )


def test_without_a_template_there_is_nothing_to_verify(toy: Path) -> None:
    with pytest.raises(ChatError, match="'toy': no chat template to verify against"):
        verify(toy)


def test_the_tokens_must_spell_the_text() -> None:
    upper = Vocabulary("upper", {1: b"HI", 2: b" a"}, {"<x>": 3}, lambda text: [1] if text != "a" else [2])
    with pytest.raises(UnsupportedScenarioError, match="upper changes the text b'hi'"):
        tokens_of("hi", upper)
    assert tokens_of("a", upper) == ([2], [(0, 1)])  # SentencePiece's dummy space


def test_a_dummy_space_behind_a_control_token_goes_with_what_follows(toy: Path) -> None:
    ids = {"<|im_start|>": 1, "<|im_end|>": 2}

    def encode(text: str) -> list[int]:
        parts = cut_at_special_tokens(text, ids)
        return [id_ for part in parts for id_ in ([part] if isinstance(part, int) else [3, *(byte + 4 for byte in part.encode())])]

    spaced = Vocabulary("spaced", {3: b" "} | {byte + 4: bytes([byte]) for byte in range(256)}, ids, encode)
    truths = GroundTruthFinder(ChatTemplate(CHATML, "toy", {}), ids).find_all([THREE_TURNS])
    results = compare_labels(compile_rules(load_file(toy), spaced), truths)
    assert [result.status for result in results] == ["ok"]


def test_proofs_are_written_beside_the_file_and_the_file_stays_as_it_is(toy: Path) -> None:
    markers = load_file(toy)
    found = verify(markers, template=ChatTemplate(CHATML, "a.jinja", {}))
    written = write_verified(markers, found, "9.9")
    assert written == toy.parent / "proofs" / "toy.json"
    assert toy.read_text() == TOY
    (proof,) = read_proofs(toy)
    assert (proof.template, proof.tokenizer, proof.rolemask) == ("a.jinja", "synthetic", "9.9")
    assert proof.passed == found[0].passed
    assert sorted(proof.passed + proof.not_supported) == sorted(scenario.name for scenario in SCENARIOS)
    assert (proof.sha256, proof.markers, proof.semantics) == (found[0].template.sha256, markers.fingerprint, SEMANTICS)
    assert check_files([toy]) == []
    text = written.read_text()
    write_verified(markers, found, "9.9")
    assert written.read_text() == text
    # Another template is added; the same one again replaces its proof.
    write_verified(markers, verify(markers, template=ChatTemplate(CHATML + " ", "b.jinja", {})), "10.0")
    write_verified(markers, found, "10.0")
    assert [(one.template, one.rolemask) for one in read_proofs(toy)] == [("a.jinja", "10.0"), ("b.jinja", "10.0")]


def test_each_proof_is_one_line(toy: Path) -> None:
    markers = load_file(toy)
    for name in ("a", "b"):
        written = write_verified(markers, verify(markers, template=ChatTemplate(CHATML + name, name, {})), "1")
    first, *proofs, last = written.read_text().splitlines()
    assert (first, last) == ('{"proofs": [', "]}")
    assert [json.loads(line.removesuffix(","))["template"] for line in proofs] == ["a", "b"]


def test_changed_markers_make_the_proof_stale(toy: Path) -> None:
    markers = load_file(toy)
    write_verified(markers, verify(markers, template=CHATML), "1")
    toy.write_text(
        toy.read_text().replace('end: "<|im_end|>"', 'end: ["<|im_end|>", eos_token]').replace("# a comment", '\neos_token: "</s>"')
    )
    (problem,) = check_files([toy])
    assert str(problem).startswith(
        f"{toy.parent}/proofs/toy.json:2:1: 1 of 1 proofs is stale: the markers or the masking rules have changed"
    )
    assert "rolemask verify toy" in problem.hint
    changed = load_file(toy)
    write_verified(changed, verify(changed, template=CHATML), "2")
    assert check_files([toy]) == []
    assert len(read_proofs(toy)) == 1  # the stale proof is gone


def test_another_number_of_the_semantics_makes_the_proof_stale(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    markers = load_file(toy)
    write_verified(markers, verify(markers, template=CHATML), "1")
    monkeypatch.setattr("rolemask.markers.proofs.SEMANTICS", SEMANTICS + 1)
    (problem,) = check_files([toy])
    assert "1 of 1 proofs is stale" in str(problem)


def test_what_differs_is_not_written(toy: Path) -> None:
    markers = load_file(toy)
    write_verified(markers, verify(markers, template=CHATML.replace("<|im_end|>\n", "<|end|>\n")), "1")
    assert not proofs_path(toy).exists()


def test_an_earlier_proof_of_what_differs_now_is_removed(toy: Path) -> None:
    markers = load_file(toy)
    (found,) = verify(markers, template=CHATML)
    write_verified(markers, [found], "1")
    differing = replace(found, scenarios=tuple(replace(result, status=Status.DIFFERS) for result in found.scenarios))
    write_verified(markers, [differing], "1")
    assert read_proofs(toy) == ()


def run(*words: str) -> Any:
    return CliRunner().invoke(main, list(words))


def test_the_command_prints_a_table_and_exits_by_it(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "right.jinja").write_text(CHATML)
    (tmp_path / "wrong.jinja").write_text(CHATML.replace("assistant\n{% endif %}", "assistant{% endif %}"))
    right = run("verify", str(toy), "--template", str(tmp_path / "right.jinja"), "--show", "one turn", "--write")
    assert right.exit_code == 0, right.output
    assert "toy on right.jinja, tokenizer: synthetic" in right.output
    assert "16 ok, 0 differs, 11 not supported" in right.output
    assert "[[Reply1!<|im_end|>]]" in right.output
    assert read_proofs(toy)[0].rolemask == rolemask.__version__
    wrong = run("verify", str(toy), "--template", str(tmp_path / "wrong.jinja"))
    assert wrong.exit_code == 1
    assert "differs" in wrong.output
    nothing = run("verify", str(toy))
    assert nothing.exit_code == 2
    assert "pass --tokenizer ID|FOLDER, or --template FILE" in nothing.output


def test_the_tokenizers_own_template_is_taken(toy: Path, small_tokenizer_folder: Path) -> None:
    result = run("verify", str(toy), "--tokenizer", str(small_tokenizer_folder), "--write")
    assert result.exit_code == 0, result.output
    entry = read_proofs(toy)[0]
    assert entry.tokenizer == small_tokenizer_folder.name  # not the path of its folder
    assert str(small_tokenizer_folder.parent) not in proofs_path(toy).read_text()


def test_a_set_that_is_no_file_cannot_be_written(toy: Path) -> None:
    markers: MarkerSet = replace(load_file(toy), origin="missing.yaml")
    with pytest.raises(rolemask.FileReadError):
        write_verified(markers, verify(markers, template=CHATML), "1")

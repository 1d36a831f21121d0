"""The pickle of a masker: small, the same bytes wherever it is made, and a copy that has nothing left to build."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from real import tokenizer_folder
from strategies import Case, cases

import rolemask
from rolemask.masking.automaton import automaton_of
from rolemask.masking.reference import mask

CHAT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>\n"


@pytest.fixture
def tokenizer(small_tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_tokenizer_folder)


def test_calls_leave_the_bytes_as_they_are(tokenizer: Any) -> None:
    masker = rolemask.load("chatml").compile(tokenizer)
    before = pickle.dumps(masker)
    ids = tokenizer.encode(CHAT)
    masker(ids)
    masker([0])  # warns that nothing is trained
    masker.weights(np.array([ids]), role_weights={"user": 0.5})
    masker.explain(ids)
    masker.map_batch({"input_ids": [ids], "labels": [[-100] * len(ids)]})
    assert pickle.dumps(masker) == before
    assert pickle.dumps(pickle.loads(before)) == before
    assert pickle.dumps(rolemask.load("chatml").compile(tokenizer)) == before


def test_datasets_name_their_caches_alike(tokenizer: Any) -> None:
    fingerprint = pytest.importorskip("datasets.fingerprint")
    masker = rolemask.load("chatml").compile(tokenizer)
    before = fingerprint.Hasher.hash(masker)
    masker(tokenizer.encode(CHAT))
    assert fingerprint.Hasher.hash(masker) == before
    assert fingerprint.Hasher.hash(rolemask.load("chatml").compile(tokenizer, train_on_eos="none")) != before


def test_other_processes_write_the_same_bytes(small_tokenizer_folder: Path) -> None:
    program = (
        "import hashlib, pickle, sys, rolemask, transformers\n"
        "masker = rolemask.load('chatml').compile(transformers.AutoTokenizer.from_pretrained(sys.argv[1]))\n"
        "print(hashlib.sha256(pickle.dumps(masker)).hexdigest())"
    )
    hashes = [
        subprocess.run(
            [sys.executable, "-c", program, str(small_tokenizer_folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert hashes[0] == hashes[1] != ""


def test_another_version_writes_other_bytes(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    masker = rolemask.load("chatml").compile(tokenizer)
    before = pickle.dumps(masker)
    monkeypatch.setattr(rolemask, "__version__", "99.0")
    assert pickle.dumps(masker) != before


def test_a_copy_has_nothing_left_to_build(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    masker = rolemask.load("chatml").compile(tokenizer)
    ids = tokenizer.encode(CHAT)
    rows = np.array([ids])
    labels, roles, explained = masker(ids), masker.role_ids(rows).tolist(), masker.explain(ids)
    written = pickle.dumps(masker)

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("rolemask.masking.automaton.build_automaton", refuse)
    monkeypatch.setattr("rolemask.matching.compiler.build_trie", refuse)
    monkeypatch.setattr("rolemask.matching.pieces.PieceIndex.__init__", refuse)
    copy = pickle.loads(written)
    assert copy(ids) == labels
    assert copy.role_ids(rows).tolist() == roles
    assert copy.explain(ids) == explained


@pytest.mark.parametrize(("markers", "tokenizer"), [("qwen3", "qwen3"), ("gemma3", "gemma3"), ("llama3", "llama3_1"), ("vicuna", "qwen3")])
def test_it_is_hardly_larger_than_the_vocabulary(markers: str, tokenizer: str) -> None:
    from transformers import AutoTokenizer

    masker = rolemask.load(markers).compile(AutoTokenizer.from_pretrained(tokenizer_folder(tokenizer)), self_check="off")
    pieces = masker.rules.vocabulary.pieces
    assert len(pickle.dumps(masker)) <= 1.2 * sum(1 + len(piece) for piece in pieces.values())


@settings(max_examples=200, deadline=None)
@given(cases())
def test_copies_label_like_the_original(case: Case) -> None:
    rules, automaton = pickle.loads(pickle.dumps((case.rules, automaton_of(case.rules))))
    assert (rules, automaton) == (case.rules, automaton_of(case.rules))
    for row in case.rows:
        assert mask(row, rules, case.policy) == mask(row, case.rules, case.policy)

"""The masker: every kind of input, in its own kind back; options, logs, errors."""

import inspect
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import VOCABULARY, Case, cases

import rolemask
from rolemask import EmptyRowError, InputError, MarkerSet, PolicyError, TokenIds, TokenizerMismatchError, UnsupportedTokenizerError
from rolemask.markers.spec import Marker

MARKERS = MarkerSet(
    "toy", "Toy", (Marker("user", (TokenIds((1,)),), (TokenIds((9,)),)), Marker("assistant", (TokenIds((2,)),), (TokenIds((9,)),)))
)
ROW = [1, 50, 9, 2, 60, 9]
LABELS = [-100, -100, -100, -100, 60, 9]


@pytest.fixture
def masker() -> rolemask.Masker:
    return MARKERS.compile()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_come_back_as_arrays(masker: rolemask.Masker, dtype: Any) -> None:
    for ids, expected in ((np.array(ROW, dtype), LABELS), (np.array([ROW, ROW], dtype), [LABELS, LABELS])):
        labels = masker(ids)
        assert isinstance(labels, np.ndarray)
        assert (labels.dtype, labels.shape, labels.tolist()) == (dtype, ids.shape, expected)
        assert masker.role_ids(ids).dtype == np.int8


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_tensors_come_back_as_tensors(masker: rolemask.Masker, dtype: torch.dtype) -> None:
    for ids, expected in ((torch.tensor(ROW, dtype=dtype), LABELS), (torch.tensor([ROW, ROW], dtype=dtype), [LABELS, LABELS])):
        labels = masker(ids)
        assert isinstance(labels, torch.Tensor)
        assert (labels.dtype, labels.shape, labels.device, labels.tolist()) == (dtype, ids.shape, ids.device, expected)
        assert ids.tolist() in (ROW, [ROW, ROW])
        assert masker.role_ids(ids).dtype == torch.int8


def test_lists_come_back_as_lists_of_any_lengths(masker: rolemask.Masker) -> None:
    assert masker(ROW) == LABELS
    assert masker([ROW, [], ROW[3:]]) == [LABELS, [], LABELS[3:]]
    assert masker(tuple(ROW)) == LABELS
    assert masker.role_ids([ROW]) == [[0, 0, 0, 1, 1, 1]]


def test_strides_and_empty_rows(masker: rolemask.Masker) -> None:
    ids = torch.tensor([ROW, ROW]).T.contiguous().T
    assert not ids.is_contiguous()
    assert masker(ids).tolist() == [LABELS, LABELS]
    assert masker(np.array([ROW])[:, ::-1][:, ::-1]).tolist() == [LABELS]
    assert masker(torch.zeros((0, 7), dtype=torch.int64)).shape == (0, 7)
    assert masker(torch.zeros((3, 0), dtype=torch.int64)).shape == (3, 0)
    assert masker(torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert masker([]) == []


@settings(max_examples=150, deadline=None)
@given(cases())
def test_all_kinds_agree(case: Case) -> None:
    masker = case.markers.compile(VOCABULARY, on_empty="ignore", **case.policy_options)
    as_lists = masker(case.rows, case.attention)
    tensor = torch.tensor(case.rows, dtype=torch.int64).reshape(len(case.rows), -1)
    attention = None if case.attention is None else torch.tensor(case.attention).reshape(tensor.shape)
    assert masker(tensor, attention).tolist() == as_lists
    assert masker(tensor.to(torch.int32), attention).tolist() == as_lists
    assert masker.role_ids(tensor, attention).tolist() == masker.role_ids(case.rows, case.attention)
    reports = masker.report(tensor, attention)
    assert [report.trained for report in reports] == [sum(label != -100 for label in row) for row in as_lists]
    for row, explanation in zip(case.rows, masker.explain(case.rows, case.attention), strict=True):
        assert explanation.tokens == len(row)
    assert [explanation.trained for explanation in masker.explain(case.rows, case.attention)] == [report.trained for report in reports]


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_operations_for_a_device_agree_through_the_masker(case: Case) -> None:
    host = case.markers.compile(VOCABULARY, on_empty="ignore", backend="host", **case.policy_options)
    device = case.markers.compile(VOCABULARY, on_empty="ignore", backend="device", **case.policy_options)
    ids = torch.tensor(case.rows, dtype=torch.int64).reshape(len(case.rows), -1)
    attention = None if case.attention is None else torch.tensor(case.attention).reshape(ids.shape)
    length = ids.shape[1]
    weights = dict.fromkeys(case.policy_options["roles_to_train"], 0.5)
    for rows in (
        {},
        {"position_ids": torch.arange(length).repeat(len(ids), 1) % 7},
        {"seq_lens": [[length // 2, length - length // 2]] * len(ids)},
    ):
        for ask in ("__call__", "role_ids"):
            assert getattr(device, ask)(ids, attention, **rows).tolist() == getattr(host, ask)(ids, attention, **rows).tolist()
        assert (
            device.weights(ids, attention, role_weights=weights, **rows).tolist()
            == host.weights(ids, attention, role_weights=weights, **rows).tolist()
        )
        labels = [masker.mask_(ids.clone(), ids, attention, **rows).tolist() for masker in (host, device)]
        assert labels[0] == labels[1]
    if length:
        assert device(ids[0], cu_seqlens=torch.tensor([0, length])).tolist() == host(ids[0]).tolist()


def test_a_device_waits_for_empty_rows_only_when_told_to() -> None:
    ids = torch.tensor([ROW, [7] * 6])
    assert MARKERS.compile(backend="device")(ids)[1].tolist() == [-100] * 6
    with pytest.raises(EmptyRowError, match=r"row 1 .* trains nothing: no start marker"):
        MARKERS.compile(backend="device", on_empty="error")(ids)
    with pytest.raises(InputError, match=r"dtype torch\.float32"):
        MARKERS.compile(backend="device")(ids.float())
    with pytest.raises(InputError, match="attention_mask has the shape"):
        MARKERS.compile(backend="device")(ids, torch.ones(2, 1, 6, 6))
    with pytest.raises(InputError, match="seq_lens has 1 rows, but input_ids has 2"):
        MARKERS.compile(backend="device")(ids, seq_lens=[[3, 3]])


def test_without_numba_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "rolemask.masking.kernels.numba_kernel", raising=False)
    masker = MARKERS.compile()
    assert masker(np.array([ROW])).tolist() == [LABELS]
    assert type(masker._paths.array_path).__name__ == "NumpyKernel"


def test_mask_in_place_keeps_what_is_masked(masker: rolemask.Masker) -> None:
    for ids in (torch.tensor([ROW]), np.array([ROW])):
        labels = ids.clone() if isinstance(ids, torch.Tensor) else ids.copy()
        labels[0, 4] = -100
        assert masker.mask_(labels, ids) is labels
        assert labels.tolist() == [[-100, -100, -100, -100, -100, 9]]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_lists_are_masked_in_place(masker: rolemask.Masker, make: Any) -> None:
    labels = [[*ROW], [*ROW[:4], -100, 9]]
    assert masker.mask_(labels, make([ROW, ROW])) is labels
    assert labels == [LABELS, [-100, -100, -100, -100, -100, 9]]
    row = [*ROW]
    assert masker.mask_(row, make(ROW)) is row
    assert row == LABELS
    ragged = [[*ROW], []]
    assert masker.mask_(ragged, [ROW, []]) == [LABELS, []]


@pytest.mark.parametrize(
    ("ids", "attention", "message"),
    [
        ({"input_ids": [1]}, None, r"a dict, expected a tensor.*pass batch\[\"input_ids\"\]"),
        ("text", None, "a str, expected a tensor"),
        (5, None, "a int, expected"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), None, r"shape \(2, 3, 4\), expected \(batch, tokens\)"),
        (torch.zeros(2, 3), None, "dtype torch.float32, expected int32 or int64"),
        (np.zeros((2, 3), np.uint8), None, "dtype uint8, expected int32 or int64"),
        (torch.zeros(2, 3, dtype=torch.bool), None, "dtype torch.bool"),
        ([[1, 2], 3], None, "row 1 of input_ids is 3, expected a list"),
        ([1, 2.5], None, "token 1 of row 0 of input_ids is 2.5, a float"),
        ([[1], [True]], None, "token 0 of row 1 of input_ids is True"),
        ([[1], ["a"]], None, "token 0 of row 1 of input_ids is 'a'"),
        ([torch.tensor([1.0])], None, "dtype torch.float32, expected int32 or int64"),
        ([torch.tensor([[1]])], None, r"row 0 of input_ids has the shape \(1, 1\), expected \(tokens,\)"),
        (torch.tensor([ROW]), torch.ones(1, 1, 6, 6), "not the 4-D one"),
        (torch.tensor([ROW]), torch.ones(1, 5), r"shape \(1, 5\), expected that of input_ids, \(1, 6\)"),
        ([ROW], [[1]], r"rows of lengths \[1\], expected those of input_ids, \[6\]"),
    ],
)
def test_wrong_input_is_told(masker: rolemask.Masker, ids: Any, attention: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        masker(ids, attention)


def test_wrong_labels_are_told(masker: rolemask.Masker) -> None:
    with pytest.raises(InputError, match="labels has the shape"):
        masker.mask_(torch.zeros(1, 5), torch.tensor([ROW]))
    with pytest.raises(InputError, match="labels is a tuple; only a tensor, an array or a list"):
        masker.mask_((1, 2), ROW)  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"labels has rows of lengths \[5\], expected those of input_ids, \[6\]"):
        masker.mask_([ROW[:5]], [ROW])
    with pytest.raises(InputError, match=r"labels has rows of lengths \[6\], expected those of input_ids, \[6, 6\]"):
        masker.mask_([[*ROW]], torch.tensor([ROW, ROW]))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"roles_to_train": ["asistant"]}, "the role 'asistant'; this marker set has user, assistant. did you mean 'assistant'?"),
        ({"roles_to_train": "assistant"}, "is the text 'assistant', expected a list"),
        ({"roles_to_mask": ["usr"]}, "roles_to_mask names the role 'usr'; this marker set has user, assistant. did you mean 'user'?"),
        ({"roles_to_mask": "user"}, "roles_to_mask is the text 'user', expected a list: ['user']"),
        ({"roles_to_mask": ["assistant"]}, "roles_to_train and roles_to_mask both name the role 'assistant'"),
        (
            {"roles_to_train": ["user"], "roles_to_mask": ["assistant", "user"]},
            "roles_to_train and roles_to_mask both name the role 'user'",
        ),
        ({"train_on_eos": "trun"}, "train_on_eos is 'trun', expected one of 'turn', 'all', 'last', 'none'. did you mean 'turn'?"),
        ({"turns": "first"}, "turns is 'first'"),
        ({"on_empty": "explode"}, "on_empty is 'explode'"),
    ],
)
def test_wrong_policies_are_told(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        MARKERS.compile(**policy)
    assert message in str(caught.value)


def test_the_policy_is_logged_once_when_a_masker_is_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rolemask"):
        MARKERS.compile(train_on_eos="last")
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "train_on_eos=last" in message
    assert "assistant: '{ids: [2]}' ... '{ids: [9]}'" in message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([7, 7], "no start marker of 'toy' was found in 2 tokens. Was the chat rendered with another template?"),
        ([1, 50, 9], "turns found: 1 user; none of assistant."),
        ([1, 50, 9, 2], "every turn of assistant is cut off before its first word. Truncated?"),
        ([2, -1, -1], "all tokens of the trained turns are media"),
        ([], "the row has no tokens"),
    ],
)
def test_an_empty_row_is_warned_about_once_with_the_reason(row: list[int], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    masker = MARKERS.compile()
    assert masker.report(row).why_empty is not None
    masker([ROW, row])
    masker([row])
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "row 1 (of 0..1) trains nothing" in warnings[0]
    assert reason in warnings[0]
    pickle.loads(pickle.dumps(masker))([row])
    MARKERS.compile()([row])
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3  # a copy and another masker of the same set warn for themselves
    with pytest.raises(EmptyRowError, match="trains nothing"):
        MARKERS.compile(on_empty="error")([row, ROW])
    assert MARKERS.compile(on_empty="ignore")([row])[0] == [-100] * len(row)


def test_training_no_role_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    MARKERS.compile(roles_to_train=[])(ROW)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_map_batch_adds_labels_and_the_masker_pickles(masker: rolemask.Masker) -> None:
    copy = pickle.loads(pickle.dumps(masker))
    assert copy.map_batch({"input_ids": [ROW, ROW[3:]], "text": ["a", "b"]}) == {"labels": [LABELS, LABELS[3:]]}
    with pytest.raises(InputError, match="no 'input_ids', only text"):
        masker.map_batch({"text": ["a"]})


def test_map_batch_works_in_the_worker_processes_of_datasets() -> None:
    from datasets import Dataset

    dataset = Dataset.from_dict({"input_ids": [ROW, ROW[3:]], "attention_mask": [[1] * 6, [1] * 3]})
    assert dataset.map(MARKERS.compile().map_batch, batched=True, num_proc=2)["labels"][:] == [LABELS, LABELS[3:]]


def test_markers_given_as_ids_need_no_tokenizer_and_texts_do(masker: rolemask.Masker) -> None:
    assert masker.role_names == ("user", "assistant")
    with pytest.raises(TokenizerMismatchError, match=r"^compile\(\) needs a tokenizer: the markers of 'chatml' are text$"):
        rolemask.load("chatml").compile()


def test_rules_are_compiled_once_per_set_and_tokenizer() -> None:
    from real import byte_level

    tokenizer = byte_level("qwen3", ("<|cache_test|>",), eos_token="<|im_end|>")
    chatml, qwen = rolemask.load("chatml"), rolemask.load("qwen3")
    first = chatml.compile(tokenizer)
    assert chatml.compile(tokenizer, train_on_eos="none").rules is first.rules
    assert rolemask.load("chatml").compile(tokenizer).rules is first.rules
    assert qwen.compile(tokenizer).rules is not first.rules
    tokenizer.pad_token = "<|cache_test|>"  # another padding token: compiled anew
    assert chatml.compile(tokenizer).rules.pad_id != first.rules.pad_id


def test_a_wrong_tokenizer_is_told_with_the_nearest_set() -> None:
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    with pytest.raises(TokenizerMismatchError) as caught:
        rolemask.load("gemma3").compile(ToyTokenizer(rolemask.load("chatml")))
    message = str(caught.value)
    for part in (
        "gemma3.yaml",
        "'<start_of_turn>'",
        "the toy tokenizer of 'chatml'",
        "Wrong tokenizer?",
        "nearest to this tokenizer is",
    ):
        assert part in message


@pytest.mark.parametrize("thing", [object(), 5, {"a": 1}, "qwen3"])
def test_what_is_no_tokenizer_is_told(thing: Any) -> None:
    with pytest.raises(UnsupportedTokenizerError, match="cannot read the vocabulary of"):
        MARKERS.compile(thing)


def test_a_missing_eos_token_is_told() -> None:
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": "A:", "end": "eos_token"}])
    from rolemask.matching.vocabulary import Vocabulary

    with pytest.raises(TokenizerMismatchError, match=r"ends at `eos_token`, and toy has no EOS token"):
        markers.compile(Vocabulary("toy", {id_: bytes([id_]) for id_ in range(256)}, {}))


def test_the_special_tokens_that_a_wrong_tokenizer_lacks_are_in_the_error() -> None:
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    with pytest.raises(TokenizerMismatchError) as caught:
        rolemask.load("gemma3").compile(ToyTokenizer(rolemask.load("chatml")))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.missing == caught.value.missing == ("<start_of_turn>", "<end_of_turn>")
    assert str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MARKERS.compile(role_to_train=["user"]), "MarkerSet.compile() has no keyword 'role_to_train': did you mean 'roles_to_train'?"),
        (lambda: rolemask.Masker(MARKERS, on_emty="warn"), "Masker() has no keyword 'on_emty': did you mean 'on_empty'?"),
        (lambda: MARKERS.compile()(ROW, attn_mask=ROW), "Masker.__call__() has no keyword 'attn_mask': did you mean 'attention_mask'?"),
        (lambda: MARKERS.compile().report(ROW, positions=ROW), "Masker.report() has no keyword 'positions': did you mean 'position_ids'?"),
        (lambda: MARKERS.compile().weights(ROW, xyz=1), "Masker.weights() has no keyword 'xyz': it has input_ids, attention_mask, role_weights"),
        (lambda: MARKERS.compile().mask_(ROW, ROW, seqlens=1), "Masker.mask_() has no keyword 'seqlens': did you mean '"),
    ],
)  # fmt: skip
def test_a_misspelt_keyword_is_answered_with_the_nearest(call: Any, message: str) -> None:
    with pytest.raises(rolemask.ArgumentError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("ask", ["__call__", "mask_", "role_ids", "weights", "explain", "report"])
def test_the_attention_mask_follows_the_ids_everywhere(ask: str) -> None:
    parameters = list(inspect.signature(getattr(rolemask.Masker, ask)).parameters.values())
    at = [parameter.name for parameter in parameters].index("input_ids")
    assert parameters[at + 1].name == "attention_mask"
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters[at + 2 :])


def test_the_options_of_compile_are_those_of_the_masker() -> None:
    compile_, masker = (inspect.signature(function).parameters for function in (MarkerSet.compile, rolemask.Masker.__init__))
    assert [*compile_.items()][1:] == [*masker.items()][2:]


def test_representations_are_short_and_say_what_matters() -> None:
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    markers = rolemask.load("gemma4")
    masker = markers.compile(ToyTokenizer(markers), train_on_eos="last", on_empty="ignore")
    assert repr(MARKERS) == "<MarkerSet 'toy': roles user, assistant; 2 markers, 0 media tokens>"
    for name in rolemask.available():
        assert len(repr(rolemask.load(name))) < 300
    for part in (
        "gemma4",
        "the toy tokenizer of 'gemma4'",
        "roles_to_train=[assistant]",
        "train_on_eos=last",
        "on_empty=ignore",
        "roles system, ",
    ):
        assert part in repr(masker)
    assert len(repr(masker)) < 400


def test_the_report_counts(masker: rolemask.Masker) -> None:
    report = masker.report([1, 50, 9, 2, 60, 9, 2, 61])
    assert (report.tokens, report.trained, report.turns, report.unterminated) == (8, 3, {"user": 1, "assistant": 2}, 1)
    assert report.role_tokens == {"user": 3, "assistant": 5}
    assert str(report) == "3 of 8 tokens trained; turns: 1 user, 2 assistant; unterminated turns: 1"
    assert [type(one).__name__ for one in masker.report([ROW, ROW])] == ["RowReport", "RowReport"]


def test_unknown_roles_are_counted_and_not_trained() -> None:
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    markers = rolemask.load("chatml")
    tokenizer = ToyTokenizer(markers)
    ids = tokenizer.encode("<|im_start|>assistant\nA<|im_end|><|im_start|>observer\nB<|im_end|>")
    report = markers.compile(tokenizer).report(ids)
    assert (report.unknown_roles, report.turns) == (1, {"assistant": 1, "other": 1})
    assert "turns of unknown roles: 1" in str(report)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: tensors on one were not tested")
def test_cuda_tensors_come_back_on_their_device(masker: rolemask.Masker) -> None:
    ids = torch.tensor([ROW], device="cuda")
    assert masker(ids).device == ids.device
    assert masker(ids).tolist() == [LABELS]


def test_a_pad_token_that_was_set_after_compile_is_an_error(small_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer_folder)
    masker = rolemask.load("chatml").compile(tokenizer)
    ids = tokenizer.encode("<|im_start|>assistant\nHello<|im_end|>")
    labels = masker(ids)
    tokenizer.pad_token = "<|im_start|>"
    with pytest.raises(InputError, match=r"the pad token of .* is id \d+ now, and was \d+ when 'chatml' was compiled: compile again"):
        masker(ids)
    assert masker(ids, [1] * len(ids)) == labels  # an attention mask says what is padding
    assert pickle.loads(pickle.dumps(masker))(ids) == labels
    assert rolemask.load("chatml").compile(tokenizer, self_check="off")(ids) == labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.bool_])
def test_labels_that_cannot_hold_the_ignored_label_are_refused(dtype: Any) -> None:
    masker = MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}}]).compile()
    with pytest.raises(InputError, match=r"labels has the dtype .*, which cannot hold -100"):
        masker.mask_(np.array([1, 2, 3], dtype=dtype), np.array([1, 2, 3]))
    with pytest.raises(InputError, match=r"labels has the dtype torch\.uint8, which cannot hold -100"):
        masker.mask_(torch.tensor([1, 2, 3], dtype=torch.uint8), torch.tensor([1, 2, 3]))

"""Maskers in code that `torch.compile` compiles."""

import pickle
from typing import Any

import pytest
import torch

import rolemask
from rolemask import MarkerSet
from rolemask.masking.kernels import torch_kernel

MARKERS = MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
IDS = torch.tensor([[2, 60, 9, 7]])
LABELS = [[-100, 60, 9, -100]]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every time that tables are built, one more item."""
    torch._dynamo.reset()
    times: list[Any] = []
    build = torch_kernel._build_tables
    monkeypatch.setattr(torch_kernel, "_build_tables", lambda *given: (times.append(given), build(*given))[1])
    return times


def graph_of(masker: rolemask.Masker) -> Any:
    return torch.compile(lambda ids: masker(ids), fullgraph=True, backend="eager")


@pytest.mark.parametrize("by_pickle", [False, True])
def test_the_tables_of_a_device_masker_are_there_before_its_first_call(built: list[Any], by_pickle: bool) -> None:
    masker = MARKERS.compile(backend="device")
    if by_pickle:
        masker = pickle.loads(pickle.dumps(masker))
    before = len(built)
    assert before == 1 + by_pickle
    assert graph_of(masker)(IDS).tolist() == LABELS
    assert len(built) == before


def test_an_auto_masker_says_that_it_has_no_tables_yet(built: list[Any]) -> None:
    masker = MARKERS.compile(on_empty="ignore")
    ids = IDS.to("meta")  # a device that every machine has
    with pytest.raises(Exception, match=r"no tables yet.*make this call once without torch\.compile.*backend=\\?\"device\\?\""):
        graph_of(masker)(ids)
    assert built == []
    masker(ids)
    torch._dynamo.reset()
    assert graph_of(masker)(ids).shape == IDS.shape
    assert len(built) == 1


def test_without_fullgraph_the_tables_are_built_beside_the_compiled_code(built: list[Any]) -> None:
    masker = MARKERS.compile(on_empty="ignore")
    compiled = torch.compile(lambda ids: masker(ids + 0) * 2, backend="eager")
    assert compiled(IDS.to("meta")).shape == compiled(IDS.to("meta")).shape == IDS.shape
    assert len(built) == 1


def test_the_weights_of_other_roles_need_tables_of_their_own(built: list[Any]) -> None:
    masker = MARKERS.compile(backend="device")
    weigh = torch.compile(lambda ids: masker.weights(ids, role_weights={"assistant": 0.5}), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="no tables yet"):
        weigh(IDS)
    assert masker.weights(IDS, role_weights={"assistant": 0.5}).tolist() == [[0.0, 0.5, 0.5, 0.0]]
    torch._dynamo.reset()
    assert weigh(IDS).tolist() == [[0.0, 0.5, 0.5, 0.0]]


def test_on_the_cpu_an_auto_masker_says_what_can_be_traced(built: list[Any]) -> None:
    with pytest.raises(Exception, match=r"torch\.compile cannot trace what masks tensors on the CPU.*backend=\\?\"device\\?\""):
        graph_of(MARKERS.compile())(IDS)

"""The torch kernel against the definition, bit for bit, on the CPU; and its operations do not depend on the contents of the tensors."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rolemask.markers.spec import EndWord, Marker, MarkerSet, TokenIds
from rolemask.masking.kernels import torch_kernel
from rolemask.masking.kernels.torch_kernel import TorchKernel
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import compile_rules

POLICIES: list[dict[str, Any]] = [
    {},
    {"turns": "last"},
    {"turns": "last", "train_on_eos": "all", "roles_to_train": ["user", "tool"]},
    {"turns": "last_round", "train_on_eos": "last", "roles_to_mask": ["reasoning"]},
    {"train_on_eos": "last"},
    {"train_on_eos": "none", "roles_to_train": []},
    {"train_on_inputs": True},
]
# In one set: headers and end markers of several tokens, an end marker that starts the next turn, a header of any length, a span.
MARKERS = MarkerSet(
    "ids",
    "Markers given as ids",
    (
        Marker("user", (TokenIds((1,)),), (TokenIds((9, 8)), TokenIds((9, 9, 8))), include_end=False, header_end=(TokenIds((5,)),)),
        Marker("assistant", (TokenIds((2, 4)),), (TokenIds((9,)), TokenIds((9, 7))), rewind=False),
        Marker("tool", (TokenIds((3,)), TokenIds((8, 8))), (EndWord.NEXT_START,), rewind=True),
        Marker("reasoning", (TokenIds((6,)),), (TokenIds((7,)),), within="assistant", follows_turn=True),
    ),
)


def torch_kernel_of(**policy: Any) -> TorchKernel:
    return TorchKernel(compile_rules(MARKERS, None), make_policy(MARKERS.roles, **policy))


def random_batch(shape: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention and starts."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, 11, shape, generator=generator)
    attention = torch.randint(0, 10, shape, generator=generator).clamp(max=1)
    return ids, attention, torch.randint(0, 50, shape, generator=generator) == 0


def ways_to_call(kernel: TorchKernel) -> list[Callable[[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], Any]]:
    return [
        lambda batch: kernel.mask(batch[0]),
        lambda batch: kernel.mask(batch[0], batch[1]),
        lambda batch: kernel.mask(batch[0], batch[1], starts=batch[2]),
    ]


@settings(max_examples=600, deadline=None)
@given(
    cases(), st.sampled_from([torch.int32, torch.int64]), st.sampled_from([1, torch_kernel.FEW]), st.sampled_from([torch.bool, torch.int64])
)
def test_tensors_agree_with_the_definition(case: Case, dtype: torch.dtype, few: int, attention_dtype: torch.dtype) -> None:
    attention = None if case.attention is None else torch.tensor(case.attention, dtype=attention_dtype)
    starts = None if case.starts is None else torch.tensor(case.starts, dtype=torch.bool)
    with patch.object(torch_kernel, "FEW", few):  # so that short rows too are composed in both ways
        labels, roles = TorchKernel(case.rules, case.policy).mask(torch.tensor(case.rows, dtype=dtype), attention, starts=starts)
    assert (labels.dtype, roles.dtype) == (dtype, torch.int8)
    for index, row in enumerate(case.rows):
        expected = mask(row, case.rules, case.policy, case.attention and case.attention[index], starts=case.starts and case.starts[index])
        assert labels[index].tolist() == expected.labels
        assert roles[index].tolist() == expected.roles


@pytest.mark.parametrize("shape", [(1, 20_011), (3, 9_000)])
@pytest.mark.parametrize("policy", POLICIES)
def test_long_rows_agree_with_the_definition(shape: tuple[int, int], policy: dict[str, Any]) -> None:
    kernel = torch_kernel_of(**policy)
    ids, attention, starts = random_batch(shape)
    labels, roles = kernel.mask(ids, attention, starts=starts)
    for index in range(shape[0]):
        row, seen, borders = ids[index].tolist(), attention[index].tolist(), starts[index].tolist()
        expected = mask(row, kernel.rules, kernel.policy, seen, starts=borders)
        assert labels[index].tolist() == expected.labels
        assert roles[index].tolist() == expected.roles


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_a_batch_without_tokens(shape: tuple[int, int]) -> None:
    ids = torch.zeros(shape, dtype=torch.int32)
    labels, roles = torch_kernel_of().mask(ids, torch.ones(shape), starts=torch.zeros(shape, dtype=torch.bool))
    assert (labels.shape, labels.dtype, roles.shape, roles.dtype) == (shape, torch.int32, shape, torch.int8)


def test_ids_in_no_marker_are_content() -> None:
    kernel = torch_kernel_of()
    for id_ in (11, 2**31 - 1, 2**62):
        assert kernel.mask(torch.tensor([[2, 4, id_, 9]]))[0].tolist() == [[-100, -100, id_, 9]]
    assert kernel.mask(torch.tensor([[2, 4, -(2**62), 9]]))[0].tolist() == [[-100, -100, -100, 9]]


@pytest.mark.parametrize("strided", [lambda ids: ids.T.contiguous().T, lambda ids: ids[:, :1].expand(-1, 7), lambda ids: ids[:, ::2]])
def test_any_strides(strided: Callable[[torch.Tensor], torch.Tensor]) -> None:
    kernel, ids = torch_kernel_of(train_on_inputs=True), strided(random_batch((4, 60))[0])
    labels, roles = kernel.mask(ids)
    expected = [mask(row, kernel.rules, kernel.policy) for row in ids.tolist()]
    assert (labels.tolist(), roles.tolist()) == ([row.labels for row in expected], [row.roles for row in expected])


@pytest.mark.parametrize("policy", POLICIES)
def test_compiles_as_one_graph(policy: dict[str, Any]) -> None:
    torch._dynamo.reset()
    kernel = torch_kernel_of(**policy)
    for call in ways_to_call(kernel):
        compiled = torch.compile(call, fullgraph=True, backend="eager")
        for shape in ((2, 50), (3, 77), (1, 3000)):  # from the second shape on, dynamo makes the sizes symbolic
            batch = random_batch(shape)
            for found, expected in zip(compiled(batch), call(batch), strict=True):
                assert torch.equal(found, expected)


class Labels(torch.nn.Module):
    """A module as a caller would write it to export the masking with a model."""

    def __init__(self, kernel: TorchKernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, ids: torch.Tensor, attention: torch.Tensor | None = None, starts: torch.Tensor | None = None) -> Any:
        return self.kernel.mask(ids, attention, starts=starts)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("given", [1, 2, 3])
def test_can_be_exported(policy: dict[str, Any], given: int) -> None:
    module = Labels(torch_kernel_of(**policy))
    exported = torch.export.export(module, random_batch((2, 3000))[:given]).module()
    for seed in (0, 1):  # the batch that was traced, and another
        batch = random_batch((2, 3000), seed)[:given]
        for found, expected in zip(exported(*batch), module(*batch), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_read_from_the_tensors(policy: dict[str, Any]) -> None:
    kernel = torch_kernel_of(**policy)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # tensors without contents, which raise when these are read
        batch = tuple(fake.from_tensor(tensor) for tensor in random_batch((2, 5000)))
        for call in ways_to_call(kernel):
            labels, roles = call(batch)
            assert (labels.shape, labels.dtype, roles.shape, roles.dtype) == ((2, 5000), torch.int64, (2, 5000), torch.int8)


class Operations(TorchDispatchMode):
    """Lists the operations that are not views, with the shapes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.calls.append((str(func), result.shape))
        return result


@pytest.mark.parametrize("policy", POLICIES)
def test_the_operations_do_not_depend_on_the_contents(policy: dict[str, Any]) -> None:
    kernel = torch_kernel_of(**policy)
    for call in ways_to_call(kernel):
        calls = []
        blank = torch.zeros(2, 300, dtype=torch.int64)
        for batch in (random_batch((2, 300)), random_batch((2, 300), seed=1), (blank, blank, blank.bool())):
            with Operations() as operations:
                call(batch)
            calls.append(operations.calls)
        assert calls[0] == calls[1] == calls[2]


def test_twice_the_tokens_take_hardly_more_operations() -> None:
    kernel, counts = torch_kernel_of(), []
    for size in (8192, 16384, 32768, 65536):
        with Operations() as operations:
            kernel.mask(torch.zeros(1, size, dtype=torch.int64))
        counts.append(len(operations.calls))
    assert counts[0] <= 60
    assert all(more - fewer <= 3 for fewer, more in pairwise(counts))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: synchronisation and CUDA graphs are not tested")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_host_never_waits_for_cuda(policy: dict[str, Any]) -> None:
    kernel = torch_kernel_of(**policy)
    batch = random_batch((4, 5000))
    on_cuda = tuple(tensor.cuda() for tensor in batch)
    for call in ways_to_call(kernel):
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = call(on_cuda)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call(on_cuda)
        graph.replay()
        for eager, replayed, expected in zip(found, captured, call(batch), strict=True):
            assert torch.equal(eager.cpu(), expected)
            assert torch.equal(replayed.cpu(), expected)

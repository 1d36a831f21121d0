"""The array kernels against the definition, bit for bit."""

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.kernels import numpy_walk
from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.masking.labelled import Labelled
from rolemask.masking.reference import mask, may_be_trained


def flags_for(case: Case, data: st.DataObject) -> list[list[bool]]:
    """One flag per trainable turn, for each row."""
    flags = []
    for index, row in enumerate(case.rows):
        turns = mask(
            row, case.rules, case.policy, case.attention and case.attention[index], starts=case.starts and case.starts[index]
        ).turns
        count = sum(may_be_trained(turn, case.rules, case.policy) for turn in turns)
        flags.append(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return flags


@settings(max_examples=1500, deadline=None)
@given(cases(), st.data())
def test_arrays_agree_with_the_definition(case: Case, data: st.DataObject) -> None:
    lengths = [data.draw(st.just(len(row)) | st.integers(0, len(row))) for row in case.rows]  # rows end to end have any lengths
    case.rows = [row[:length] for row, length in zip(case.rows, lengths, strict=True)]
    case.attention = case.attention and [row[:length] for row, length in zip(case.attention, lengths, strict=True)]
    case.starts = case.starts and [row[:length] for row, length in zip(case.starts, lengths, strict=True)]
    flags = flags_for(case, data) if data.draw(st.booleans()) else None
    if flags is not None and data.draw(st.booleans()):  # the caller finds out, after the call, that flags are missing
        flags = [row[:-1] for row in flags]
    expected = [
        mask(
            row,
            case.rules,
            case.policy,
            case.attention and case.attention[index],
            starts=case.starts and case.starts[index],
            train_turns=flags and flags[index],
        )
        for index, row in enumerate(case.rows)
    ]
    dtype = data.draw(st.sampled_from([np.int32, np.int64]))
    offsets, long_run = np.cumsum([0, *lengths]), data.draw(st.sampled_from([2, 3, numpy_walk._LONG]))
    for kernel in (NumpyKernel(case.rules, case.policy), NumbaKernel(case.rules, case.policy)):
        with patch.object(numpy_walk, "_LONG", long_run):
            found: Labelled = kernel.mask(
                end_to_end(case.rows, dtype),
                offsets,
                None if case.attention is None else end_to_end(case.attention, bool),
                starts=None if case.starts is None else end_to_end(case.starts, bool),
                train_turns=flags,
            )
        assert found.labels.tolist() == [label for row in expected for label in row.labels]
        assert found.roles.tolist() == [role for row in expected for role in row.roles]
        assert found.counts.tolist() == [sum(may_be_trained(turn, case.rules, case.policy) for turn in row.turns) for row in expected]
        assert found.trains.tolist() == [any(label != IGNORE_INDEX for label in row.labels) for row in expected]
        assert (found.labels.dtype, found.roles.dtype) == (np.int64, np.int8)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_labels_are_the_same_without_roles(case: Case) -> None:
    ids, offsets = end_to_end(case.rows, np.int64), np.cumsum([0, *map(len, case.rows)])
    for kernel in (NumpyKernel(case.rules, case.policy), NumbaKernel(case.rules, case.policy)):
        found = kernel.mask(ids, offsets, with_roles=False)
        assert found.labels.tolist() == kernel.mask(ids, offsets).labels.tolist()
        assert found.roles is None


def end_to_end(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.array([value for row in rows for value in row], dtype=dtype)

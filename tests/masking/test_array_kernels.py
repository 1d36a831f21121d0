"""The array kernels against the definition, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases

from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
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
    attention = None if case.attention is None else np.array(case.attention, dtype=bool)
    starts = None if case.starts is None else np.array(case.starts, dtype=bool)
    flags = flags_for(case, data) if data.draw(st.booleans()) else None
    rows = np.array(case.rows, dtype=data.draw(st.sampled_from([np.int32, np.int64])))
    for kernel in (NumpyKernel(case.rules, case.policy), NumbaKernel(case.rules, case.policy)):
        labels, roles, counts = kernel.mask(rows, attention, starts=starts, train_turns=flags)
        assert labels.dtype == rows.dtype
        for index, row in enumerate(case.rows):
            expected = mask(
                row,
                case.rules,
                case.policy,
                case.attention and case.attention[index],
                starts=case.starts and case.starts[index],
                train_turns=flags and flags[index],
            )
            assert labels[index].tolist() == expected.labels
            assert roles[index].tolist() == expected.roles
            assert counts[index] == sum(may_be_trained(turn, case.rules, case.policy) for turn in expected.turns)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_labels_are_the_same_without_roles(case: Case) -> None:
    kernel, rows = NumbaKernel(case.rules, case.policy), np.array(case.rows, dtype=np.int64)
    labels, roles, _ = kernel.mask(rows, with_roles=False)
    assert labels.tolist() == kernel.mask(rows)[0].tolist()
    assert roles.shape == (len(rows), 0)

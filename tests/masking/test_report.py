"""Reports from arrays against reports from the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import Case, cases

from rolemask.masking.batch import ArrayBatch, as_lists, read_batch
from rolemask.masking.kernels.numba_kernel import NumbaKernel
from rolemask.masking.kernels.numpy_kernel import NumpyKernel
from rolemask.masking.reference import mask
from rolemask.masking.report import report_row, report_rows


@pytest.mark.parametrize("kernel_type", [NumbaKernel, NumpyKernel])
@settings(max_examples=700, deadline=None)
@given(case=cases())
def test_reports_of_arrays_agree_with_those_of_the_definition(kernel_type: type, case: Case) -> None:
    batch = read_batch(case.rows, case.attention)
    assert isinstance(batch, ArrayBatch)
    if case.starts is not None:
        batch.starts = np.array([start for row in case.starts for start in row], dtype=bool)
    rows = as_lists(batch)
    expected, turns = [], []
    for index in range(len(case.rows)):
        row = rows.row(index)
        masked = mask(row.ids, case.rules, case.policy, row.attention, starts=row.starts)
        turns.append(masked.turns)
        expected.append(report_row(masked.labels, masked.roles, masked.turns, row.attention, case.rules, case.policy))
    kernel = kernel_type(case.rules, case.policy)
    found = kernel.mask(batch.column.values, batch.column.offsets, batch.attention, starts=batch.starts, with_events=True)
    reports = report_rows(batch, found, turns.__getitem__, case.rules, case.policy)
    assert reports == expected
    assert [list(report.turns) for report in reports] == [list(report.turns) for report in expected]  # the order that `str` shows

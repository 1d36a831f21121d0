"""The scan against a second one, which shares no code with it."""

from hypothesis import given, settings
from second_scan import scan as second_scan
from strategies import Case, cases

from rolemask.masking.turns import scan


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_both_scans_find_the_same_turns(case: Case) -> None:
    for ids in case.rows:
        assert scan(ids, case.rules) == second_scan(ids, case.rules)

"""An explanation says of each token what the definition says of it."""

from hypothesis import given, settings
from strategies import Case, cases

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.explain import explain_row
from rolemask.masking.reference import mask


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_token_is_in_one_segment(case: Case) -> None:
    for index, row in enumerate(case.rows):
        attention = case.attention and case.attention[index]
        masked = mask(row, case.rules, case.policy, attention, starts=case.starts and case.starts[index])
        explanation = explain_row(row, masked, attention, case.rules, case.policy)
        tokens = [(at, segment) for segment in explanation.segments for at in range(segment.start, segment.stop)]
        assert [at for at, _ in tokens] == list(range(len(row)))
        assert [segment.trained for _, segment in tokens] == [label != IGNORE_INDEX for label in masked.labels]
        assert [segment.role for _, segment in tokens] == [case.rules.roles[role] if role >= 0 else None for role in masked.roles]
        assert [segment.text for segment in explanation.segments] == [
            case.rules.vocabulary.text(row[segment.start : segment.stop]) for segment in explanation.segments
        ]

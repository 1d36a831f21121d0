"""The tables of the automaton as arrays, against the automaton."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_steps import read, steps_with
from strategies import Case, cases

from rolemask.masking.automaton import build_automaton
from rolemask.masking.kernels.dense import matcher_steps, steps_and_outputs


@settings(max_examples=200, deadline=None)
@given(cases(), st.data())
def test_they_hold_every_step(case: Case, data: st.DataObject) -> None:
    automaton = build_automaton(case.rules)
    matcher = automaton.matcher
    classes = range(len(matcher.region))
    columns = data.draw(st.none() | st.lists(st.sampled_from(classes), min_size=1))  # some more than once, some not at all
    steps = [[read(matcher, state, class_) for class_ in (classes if columns is None else columns)] for state in range(len(matcher.edges))]
    assert matcher_steps(matcher, columns).tolist() == steps
    step, output = steps_and_outputs(automaton)
    rows = [steps_with(automaton, matches) for matches in range(len(automaton.kind))]
    assert step.tolist() == [list(row) for row, _ in rows]
    assert output.tolist() == [list(row) for _, row in rows]

"""The automaton against the scan: the part of a turn that each token belongs to, and where turns begin and end."""

import gc
import weakref
from itertools import pairwise

from hypothesis import given, settings
from sparse_steps import read, steps_with
from strategies import Case, cases

from rolemask.markers.spec import Marker, MarkerSet, TokenIds
from rolemask.masking.automaton import Automaton, automaton_of, build_automaton
from rolemask.masking.fates import in_unanswered_turn
from rolemask.masking.matcher import STARTS, build_matcher, tries_of
from rolemask.masking.steps import Output
from rolemask.masking.turns import Part, Turn, scan
from rolemask.matching.compiler import compile_rules
from rolemask.matching.vocabulary import Vocabulary


def matches_at_each_token(automaton: Automaton, ids: list[int]) -> list[int]:
    """Read from every position until nothing more can match."""
    matcher, found = automaton.matcher, []
    for at in range(len(ids)):
        state = 0
        for id_ in ids[at : at + matcher.depth]:
            state = read(matcher, state, matcher.token_class.get(id_, 0))
        found.append(matcher.matches_in[state])
    return found


def run(automaton: Automaton, ids: list[int]) -> list[Output]:
    state, outputs = 0, []
    for found in matches_at_each_token(automaton, ids):
        step, output = steps_with(automaton, found)
        outputs.append(automaton.outputs[output[state]])
        state = step[state]
    return outputs


def parts_of_turns(turns: list[Turn], size: int) -> list[tuple[int, int, Part]]:
    """Per token (rule, span, part)."""
    tokens = [(-1, -1, Part.OUTSIDE)] * size
    for turn in turns:
        for at in range(turn.start, turn.end):
            tokens[at] = (turn.rule, -1, Part.HEADER if at < turn.content else Part.CONTENT)
        for span in turn.spans:
            for at in range(span.own, span.stop):
                tokens[at] = (turn.rule, span.rule, Part.SPAN)
    return tokens


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_the_automaton_agrees_with_the_scan(case: Case) -> None:
    automaton = build_automaton(case.rules)
    for ids in case.rows:
        outputs = run(automaton, ids)
        turns = scan(ids, case.rules)
        starts = [at for at, output in enumerate(outputs) if output.starts_turn]
        unanswered = [at for at, after in pairwise(starts) if outputs[after].reopens]
        for at, after in pairwise([*starts, len(ids)]):
            if at in unanswered:
                outputs[at:after] = [in_unanswered_turn(output, case.rules) for output in outputs[at:after]]
        assert [(output.rule, output.span, output.part) for output in outputs] == parts_of_turns(turns, len(ids))
        assert [(at, outputs[at].rule) for at in starts] == [(turn.start, turn.rule) for turn in turns]
        assert [output.opens for output in outputs if output.opens >= 0] == [span.rule for turn in turns for span in turn.spans]
        # A turn that the start of another cuts short has no end marker.
        ended = [turn for turn in turns if turn.terminated and turn.end < len(ids) and case.rules.rules[turn.rule].has_end]
        assert [(at, output.ended, output.end_length) for at, output in enumerate(outputs) if output.ended >= 0] == [
            (turn.end, turn.rule, turn.stop - turn.end) for turn in ended if turn.stop > turn.end and turn.start not in unanswered
        ]


def test_the_length_of_a_match_counts_its_tokens() -> None:
    """One place in the text of a marker can be reached by different numbers of tokens."""
    vocabulary = Vocabulary("toy", {1: b"A", 2: b"S", 3: b"AS", 4: b"K"}, {})
    rules = compile_rules(MarkerSet("toy", "Toy", (Marker("assistant", ("ASK",), ()),)), vocabulary)
    matcher, matches = build_matcher(tries_of(rules).tries)
    for ids in ([1, 2, 4], [3, 4]):
        state = 0
        for id_ in ids:
            state = read(matcher, state, matcher.token_class[id_])
        assert dict(matches[matcher.matches_in[state]])[STARTS] == (0, len(ids))


def test_a_start_that_ends_the_header_too_is_passed_over_as_a_whole() -> None:
    """What says that a turn was none has no length that counts; what ends a header has one."""
    turn = Marker("assistant", (TokenIds((1, 2, 3)),), (), header_end=(TokenIds((1, 2, 3)),), unanswered="assistant")
    rules = compile_rules(MarkerSet("toy", "Toy", (turn, Marker("user", (TokenIds((3,)),), ()))), None)
    automaton, ids = build_automaton(rules), [1, 2, 3, 1, 2, 3, 4]
    assert [(output.rule, output.part) for output in run(automaton, ids)] == [
        (0, part) for _, _, part in parts_of_turns(scan(ids, rules), 7)
    ]


def test_an_automaton_is_built_once_and_lives_as_long_as_its_rules() -> None:
    rules = compile_rules(MarkerSet("toy", "Toy", (Marker("assistant", (TokenIds((2,)),), ()),)), None)
    assert automaton_of(rules) is automaton_of(rules)
    automaton = weakref.ref(automaton_of(rules))
    del rules
    gc.collect()
    assert automaton() is None

"""Each lint, on a file with the mistake it is named for."""

from pathlib import Path

import pytest
from yaml_texts import GOOD

from rolemask.check import check_files
from rolemask.markers.lints import (
    LINTS,
    Lint,
    alias_is_the_name,
    empty_text,
    examples_without_an_eos_token,
    marker_with_contents,
    masks_more_than_it_may,
    misspelt_end_word,
    name_differs_from_file,
    newline_in_single_quotes,
    next_start_without_rewind,
    no_turns,
    question_that_nobody_answers,
    rewind_to_no_turn,
    rewind_without_an_end,
    same_start_twice,
    span_ends_at_next_start,
    span_in_an_unknown_turn,
    span_key_on_a_turn,
    span_starts_like_a_turn,
    start_of_white_space,
    turn_key_on_a_span,
    unanswered_by_an_unknown_turn,
    unused_role_name,
    unused_special_token,
)
from rolemask.markers.parse import read_markers
from rolemask.markers.source import read_source

CASES = [
    (name_differs_from_file, "name: toy", "name: toys", "toy.yaml:1:7: found the name 'toys' in the file toy.yaml (rename one: toys.yaml)"),
    (alias_is_the_name, "name: toy", "name: toy\naliases: [toy]", "toy.yaml:2:10: the alias 'toy' is the name itself"),
    (alias_is_the_name, "name: toy", "name: toy\naliases: [ball, t-oy]", "toy.yaml:2:17: the alias 't-oy' is 'toy' again (remove it: case, `-`, `_` and `.` don't count in names)"),
    (alias_is_the_name, "name: toy", "name: toy\naliases: [toy2.5, toy-25]", "toy.yaml:2:19: the alias 'toy-25' is 'toy2.5' again"),
    (alias_is_the_name, "name: toy", "name: toy\naliases: [ball]\nalso_called: [b.all]", "toy.yaml:3:15: the alias 'b.all' is 'ball' again"),
    (unused_role_name, "{assistant: model}", "{asistant: model}", "toy.yaml:3:14: no marker has the role 'asistant' (did you mean 'assistant'?)"),
    (no_turns, "    end: \"<|e|>\"", "    end: \"<|e|>\"\n    within: assistant", "toy.yaml:5:3: every marker is a span"),
    (newline_in_single_quotes, "    end: \"<|e|>\"", "    end: '<|e|>\\n'", "toy.yaml:7:10: found a backslash and an n in"),
    (empty_text, '"<|s|>{{ role }}\\n"', "\"{{ '' }}\"", "toy.yaml:6:12: the start of 'user' renders to nothing, expected a marker"),
    (marker_with_contents, '"<|s|>{{ role }}\\n"', '"<|s|>{{ role }}\\nQuery1"', "toy.yaml:6:12: found 'Query1', a word of rolemask's own scenarios, in the start of 'user'"),
    (marker_with_contents, '"<|e|>"\n', f'"{"e" * 301}"\n', "toy.yaml:7:10: the end of 'user' has 301 characters, expected at most 300"),
    (start_of_white_space, '"<|s|>{{ role }}\\n"', '["<|s|>{{ role }}\\n", "\\n\\n"]', "toy.yaml:6:12: the start of 'user' is white space alone, \"\\n\\n\", which contents have too"),
    (same_start_twice, "{{ role }}", "", "toy.yaml:6:12: 'assistant' starts with \"<|s|>\\n\", and so does 'user'"),
    (same_start_twice, "examples:", "  - {role: [a, b], within: user, start: \"<t>\", end: null}\nexamples:", "toy.yaml:8:41: 'b' starts with \"<t>\", and so does 'a', which is declared first"),
    (span_key_on_a_turn, "    end: \"<|e|>\"", "    end: \"<|e|>\"\n    follows_turn: true", "toy.yaml:8:19: 'follows_turn' is for spans, and this is a turn"),
    (span_key_on_a_turn, "    end: \"<|e|>\"", "    end: \"<|e|>\"\n    start_owner: turn", "toy.yaml:8:18: 'start_owner' is for spans, and this is a turn"),
    (turn_key_on_a_span, "examples:", "  - {role: tool, within: user, start: \"<t>\", end: null, header_end: \">\"}\nexamples:", "toy.yaml:8:69: 'header_end' is for turns, and this is a span (remove it)"),
    (turn_key_on_a_span, "examples:", "  - {role: tool, within: user, start: \"<t>\", end: null, include_start: true}\nexamples:", "toy.yaml:8:72: 'include_start' is for turns, and this is a span (remove it)"),
    (turn_key_on_a_span, "examples:", "  - {role: tool, within: user, start: \"<t>\", end: \"</t>\", include_end: false}\nexamples:", "toy.yaml:8:72: 'include_end' is for turns, and this is a span (remove it)"),
    (turn_key_on_a_span, "examples:", "  - {role: tool, within: user, start: \"<t>\", end: \"</t>\", unanswered: user}\nexamples:", "toy.yaml:8:71: 'unanswered' is for turns, and this is a span (remove it)"),
    (unanswered_by_an_unknown_turn, "    end: \"<|e|>\"", "    end: \"<|e|>\"\n    unanswered: usr", "toy.yaml:8:17: no turn has the role 'usr' (did you mean 'user'?)"),
    (question_that_nobody_answers, "examples:", "  - {role: user, start: \"<q>\", end: \"<a>\", rewind: true}\n  - {role: assistant, start: \"<a>\", end: \"<|e|>\"}\nexamples:", "toy.yaml:9:30: the assistant's start \"<a>\" ends the user's turn too: of two questions in a row, the second is trained (add `unanswered: user`)"),
    (misspelt_end_word, "    end: \"<|e|>\"", "    end: eos", "toy.yaml:7:10: the end 'eos' would match as text (did you mean `eos_token`?"),
    (span_ends_at_next_start, "examples:", "  - {role: tool, within: user, start: \"<t>\", end: next_start}\nexamples:", "toy.yaml:8:51: `next_start` is for turns, and this is a span"),
    (span_in_an_unknown_turn, "examples:", "  - {role: tool, within: asistant, start: \"<t>\", end: null}\nexamples:", "toy.yaml:8:26: no turn has the role 'asistant' (did you mean 'assistant'?)"),
    (span_starts_like_a_turn, "examples:", "  - {role: tool, within: user, start: \"<|s|>user\\n\", end: null}\nexamples:", "toy.yaml:8:39: the span's start \"<|s|>user\\n\" starts a turn too"),
    (rewind_without_an_end, "    end: \"<|e|>\"", "    end: null\n    rewind: true", "toy.yaml:8:13: `rewind` without an end marker"),
    (next_start_without_rewind, "    end: \"<|e|>\"", "    end: next_start\n    rewind: false", "toy.yaml:8:13: an end at `next_start` always rewinds"),
    (rewind_to_no_turn, "    end: \"<|e|>\"", "    end: \"<|e|>\"\n    rewind: true", "toy.yaml:7:10: the end \"<|e|>\" rewinds, but no turn starts with it (set `rewind: false`"),
    (examples_without_an_eos_token, "    end: \"<|e|>\"", "    end: eos_token", "toy.yaml:9:3: the examples need to know what the EOS token looks like"),
    (unused_special_token, "\"<|e|>\"]", "\"<|e|>\", \"<|x|>\"]", "toy.yaml:2:36: the special token '<|x|>' is in no marker"),
    (masks_more_than_it_may, "examples:", "masks_more: {usr: why}\nexamples:", "toy.yaml:8:14: no marker has the role 'usr' (did you mean 'user'?)"),
    (masks_more_than_it_may, "examples:", "masks_more: {assistant: why}\nexamples:", "toy.yaml:8:14: 'assistant' is trained, so it cannot be masked on purpose"),
]  # fmt: skip


@pytest.mark.parametrize(("lint", "old", "new", "expected"), CASES)
def test_each_lint_finds_its_mistake(tmp_path: Path, lint: Lint, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    path = tmp_path / "toy.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    source = read_source(path.read_text(), str(path))
    found = list(lint(source, read_markers(source, [])))
    assert any(str(problem).removeprefix(f"{tmp_path}/").startswith(expected) for problem in found), found
    assert set(found) <= set(check_files([path]))


@pytest.mark.parametrize("lint", LINTS)
def test_no_lint_finds_anything_in_a_good_file(lint: Lint) -> None:
    source = read_source(GOOD, "toy.yaml")
    assert list(lint(source, read_markers(source, []))) == []


def test_every_lint_has_a_case() -> None:
    assert {lint for lint, *_ in CASES} == set(LINTS)

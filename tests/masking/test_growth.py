"""What is built from a marker set grows with its markers, not with their product."""

import pytest

from rolemask.markers.spec import EndWord, Marker, MarkerSet
from rolemask.masking.automaton import Automaton, automaton_of
from rolemask.matching.compiler import Rules, compile_rules
from rolemask.matching.vocabulary import Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = {id_: bytes([id_]) for id_ in range(256)}
PIECES |= {256 + number: f" {first}{second}".encode() for number, (first, second) in enumerate((a, b) for a in LETTERS for b in LETTERS)}
VOCABULARY = Vocabulary("toy", PIECES, {})


def built(count: int, end: str | EndWord, start: str = "{}: ") -> tuple[Rules, Automaton]:
    names = [f"{LETTERS[number // 26]}{LETTERS[number % 26]}x" for number in range(count)]
    ends = [end.format(name) if isinstance(end, str) else end for name in names]
    markers = (Marker(f"role {at % 5}", (start.format(name),), (end,)) for at, (name, end) in enumerate(zip(names, ends, strict=True)))
    rules = compile_rules(MarkerSet("toy", "Toy", tuple(markers)), VOCABULARY)
    return rules, automaton_of(rules)


def sizes(rules: Rules, automaton: Automaton) -> dict[str, int]:
    """The number of everything that is kept, or made for a pickle."""
    tries = [rules.starts, rules.special_starts, rules.document_starts, *(rule.ends for rule in rules.rules)]
    return {
        "states of the tries": sum(len(trie.edges) for trie in tries),
        "edges of the tries": sum(map(len, (edges for trie in tries for edges in trie.edges))),
        "states of the matcher": len(automaton.matcher.edges),
        "edges of the matcher": sum(map(len, (*automaton.matcher.edges, *automaton.matcher.by_region))),
        "states of the automaton": automaton.size,
        "outputs": len(automaton.outputs),
        "cells": sum(map(len, (*automaton.changes, *automaton.opens, *automaton.opened))),
    }


@pytest.mark.parametrize(("start", "end"), [("{}: ", "</{}>"), ("{}: ", "\n"), ("\n{}:", EndWord.NEXT_START), ("<{}>", "{} ")])
def test_it_grows_with_the_number_of_markers(start: str, end: str | EndWord) -> None:
    few, many = sizes(*built(40, end, start)), sizes(*built(120, end, start))  # their square is 9 times as many
    assert {name: (few[name], many[name]) for name in few if many[name] > 5 * few[name]} == {}

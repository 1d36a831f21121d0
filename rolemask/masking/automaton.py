"""Rules -> one finite-state machine, as tables: what the fast paths run.

Two steps, both a table look-up per token:

1. `Matcher` reads the tokens from a position on, and tells which markers match there, of every kind at once. What it can tell is one of
   a few dozen *findings*.
2. `Automaton` walks from left to right over the findings. Its state says where in a turn the scan is; marker tokens that are yet to be
   passed over are states too, so that each token is one step, and steps can be composed (which is what a GPU needs).

The tables are made by asking the rules of the reference, case by case; the tests compare every path that uses them with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rolemask.masking.policy import Policy
from rolemask.masking.reference import span_is_trained
from rolemask.matching.compiler import OUTSIDE, Rules
from rolemask.matching.trie import TokenTrie

NO_MATCH = (-1, 0)


class Finding(NamedTuple):
    """Which markers match at a position: per trie (value, number of tokens), or NO_MATCH."""

    starts: tuple[int, int]
    special_starts: tuple[int, int]
    ends: tuple[tuple[int, int], ...]
    header_ends: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]

    def of_several(self) -> "Finding":
        """Return the matches of more tokens than one."""

        def keep(found: tuple[int, int]) -> tuple[int, int]:
            return found if found[1] > 1 else NO_MATCH

        def keep_all(found: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
            return tuple(map(keep, found))

        return Finding(keep(self.starts), keep(self.special_starts), keep_all(self.ends), keep_all(self.header_ends), keep_all(self.spans))


@dataclass(frozen=True)
class Matcher:
    """The tries of a rule set, run side by side.

    Attributes:
        token_class: token id -> class; tokens that no marker tells apart share one. An id that is missing has class 0.
        steps: [state][class] -> state; state 0 is where to begin.
        finding: state -> index into `findings` of what has matched so far.
        findings: What can be found; index 0 is nothing.
        depth: How many tokens it takes at most.
    """

    token_class: dict[int, int]
    steps: list[list[int]]
    finding: list[int]
    findings: list[Finding]
    depth: int


class State(NamedTuple):
    """Where the scan is: in no turn (`rule` -1), in a turn, in its open header, in a span of it; `left` marker tokens to pass over."""

    rule: int = OUTSIDE
    span: int = OUTSIDE
    in_header: bool = False
    closed: int = OUTSIDE  # the span that ended right before this token
    left: int = 0
    passing: str = ""  # what these are: "header", "end", "end to come", "span", "span end", "turn's span start"


class Output(NamedTuple):
    """What a step says of its token.

    `rule` and `span` tell whose token it is (-1: nobody's), `part` which part of the turn; `opens` is the span that opens here.
    `ended` is the rule of the turn that ends here, with an end marker of `end_length` tokens from here on (which the machine may pass
    over, or read again as the next header).
    """

    rule: int = OUTSIDE
    span: int = OUTSIDE
    part: str = ""
    starts_turn: bool = False
    opens: int = OUTSIDE
    ended: int = OUTSIDE
    end_length: int = 0


@dataclass(frozen=True)
class Automaton:
    """`step[finding][state]` is the state behind the token, `output[finding][state]` an index into `outputs`; 0 is outside any turn."""

    matcher: Matcher
    states: list[State]
    outputs: list[Output]
    step: list[list[int]]
    output: list[list[int]]


def build_matcher(rules: Rules) -> Matcher:
    """Put the tries of `rules` side by side into one automaton."""
    empty = TokenTrie()
    tries = [rules.starts, rules.special_starts]
    tries += [rule.ends for rule in rules.rules]
    tries += [rule.header_ends or empty for rule in rules.rules]
    tries += [rules.spans.get(role, empty) for role in range(len(rules.roles))]
    classes, members = _token_classes(tries)

    def finding_of(best: tuple[tuple[int, int], ...]) -> Finding:
        count = len(rules.rules)
        return Finding(best[0], best[1], best[2 : 2 + count], best[2 + count : 2 + 2 * count], best[2 + 2 * count :])

    begin = _Path((0,) * len(tries), (NO_MATCH,) * len(tries), 0)
    numbers = {begin.key: 0}
    queue = [begin]
    steps: list[list[int]] = []
    for path in queue:  # grows while it is walked
        row = []
        for id_ in members:
            after = path.step(id_, tries)
            if after.key not in numbers:
                numbers[after.key] = len(queue)
                queue.append(after)
            row.append(numbers[after.key])
        steps.append(row)
    findings: dict[Finding, int] = {finding_of(begin.best): 0}
    finding = [findings.setdefault(finding_of(path.best), len(findings)) for path in queue]
    return Matcher(classes, steps, finding, list(findings), depth=max(path.length for path in queue))


class _Path(NamedTuple):
    """How far each trie has come (-1: it has left off), what it has matched, and how many tokens it took."""

    at: tuple[int, ...]
    best: tuple[tuple[int, int], ...]
    length: int

    @property
    def key(self) -> tuple[object, ...]:
        # One state of a trie can be reached by different numbers of tokens, and it is these that a match is told in.
        return self.at, self.best, self.length if max(self.at) >= 0 else None

    def step(self, id_: int | None, tries: Sequence[TokenTrie]) -> "_Path":
        """Take a token; None stands for all that no trie knows."""
        at = tuple(
            trie.edges[state].get(id_, -1) if id_ is not None and state >= 0 else -1 for trie, state in zip(tries, self.at, strict=True)
        )
        if max(at) < 0:
            return _Path(at, self.best, self.length)
        length = self.length + 1
        best = tuple(
            (trie.accept[state], length) if state >= 0 and trie.accept[state] >= 0 else before
            for trie, state, before in zip(tries, at, self.best, strict=True)
        )
        return _Path(at, best, length)


def _token_classes(tries: Sequence[TokenTrie]) -> tuple[dict[int, int], list[int | None]]:
    """Return token id -> class, and one member of each class; tokens with the same edges everywhere share a class."""
    edges: dict[int, list[tuple[int, int, int]]] = {}
    for number, trie in enumerate(tries):
        for state, out in enumerate(trie.edges):
            for id_, after in out.items():
                edges.setdefault(id_, []).append((number, state, after))
    numbers: dict[tuple[tuple[int, int, int], ...], int] = {}
    classes: dict[int, int] = {}
    members: list[int | None] = [None]
    for id_, found in edges.items():
        key = tuple(found)
        if key not in numbers:
            numbers[key] = len(members)
            members.append(id_)
        classes[id_] = numbers[key]
    return classes, members


def build_automaton(rules: Rules) -> Automaton:
    """Tabulate the scan of `rules`."""
    matcher = build_matcher(rules)
    states: dict[State, int] = {State(): 0}
    outputs: dict[Output, int] = {Output(): 0}
    cells: dict[tuple[int, int], tuple[int, int]] = {}
    queue = [State()]
    for state in queue:  # grows while it is walked
        for index, finding in enumerate(matcher.findings):
            after, output = _step(state, finding, rules)
            if after not in states:
                states[after] = len(queue)
                queue.append(after)
            cells[index, states[state]] = states[after], outputs.setdefault(output, len(outputs))
    size = range(len(queue))
    return Automaton(
        matcher,
        queue,
        list(outputs),
        [[cells[index, state][0] for state in size] for index in range(len(matcher.findings))],
        [[cells[index, state][1] for state in size] for index in range(len(matcher.findings))],
    )


def _step(state: State, finding: Finding, rules: Rules) -> tuple[State, Output]:
    """Take one token: what `rolemask.masking.reference` does at a position, in the same order."""
    if state.left:
        return _step_over(state, finding, rules)
    if state.rule == OUTSIDE:
        return _step_outside(finding, rules)
    rule = rules.rules[state.rule]
    if state.in_header and (length := finding.header_ends[state.rule][1]):
        return _pass_over(State(state.rule), length - 1, "header"), Output(state.rule, part="header")
    closing_length = 0 if state.span == OUTSIDE or rules.rules[state.span].rewind else finding.ends[state.span][1]
    if (end_length := _end_length(state.rule, finding, rules)) is not None and closing_length <= end_length:
        if rule.rewind or not end_length:
            after, output = _step_outside(finding, rules)
        else:
            after, output = _pass_over(State(), end_length - 1, "end"), Output()
        return after, output._replace(ended=state.rule, end_length=end_length)
    if finding.special_starts != NO_MATCH:
        return _step_outside(finding, rules)
    span, closed = state.span, state.closed
    if span != OUTSIDE and (found := finding.ends[span]) != NO_MATCH:
        if not rules.rules[span].rewind:
            closing = State(state.rule, span, left=found[1] - 1, passing="span end")
            return closing if closing.left else State(state.rule, closed=span), Output(state.rule, span, "span")
        span, closed = OUTSIDE, span
    if span == OUTSIDE and not state.in_header and (found := finding.spans[rule.role]) != NO_MATCH:
        opened, length = found
        inside = State(state.rule, opened)
        if rules.rules[opened].start_is_turns and opened != closed:
            return _pass_over(inside, length - 1, "turn's span start"), Output(state.rule, part="content", opens=opened)
        return _pass_over(inside, length - 1, "span"), Output(state.rule, opened, "span", opens=opened)
    part = "span" if span != OUTSIDE else "header" if state.in_header else "content"
    return State(state.rule, span, state.in_header), Output(state.rule, span, part)


def _step_over(state: State, finding: Finding, rules: Rules) -> tuple[State, Output]:
    """Pass over one token of a marker that was recognised before; in the last one, another may begin."""
    after = state._replace(left=state.left - 1)
    if state.passing == "end":
        output = Output()  # told where the end marker began
    elif state.passing == "end to come":
        after, output = State(left=after.left, passing="end"), Output(ended=state.rule, end_length=state.left)
    else:
        part = {"span end": "span", "turn's span start": "content"}.get(state.passing, state.passing)
        output = Output(state.rule, state.span if part == "span" else OUTSIDE, part)
    if after.left:
        return after, output
    after = State(state.rule, closed=state.span) if state.passing == "span end" else after._replace(passing="")
    begun, event = _step(after, finding.of_several(), rules)
    if begun == State(after.rule, after.span, after.in_header):
        return after, output
    if begun.passing == "end":
        return State(after.rule, left=begun.left, passing="end to come"), output
    if event.starts_turn or event.ended != OUTSIDE:
        return begun, event if output.ended == OUTSIDE else event._replace(ended=output.ended, end_length=output.end_length)
    closed = after.span if begun.span == OUTSIDE else OUTSIDE  # by an end marker that is left in place
    return begun._replace(closed=closed), output._replace(opens=event.opens)


def _step_outside(finding: Finding, rules: Rules) -> tuple[State, Output]:
    if finding.starts == NO_MATCH:
        return State(), Output()
    opening, length = finding.starts
    index, opened = rules.openings[opening]
    inside = State(index, opened, in_header=rules.rules[index].header_ends is not None)
    return _pass_over(inside, length - 1, "header"), Output(index, part="header", starts_turn=True, opens=opened)


def _pass_over(state: State, left: int, passing: str) -> State:
    return state._replace(left=left, passing=passing) if left else state


def _end_length(index: int, finding: Finding, rules: Rules) -> int | None:
    found = finding.ends[index]
    if found != NO_MATCH:
        return found[1]
    if rules.rules[index].ends_at_next_start and finding.starts != NO_MATCH:
        return int(finding.special_starts != NO_MATCH)
    return None


def role_of(output: Output, rules: Rules) -> int:
    """Return the role of the token, -1 outside any turn."""
    owner = output.span if output.part == "span" else output.rule
    return OUTSIDE if owner == OUTSIDE else rules.rules[owner].role


def is_trained(output: Output, rules: Rules, policy: Policy) -> bool:
    """Whether the token is trained if its turn is chosen, end markers apart."""
    if output.part == "span":
        return span_is_trained(rules.rules[output.span], rules, policy)
    return _is_named(output.rule, rules, policy) and (output.part == "content" or rules.rules[output.rule].include_start)


def makes_a_choice(output: Output, rules: Rules, policy: Policy) -> bool:
    """Whether a turn or a span starts here that makes its turn one of which something may be trained."""
    opens_trained = output.opens != OUTSIDE and span_is_trained(rules.rules[output.opens], rules, policy)
    return opens_trained or (output.starts_turn and _is_named(output.rule, rules, policy))


def end_is_emitted(output: Output, rules: Rules) -> bool:
    """Whether an end marker begins here that its role has to emit."""
    return output.ended != OUTSIDE and rules.rules[output.ended].include_end


def end_may_be_trained(output: Output, rules: Rules, policy: Policy) -> bool:
    """Whether an end marker begins here that is trained if its turn is chosen; with `train_on_eos="all"`, whether it is or not."""
    if not end_is_emitted(output, rules) or policy.train_on_eos == "none":
        return False
    return policy.train_on_eos == "all" or _is_named(output.ended, rules, policy)


def _is_named(rule: int, rules: Rules, policy: Policy) -> bool:
    return rule != OUTSIDE and rules.roles[rules.rules[rule].role] in policy.roles_to_train

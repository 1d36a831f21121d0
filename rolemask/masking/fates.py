"""What each output of the automaton means under a policy: the one table that the kernels turn into arrays."""

from typing import NamedTuple

from rolemask.masking.automaton import Automaton
from rolemask.masking.policy import QUESTION_ROLE, RESULT_ROLE, Policy
from rolemask.masking.reference import role_is_trained, span_is_trained
from rolemask.masking.steps import Output
from rolemask.masking.turns import Part
from rolemask.matching.compiler import OUTSIDE, Rules


class Fate(NamedTuple):
    """What happens to a token, and to the end marker that begins with it, if one does.

    A turn is chosen if the policy and the flags of `train_turns` pick it. `end_` fields are about the turn that ends here, which need not
    be the one that the token is in.
    """

    role: int  # of the token, -1 outside any turn
    trained_always: bool
    trained_if_chosen: bool
    starts_turn: bool
    reopens: bool  # the turn that starts here says that the one before it was none: nobody answered
    is_candidate: bool  # the turn is trainable: its role, or the span that starts here, is trained
    starts_question: bool  # the turn that starts is a question, unless it
    carries_result: bool  # carries a tool's result, whose span starts here
    end_length: int  # 0 where no end marker begins
    end_role: int
    end_emitted: bool  # the role has to generate the end marker
    end_trained_always: bool
    end_trained_if_chosen: bool  # with `train_on_eos="last"`, only the last one of a document


def fates_of(automaton: Automaton, rules: Rules, policy: Policy) -> list[Fate]:
    """Return the fate of each of `outputs_of`."""
    return [_fate(output, rules, policy) for output in outputs_of(automaton, rules)]


def outputs_of(automaton: Automaton, rules: Rules) -> list[Output]:
    """Return the automaton's outputs; then, if the rules have `unanswered`, each of them in a turn that nobody answered."""
    outputs = automaton.outputs
    if not has_unanswered(rules):
        return outputs
    return [*outputs, *(in_unanswered_turn(output, rules) for output in outputs)]


def has_unanswered(rules: Rules) -> bool:
    """Whether a turn may turn out to be none."""
    return any(rule.unanswered != OUTSIDE for rule in rules.rules)


def in_unanswered_turn(output: Output, rules: Rules) -> Output:
    """Return the output in a turn that nobody answered: its tokens are the next question."""
    if output.rule == OUTSIDE or rules.rules[output.rule].unanswered == OUTSIDE:
        return output
    part = Part.CONTENT if output.part is Part.SPAN else output.part
    return output._replace(rule=rules.rules[output.rule].unanswered, span=OUTSIDE, part=part, opens=OUTSIDE)


def _fate(output: Output, rules: Rules, policy: Policy) -> Fate:
    turn = None if output.rule == OUTSIDE else rules.rules[output.rule]
    span = rules.rules[output.span] if output.part is Part.SPAN else None
    opened = None if output.opens == OUTSIDE else rules.rules[output.opens]
    ended = None if output.ended == OUTSIDE else rules.rules[output.ended]

    owner = span or turn
    turn_is_trained = turn is not None and role_is_trained(turn, rules, policy)
    if span is not None:
        trained_if_chosen = span_is_trained(span, rules, policy)
    else:
        trained_if_chosen = turn_is_trained and turn is not None and (output.part is Part.CONTENT or turn.include_start)
    opens_trained = opened is not None and span_is_trained(opened, rules, policy)
    end_emitted = ended is not None and ended.include_end
    end_named = ended is not None and role_is_trained(ended, rules, policy)
    return Fate(
        role=OUTSIDE if owner is None else owner.role,
        trained_always=policy.train_on_inputs,
        trained_if_chosen=trained_if_chosen,
        starts_turn=output.starts_turn,
        reopens=output.reopens,
        is_candidate=opens_trained or (output.starts_turn and turn_is_trained),
        starts_question=output.starts_turn and turn is not None and rules.roles[turn.role] == QUESTION_ROLE,
        carries_result=opened is not None and rules.roles[opened.role] == RESULT_ROLE,
        end_length=output.end_length,
        end_role=OUTSIDE if ended is None else ended.role,
        end_emitted=end_emitted,
        end_trained_always=end_emitted and policy.train_on_eos == "all",
        end_trained_if_chosen=end_emitted and end_named and policy.train_on_eos in ("turn", "last"),
    )

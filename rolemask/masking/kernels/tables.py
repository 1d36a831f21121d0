"""The tables that the array kernels read: the automaton, the fates and the classes of tokens, as NumPy arrays.

They are few, and several fields stand in one array of records: a call of compiled code costs 0.1 us for each array that it is given.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rolemask.masking.automaton import Automaton
from rolemask.masking.fates import Fate, fates_of
from rolemask.masking.kernels.dense import changes_of, matcher_steps
from rolemask.masking.policy import Policy
from rolemask.masking.reference import masked_roles
from rolemask.matching.compiler import OUTSIDE, Rules

Ids = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Records = NDArray[Any]

# Bits of the mark of a token. These follow from its id: a marker can begin with it; it can be a whole marker (or media or padding, which
# need a closer look too); it can be the second token of a marker. Together with the next token, the first two say that one may begin here.
BEGINS, ALONE, FOLLOWS = 1, 2, 4
LIVE = BEGINS | ALONE

_FATE_DTYPES: dict[str, DTypeLike] = {"role": np.int8, "end_length": np.uint32, "end_role": np.int8}


class Tables(NamedTuple):
    """What an array kernel reads. Indices are unsigned, which saves numba the checks for negative ones.

    Attributes:
        token_mark: id -> mark, the last one for all other ids; one byte each, so that the table fits the cache.
        token_class: id -> class, the last one for all other ids; 0 for what is in no marker, no media and no padding.
        classes: class -> `is_media` and `is_pad`: whether its tokens are.
        next_state: (states of the matcher, classes) -> state.
        matcher_states: state of the matcher -> `matches`, and whether it `goes_on`: more tokens can change the matches.
        states: state of the automaton -> `step`, the state after a token without a match, and its `output`; `is_stable`, whether such a
            token leaves the state as it is; `column`, that of `cells`, 0 where no matches change the step.
        cells: (kinds of matches, columns) -> `step` and `output` of a token with matches; see `dense.Changes`.
        opened: matches -> their kind, and what a step has where these start a turn; see `dense.Changes`.
        fates: output -> the fields of `Fate`.
        is_masked: role -> whether its tokens are never trained, the last one for no role; empty where all roles may be.
        options: One record: `unanswered`, from an output to the same in a turn that nobody answered (0 where no rule has such turns); and
            what the fates don't cover of a policy: `only_last_turn`, `only_last_round` and `only_last_end`.
    """

    token_mark: NDArray[np.uint8]
    token_class: NDArray[np.uint32]
    classes: Records
    next_state: NDArray[np.uint32]
    matcher_states: Records
    states: Records
    cells: Records
    opened: NDArray[np.uint32]
    fates: Records
    is_masked: Bools
    options: Records


def make_tables(rules: Rules, policy: Policy, automaton: Automaton) -> Tables:
    """Make the tables of `rules` under a policy."""
    matcher = automaton.matcher
    # A class of the tables is a class of the matcher, and whether its tokens are media or padding.
    class_of: dict[int, tuple[int, bool, bool]] = {id_: (number, False, False) for id_, number in matcher.token_class.items()}
    for id_ in {*rules.media} if rules.pad_id is None else {*rules.media, rules.pad_id}:
        class_of[id_] = matcher.token_class.get(id_, 0), id_ in rules.media, id_ == rules.pad_id
    kinds = list(dict.fromkeys([(0, False, False), *class_of.values()]))
    number_of = {kind: number for number, kind in enumerate(kinds)}
    token_class = np.zeros(max(class_of, default=-1) + 2, dtype=np.uint32)
    for id_, kind in class_of.items():
        token_class[id_] = number_of[kind]
    classes = _records(len(kinds), is_media=[kind[1] for kind in kinds], is_pad=[kind[2] for kind in kinds])
    next_state = matcher_steps(matcher, [kind[0] for kind in kinds])
    matcher_states = _records(len(next_state), matches=np.array(matcher.matches_in, dtype=np.uint32), goes_on=matcher.goes_on)
    step, output = np.array(automaton.quiet_step, dtype=np.uint32), np.array(automaton.quiet_output, dtype=np.uint32)
    changes = changes_of(automaton)
    quiet = np.array([not (out.starts_turn or out.opens != OUTSIDE or out.ended != OUTSIDE) for out in automaton.outputs])
    is_stable = (step == np.arange(automaton.size)) & quiet[output]
    fates = fates_of(automaton, rules, policy)
    fields = {
        name: np.array(field, dtype=_FATE_DTYPES.get(name, np.bool_))
        for name, field in zip(Fate._fields, zip(*fates, strict=True), strict=True)
    }
    return Tables(
        token_mark=_class_marks(next_state, matcher_states, classes)[token_class],
        token_class=token_class,
        classes=classes,
        next_state=next_state,
        matcher_states=matcher_states,
        states=_records(automaton.size, step=step, output=output, is_stable=is_stable, column=changes.column),
        cells=_records(changes.step.shape, step=changes.step, output=changes.output),
        opened=changes.opened,
        fates=_records(len(fates), **fields),
        is_masked=np.array(masked_roles(rules, policy) if policy.roles_to_mask else [], dtype=np.bool_),
        options=_records(
            1,
            unanswered=np.array([len(fates) - len(automaton.outputs)], dtype=np.uint32),
            only_last_turn=[policy.turns == "last"],
            only_last_round=[policy.turns == "last_round"],
            only_last_end=[policy.train_on_eos == "last"],
        ),
    )


def _records(shape: int | tuple[int, ...], **fields: NDArray[Any] | list[bool]) -> Records:
    """Return an array of records: the fields are arrays of its shape, or lists of bool."""
    arrays = {name: np.asarray(field) for name, field in fields.items()}
    records = np.empty(shape, dtype=np.dtype([(name, array.dtype) for name, array in arrays.items()], align=True))
    for name, array in arrays.items():
        records[name] = array
    return records


def _class_marks(next_state: NDArray[np.uint32], matcher_states: Records, classes: Records) -> NDArray[np.uint8]:
    """Return the mark of each class of tokens."""
    second = next_state[next_state[0]]  # (class, next class) -> state of the matcher
    is_match = (matcher_states["matches"][second] != 0) | matcher_states["goes_on"][second]
    alone = is_match[:, 0] | classes["is_media"] | classes["is_pad"]
    follows = is_match[~alone].any(axis=0)
    marks: NDArray[np.uint8] = (is_match.any(axis=1) * BEGINS | alone * ALONE | follows * FOLLOWS).astype(np.uint8)
    return marks

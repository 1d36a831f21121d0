"""The policy: which roles, end markers and turns are trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from rolemask.errors import PolicyError, did_you_mean
from rolemask.types import TrainOnEos, Turns

DEFAULT_ROLES = ("assistant",)
QUESTION_ROLE = "user"
RESULT_ROLE = "tool"
"""A turn of `QUESTION_ROLE` is a question, unless it carries a span of `RESULT_ROLE`: many templates write a tool's result as a user's."""


@dataclass(frozen=True)
class Policy:
    """Which tokens are trained. The first three options have the names and meanings of Axolotl's.

    Attributes:
        train_on_inputs: Train everything but media and padding.
        roles_to_train: The roles to train.
        roles_to_mask: The roles that are never trained, whatever else says so.
        train_on_eos: The end markers to train: those of the trained turns, of all turns, of the last trained turn that has one, or none.
        turns: Train all turns of these roles, only the last one, or only those behind the last question.
    """

    train_on_inputs: bool = False
    roles_to_train: tuple[str, ...] = DEFAULT_ROLES
    train_on_eos: TrainOnEos = "turn"
    turns: Turns = "all"
    roles_to_mask: tuple[str, ...] = ()

    def __str__(self) -> str:
        roles = ", ".join(self.roles_to_train) or "nothing"
        masked = f", roles_to_mask=[{', '.join(self.roles_to_mask)}]" if self.roles_to_mask else ""
        trained = f"roles_to_train=[{roles}]{masked}"
        return f"train_on_inputs={self.train_on_inputs}, {trained}, train_on_eos={self.train_on_eos}, turns={self.turns}"


def make_policy(
    roles: Iterable[str],
    *,
    train_on_inputs: bool = False,
    roles_to_train: Sequence[str] | None = None,
    roles_to_mask: Sequence[str] = (),
    train_on_eos: str = "turn",
    turns: str = "all",
) -> Policy:
    """Make a policy for the roles of a marker set. `roles_to_train=None` means ``["assistant"]``; ``[]`` trains nothing.

    Raises:
        PolicyError: The marker set has no such role, a role is both to be trained and to be masked, or an option has a wrong value.
    """
    known = list(roles)
    if roles_to_train is None and not set(DEFAULT_ROLES) <= set(known):
        raise PolicyError(f"the markers declare no role 'assistant', only {', '.join(known)}: declare it, or pass roles_to_train=[...]")
    chosen = _roles("roles_to_train", DEFAULT_ROLES if roles_to_train is None else roles_to_train, known)
    masked = _roles("roles_to_mask", roles_to_mask, known)
    if both := [role for role in chosen if role in masked]:
        raise PolicyError(f"roles_to_train and roles_to_mask both name the role {both[0]!r}: is it trained or not?")
    choice("train_on_eos", train_on_eos, get_args(TrainOnEos))
    choice("turns", turns, get_args(Turns))
    if turns == "last_round" and QUESTION_ROLE not in known:
        raise PolicyError(f"turns='last_round' needs questions: the markers declare no role {QUESTION_ROLE!r}, only {', '.join(known)}")
    return Policy(bool(train_on_inputs), chosen, train_on_eos, turns, masked)  # type: ignore[arg-type]


def _roles(option: str, roles: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if isinstance(roles, str):
        raise PolicyError(f"{option} is the text {roles!r}, expected a list: [{roles!r}]")
    for role in roles:
        if role not in known:
            hint = did_you_mean(str(role), known)
            raise PolicyError(f"{option} names the role {role!r}; this marker set has {', '.join(known)}. {hint}".rstrip())
    return tuple(roles)


def choice(option: str, value: str, values: Sequence[str]) -> None:
    """Raise PolicyError unless `value` is one of `values`."""
    if value not in values:
        expected = ", ".join(repr(word) for word in values)
        raise PolicyError(f"{option} is {value!r}, expected one of {expected}. {did_you_mean(str(value), values)}".rstrip())

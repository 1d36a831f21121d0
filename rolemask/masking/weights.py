"""Loss weights: the weight of its role for each token that is trained, 0 for the others."""

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rolemask.errors import PolicyError
from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.batch import ArrayBatch
from rolemask.masking.lists import ListBatch
from rolemask.matching.compiler import Rules

if TYPE_CHECKING:
    from torch import Tensor


def weight_table(rules: Rules, role_weights: Mapping[str, float]) -> list[float]:
    """Return the weight of each role id; the last entry is for -1. A span that follows its turn has the turn's, unless its role is named.

    Raises:
        PolicyError: A negative weight.
    """
    if any(weight < 0 for weight in role_weights.values()):
        raise PolicyError(f"role_weights is {dict(role_weights)}, expected weights of 0 or more")
    table = [0.0] * (len(rules.roles) + 1)
    for rule in rules.rules:
        if rule.follows_turn:
            table[rule.role] = role_weights.get(rules.roles[rule.within], 0.0)
    for role, weight in role_weights.items():
        if role in rules.roles:
            table[rules.roles.index(role)] = weight
    return table


def weigh(batch: ListBatch | ArrayBatch, labels: Any, roles: Any, table: Sequence[float]) -> Any:
    """Return float32 weights for the labels and role ids of a batch: an array (N,) for an ArrayBatch, lists for a ListBatch."""
    if isinstance(batch, ArrayBatch):
        import numpy

        return numpy.where(labels != IGNORE_INDEX, numpy.array(table, dtype=numpy.float32)[roles], numpy.float32(0))
    as_float32 = [struct.unpack("f", struct.pack("f", weight))[0] for weight in table]
    return [
        [as_float32[role] if label != IGNORE_INDEX else 0.0 for label, role in zip(*row, strict=True)]
        for row in zip(labels, roles, strict=True)
    ]


def weigh_on_device(labels: "Tensor", roles: "Tensor", table: Sequence[float]) -> "Tensor":
    """Like `weigh`, for tensors (B, T) on any device."""
    import torch

    of_role = torch.tensor(table, dtype=torch.float32, device=labels.device)[roles.long()]
    return torch.where(labels != IGNORE_INDEX, of_role, 0.0)

"""What every path returns for a batch."""

from typing import Any, NamedTuple


class Labelled(NamedTuple):
    """The labels of a batch: arrays of the rows end to end from an array kernel, lists of rows from the definition.

    Attributes:
        labels: (N,) int64, or lists.
        roles: (N,) int8, or lists; None where nobody asked for them.
        counts: Per row, the number of its trainable turns.
        trains: Per row, whether it trains a token.
        events: (N,) uint32. Where a turn starts or ends, and maybe elsewhere, the index in `outputs_of` of what the automaton says at this
            token, plus 1; otherwise 0. None where nobody asked for them, or no automaton ran.
    """

    labels: Any
    roles: Any
    counts: Any
    trains: Any
    events: Any = None

"""Explains a row token by token: the turn that each token belongs to, whether it is trained, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.policy import Policy
from rolemask.masking.reference import Masked
from rolemask.masking.turns import Part, Turn
from rolemask.matching.compiler import Rules


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of one turn and part, all trained or none, for one reason. `role` is None outside any turn."""

    start: int
    stop: int
    text: str
    role: str | None
    part: Part
    trained: bool
    why: str


@dataclass(frozen=True)
class Explanation:
    """The segments of one row. `str()` of it is plain text, one line per segment."""

    name: str
    policy: Policy
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        """How many tokens the row has."""
        return self.segments[-1].stop if self.segments else 0

    @property
    def trained(self) -> int:
        """How many of them are trained."""
        return sum(segment.stop - segment.start for segment in self.segments if segment.trained)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.trained} of {self.tokens} tokens trained ({self.policy})"]
        for segment in self.segments:
            mark = "trained" if segment.trained else "-"
            lines.append(f"{segment.start:>6}-{segment.stop:<6} {mark:<8} {segment.role or '-':<10} {segment.text!r}  {segment.why}")
        return "\n".join(lines)


def visible(text: str) -> str:
    """Return the text with its newlines and tabs escaped, for tables."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def explain_row(ids: Sequence[int], masked: Masked, attention: Sequence[int] | None, rules: Rules, policy: Policy) -> Explanation:
    """Explain one row that `rolemask.masking.reference.mask` has masked."""
    places = _places(len(ids), masked.turns, rules)

    def fate(at: int) -> tuple[int, Part, int, bool, str]:
        trained = masked.labels[at] != IGNORE_INDEX
        excluded = _excluded(ids[at], attention is None or bool(attention[at]), trained, attention is None, rules)
        return *places[at], masked.roles[at], trained, excluded

    segments = []
    stop = 0
    for (_, part, role, trained, excluded), members in groupby(range(len(ids)), key=fate):
        start, stop = stop, stop + sum(1 for _ in members)
        name = rules.roles[role] if role >= 0 else None
        why = excluded or _why(part, name, trained, policy)
        segments.append(Segment(start, stop, rules.vocabulary.text(ids[start:stop]), name, part, trained, why))
    return Explanation(rules.name, policy, tuple(segments))


def _places(size: int, turns: Sequence[Turn], rules: Rules) -> list[tuple[int, Part]]:
    """Return (index of the turn, part) per token; a token that ends one turn and starts the next belongs to the turn that emits it."""
    places = [(-1, Part.OUTSIDE)] * size
    for index, turn in enumerate(turns):
        # One tuple for all tokens of a part: the garbage collector would go through one for each.
        header, content, end, in_span = ((index, part) for part in (Part.HEADER, Part.CONTENT, Part.END, Part.SPAN))
        for at in range(turn.start, turn.content):
            owner, part = places[at]
            if part != Part.END or not rules.rules[turns[owner].rule].include_end:
                places[at] = header
        places[turn.content : turn.end] = [content] * (turn.end - turn.content)
        places[turn.end : turn.stop] = [end] * (turn.stop - turn.end)
        for span in turn.spans:
            places[span.own : span.stop] = [in_span] * (span.stop - span.own)
    return places


def _excluded(id_: int, attended: bool, trained: bool, without_mask: bool, rules: Rules) -> str:
    if trained:
        return ""
    if not attended:
        return "attention_mask is 0"
    if id_ < 0 or id_ in rules.media:
        return "media: never trained"
    if without_mask and id_ == rules.pad_id:
        return "padding: never trained"
    return ""


def _why(part: Part, role: str | None, trained: bool, policy: Policy) -> str:
    if trained and policy.train_on_inputs:
        return "train_on_inputs"
    if part == Part.OUTSIDE or role is None:
        return "belongs to no turn"
    if part == Part.HEADER:
        return f"header of {role}: {'include_start' if trained else 'the prompt supplies it'}"
    if part == Part.END:
        return f"end marker of {role}: train_on_eos={policy.train_on_eos}" if trained else f"end marker of {role}: not trained"
    if trained:
        return f"words of {role}"
    if role in policy.roles_to_mask:
        return f"words of {role}, which is in roles_to_mask"
    if role not in policy.roles_to_train:
        return f"words of {role}, which is not in roles_to_train"
    return f"words of {role}, in a turn that is not picked (turns={policy.turns})"

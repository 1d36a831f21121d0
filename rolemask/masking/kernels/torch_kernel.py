"""The kernel for CUDA: only torch operations of static shapes, no loop over the tokens, no synchronisation with the host.

A scan looks sequential: each token needs the state that all tokens before it lead to. But each token is a function from the state before
it to the state after it, stored as one number per state, and composing such functions is associative (Hillis & Steele 1986; Ladner &
Fischer 1980), so they can be composed in parallel. The first token of a document maps every state to the same one, so nothing before it
matters, and a batch is scanned as one long row.

The automaton has a few dozen outputs, each with one `Fate`, so labels and roles are look-ups in tables made once on the host. The kernel
runs on any device, and is tested on the CPU too; there the numba kernel is faster.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rolemask.markers.spec import IGNORE_INDEX
from rolemask.masking.automaton import Automaton, automaton_of
from rolemask.masking.fates import Fate, fates_of, has_unanswered
from rolemask.masking.kernels.dense import Table, matcher_steps, steps_and_outputs
from rolemask.masking.matcher import Matcher
from rolemask.masking.policy import Policy
from rolemask.masking.reference import masked_roles
from rolemask.masking.turns import UNATTENDED
from rolemask.matching.compiler import OUTSIDE, Rules

CHUNK = 4
"""How many tokens are composed one by one before chunks are composed in parallel: more cost launches, fewer cost memory."""
FEW = 4096
"""With at most this many functions, composing them costs launches rather than memory bandwidth."""


class TorchKernel:
    """Masks tensors of shape (B, T) where they are; agrees with `rolemask.masking.reference.mask` bit for bit.

    The tables are copied to a device at its first batch. Mask one batch before you capture a CUDA graph.
    """

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self.rules = rules
        self.policy = policy
        automaton = automaton_of(rules)
        self._depth = automaton.matcher.depth
        self._longest_end = _longest_end(fates_of(automaton, rules, policy))
        self._tables = {torch.device("cpu"): _build_tables(automaton, rules, policy)}

    def mask(self, ids: Tensor, attention: Tensor | None = None, *, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return labels (B, T) of the dtype of `ids`, and roles (B, T) int8.

        Args:
            ids: (B, T) int32 or int64, any device.
            attention: (B, T), any dtype; nonzero where a token is attended to.
            starts: (B, T) bool, true for the first token of each document.
        """
        if ids.numel() == 0:
            return torch.empty_like(ids), torch.empty_like(ids, dtype=torch.int8)
        tables = self._tables_on(ids.device)
        seen = ids if attention is None else torch.where(attention != 0, ids, UNATTENDED)
        borders = None if starts is None else pad(starts[:, 1:], (1, 0))
        index = seen.clamp(-1, len(tables.token_class) - 2).long()  # -1 is the last entry
        matches = self._matches_at(tables.token_class[index], borders, tables)
        output = tables.output[matches, _states_before(matches, tables.step)]
        if has_unanswered(self.rules):
            output = _with_unanswered(output, tables)

        key = tables.key[0, output]
        for offset, codes in enumerate(self._shifted(output)[1:], start=1):
            key = torch.maximum(key, tables.key[offset, codes])
        trained = tables.trainable[index]
        if not self.policy.train_on_inputs:
            trained &= self._trained(output, borders, tables)
        if attention is None and self.rules.pad_id is not None:
            trained &= (ids != self.rules.pad_id) | (key >= _emitted_key(self._longest_end, self.rules))
        if borders is not None:
            trained &= ~borders
        if self.policy.roles_to_mask:
            trained &= ~tables.is_masked[key]
        return torch.where(trained, ids, IGNORE_INDEX), tables.role[key]

    def _tables_on(self, device: torch.device) -> "_Tables":
        if device not in self._tables:
            # The host does not wait for the copy; the operations enqueued after it do.
            tables = self._tables[torch.device("cpu")]
            self._tables[device] = _Tables(*(table.to(device, non_blocking=True) for table in tables))
        return self._tables[device]

    def _matches_at(self, classes: Tensor, borders: Tensor | None, tables: "_Tables") -> Tensor:
        """Return the matches at each token, (B, T) int64: a row of `tables.step`."""
        size = classes.shape[1]
        # Class 0 ends every match; so does the start of a document.
        further = pad(classes if borders is None else torch.where(borders, 0, classes), (0, self._depth))
        state: int | Tensor = 0  # of the matcher; from the second token on, one state per token
        for offset in range(self._depth - 1):
            state = tables.matcher[state, further[:, offset : offset + size] if offset else classes]
        last = self._depth - 1
        matches = tables.matches[state, further[:, last : last + size] if last > 0 else classes]
        fresh = len(tables.step) // 2
        if borders is not None:
            matches += borders * fresh
        matches[:, 0] += fresh
        return matches

    def _trained(self, output: Tensor, borders: Tensor | None, tables: "_Tables") -> Tensor:
        """Return whether each token is trained as part of a turn, (B, T) bool."""
        inside = ends = output  # set to output 0, that of a token outside, where the turn is not chosen or the end marker not trained
        if self.policy.turns != "all":
            starts_turn = tables.starts_turn[output]
            turn = starts_turn.cumsum(1)
            if self.policy.turns == "last":
                first = _last_in_document(tables.is_candidate[output], turn, borders)
            else:
                first = _last_in_document(self._questions(output, turn, tables), turn, borders) + 1
            inside = torch.where(turn >= first, output, 0)
            if self.policy.train_on_eos != "all":
                ends = torch.where(turn - starts_turn >= first, output, 0)  # a turn may start where another ends
        if self.policy.train_on_eos == "last":
            position = torch.arange(1, output.shape[1] + 1, device=output.device)
            last = _last_in_document(tables.end_trained[0, ends], position, borders)
            ends = torch.where(position == last, ends, 0)
        trained = tables.trained[inside]
        if self.policy.train_on_eos != "none":
            for offset, codes in enumerate(self._shifted(ends)):
                trained |= tables.end_trained[offset, codes]
        return trained

    def _questions(self, output: Tensor, turn: Tensor, tables: "_Tables") -> Tensor:
        """Return whether a question starts at each token, (B, T) bool: a user's turn that carries no tool's result.

        `turn` (B, T) is the number of the turn that each token is in, from 1 on.
        """
        carries = tables.carries_result[output]
        # Tokens where no result starts write their 0 to slots of their own, so that they don't contend for that of the turn.
        slots = torch.where(carries, turn, torch.arange(turn.shape[1], device=turn.device))
        results = turn.new_zeros(turn.shape[0], turn.shape[1] + 1).scatter_reduce_(1, slots, carries.long(), "amax")
        return tables.starts_question[output] & (results.gather(1, turn) == 0)

    def _shifted(self, output: Tensor) -> list[Tensor]:
        """Return the output 0, 1, 2... tokens before each token, up to the length of the longest end marker."""
        size, reach = output.shape[1], self._longest_end - 1
        padded = pad(output, (reach, 0)) if reach else output
        return [padded[:, reach - offset : reach - offset + size] for offset in range(self._longest_end)]


def _states_before(matches: Tensor, step: Tensor) -> Tensor:
    """Return the state before each token, (B, T) int64; arbitrary for the first of each row, which maps every state to the same one.

    Args:
        matches: (B, T) rows of `step`.
        step: (matches, states) state before -> state after.
    """
    batch, size = matches.shape
    chunks = -(-size // CHUNK)
    halvings = min((batch * chunks // FEW).bit_length(), (chunks - 1).bit_length())
    chunks = -(-chunks >> halvings) << halvings
    matches = pad(matches, (0, chunks * CHUNK - size)).reshape(batch * chunks, CHUNK)
    functions = step[matches[:, 0]]
    for offset in range(1, CHUNK):
        functions = step[matches[:, offset, None], functions]
    states = [_states_between(functions, chunks, halvings)]
    for offset in range(CHUNK - 1):
        states.append(step[matches[:, offset], states[-1]])
    return torch.stack(states, 1).view(batch, chunks * CHUNK)[:, :size]


def _states_between(functions: Tensor, per_row: int, halvings: int) -> Tensor:
    """Return the state before each function, (rows * per_row,) int64; arbitrary for the first of each row.

    Args:
        functions: (rows * per_row, states) state before -> state after. The first of each row maps every state to the same one.
        per_row: A multiple of 2 ** halvings.
        halvings: How many times to compose neighbours first, which moves fewer bytes in more launches.
    """
    if halvings:
        left, right = functions[::2], functions[1::2]
        before = _states_between(right.gather(1, left), per_row // 2, halvings - 1)
        return torch.stack([before, left.gather(1, before[:, None])[:, 0]], 1).flatten()
    # Each round doubles the number of functions that each one is composed of. What pads the front does not matter: a function that reaches
    # back to the start of its row no longer depends on the state before.
    rounds = (per_row - 1).bit_length()
    functions = pad(functions, (0, 0, 2**rounds, 0))
    for distance in (2**number for number in range(rounds)):
        functions = functions[distance:].gather(1, functions[:-distance])
    return functions[:-1, 0]


def _with_unanswered(output: Tensor, tables: "_Tables") -> Tensor:
    """Return the outputs (B, T), those of the second half of the fates in turns that the next one reopens: nobody answered them."""
    turn = tables.starts_turn[output].cumsum(1)
    unused = output.shape[1] + 1  # where the tokens write that reopen nothing
    reopened = torch.zeros(len(output), unused + 1, dtype=torch.bool, device=output.device)
    reopened.scatter_(1, torch.where(tables.reopens[output], turn - 1, unused), True)
    return output + reopened.gather(1, turn) * (len(tables.starts_turn) // 2)


def _last_in_document(event: Tensor, number: Tensor, borders: Tensor | None) -> Tensor:
    """Return the greatest number of the events in a document: per token (B, T), or per row (B, 1) without borders; 0 for none.

    Args:
        event: (B, T) bool.
        number: (B, T) or (T,) int64, above 0 at events.
        borders: (B, T) bool, true at the first token of each document but the first; None where each row is one document.
    """
    numbers = torch.where(event, number, 0)
    if borders is None:
        return numbers.amax(1, keepdim=True)
    document = borders.cumsum(1)
    # Tokens without an event write their 0 to slots of their own, so that they don't contend for the slot of the document.
    slots = torch.where(event, document, torch.arange(event.shape[1], device=event.device))
    return torch.zeros_like(numbers).scatter_reduce_(1, slots, numbers, "amax").gather(1, document)


class _Tables(NamedTuple):
    """The look-up tables.

    The distance of a token is that from the first token of the end marker that it may be part of. `step` and `output` have two rows for
    each number of matches: the second half is for the first token of a document, before which there is no state. The greatest `key` over
    all that claim a token decides its role (`_key`).
    """

    token_class: Tensor  # (ids + 2,) int64; the last two entries are for ids above those known, and below 0
    trainable: Tensor  # (ids + 2,) bool
    matcher: Tensor  # (matcher states, classes) int64 -> matcher state
    matches: Tensor  # (matcher states, classes) int64 -> matches, for the last step
    step: Tensor  # (2 * matches, states) int64 -> state
    output: Tensor  # (2 * matches, states) int64 -> output
    trained: Tensor  # (outputs,) bool, if the turn is chosen
    starts_turn: Tensor  # (outputs,) int64, 1 where a turn starts
    reopens: Tensor  # (outputs,) bool
    is_candidate: Tensor  # (outputs,) bool
    starts_question: Tensor  # (outputs,) bool
    carries_result: Tensor  # (outputs,) bool
    end_trained: Tensor  # (distance, outputs) bool
    key: Tensor  # (distance, outputs) int64
    role: Tensor  # (keys,) int8
    is_masked: Tensor  # (keys,) bool, whether this role is never trained


def _build_tables(automaton: Automaton, rules: Rules, policy: Policy) -> _Tables:
    matcher, fates = automaton.matcher, fates_of(automaton, rules, policy)
    longest = _longest_end(fates)
    token_class, trainable = _id_tables(matcher, rules)
    step, output = map(_tensor, steps_and_outputs(automaton))
    steps = _tensor(matcher_steps(matcher))
    keys = [[_key(fate, distance, longest, rules) for fate in fates] for distance in range(longest)]
    roles = [key % (len(rules.roles) + 1) - 1 for key in range(max(map(max, keys)) + 1)]
    is_masked = masked_roles(rules, policy)
    return _Tables(
        token_class=token_class,
        trainable=trainable,
        matcher=steps,
        matches=torch.tensor(matcher.matches_in)[steps],
        step=torch.cat([step, step[:, :1].expand_as(step)]),
        output=torch.cat([output, output[:, :1].expand_as(output)]),
        trained=torch.tensor([fate.trained_if_chosen for fate in fates]),
        starts_turn=torch.tensor([int(fate.starts_turn) for fate in fates]),
        reopens=torch.tensor([fate.reopens for fate in fates]),
        is_candidate=torch.tensor([fate.is_candidate for fate in fates]),
        starts_question=torch.tensor([fate.starts_question for fate in fates]),
        carries_result=torch.tensor([fate.carries_result for fate in fates]),
        end_trained=torch.tensor(
            [
                [distance < fate.end_length and (fate.end_trained_always or fate.end_trained_if_chosen) for fate in fates]
                for distance in range(longest)
            ]
        ),
        key=torch.tensor(keys),
        role=torch.tensor(roles, dtype=torch.int8),
        is_masked=torch.tensor([is_masked[role] for role in roles]),
    )


def _tensor(table: Table) -> Tensor:
    return torch.from_numpy(table.astype("int64"))


def _id_tables(matcher: Matcher, rules: Rules) -> tuple[Tensor, Tensor]:
    size = max([*matcher.token_class, *rules.media], default=-1) + 1
    token_class = torch.zeros(size + 2, dtype=torch.int64)
    token_class[list(matcher.token_class)] = torch.tensor(list(matcher.token_class.values()))
    trainable = torch.ones(size + 2, dtype=torch.bool)
    trainable[[*rules.media, -1]] = False
    return token_class, trainable


def _longest_end(fates: Sequence[Fate]) -> int:
    """Return how many tokens the longest end marker has; 1 where there is none, so that no table is empty."""
    return max(1, *(fate.end_length for fate in fates))


def _key(fate: Fate, distance: int, longest: int, rules: Rules) -> int:
    """Return the claim of a fate on the token `distance` after its own.

    A claim is a rank and a role; 0 is none. In rising order: an end marker that no role emits, the later one first; the turn or span that
    the token is in; an end marker that some role emits, again the later one first.
    """
    claims = [(0, OUTSIDE)]
    if distance == 0 and fate.role != OUTSIDE:
        claims.append((longest + 1, fate.role))
    if distance < fate.end_length:
        claims.append((longest - distance + (longest + 1) * fate.end_emitted, fate.end_role))
    rank, role = max(claims)
    return rank * (len(rules.roles) + 1) + role + 1


def _emitted_key(longest: int, rules: Rules) -> int:
    """Return the lowest key of a token in an end marker that some role emits."""
    return (longest + 2) * (len(rules.roles) + 1)

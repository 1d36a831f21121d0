"""The page of what ids cannot tell, per marker set."""

from matrix import STATES, UNDECIDABLE, Chats, chats_of, leaks

import rolemask

from . import COMMAND


def page() -> str:
    """Return the page: each state of a chat that ids can't decide, with its sets and one example."""
    parts = [HEAD]
    for state, (reason, sets) in UNDECIDABLE.items():
        named = ", ".join(f"`{name}`" for name in sets)
        parts.append(f"## A chat {state}\n\n{reason}\n\n{_example(state, sets[0])}\n\n{len(sets)} sets: {named}.\n")
    return "\n".join(parts)


HEAD = f"""# What ids cannot tell

Written by `{COMMAND}`.

A test damages the examples of every marker set in every way that training data is damaged: cut from the left and from the right at each
token, without a stop token, two questions in a row, ended by force in the middle, put before another document with and without BOS.
Whatever the contents, nothing but the model's words may be trained. Where ids look the same whoever wrote them, no rule can hold. These are
all such cases.

What helps: tell where documents begin (`position_ids`, `seq_lens` and
[the other names](training.md#packed-and-padding-free-batches)), and keep a BOS token on each.

Two more cases hold for every set: a row with its middle cut out, and a user who types the markers of a format whose markers are plain text.
"""


def _example(state: str, name: str) -> str:
    chats = chats_of(rolemask.load(name))
    return f"For example, `{name}`; the first wrong token stands in double brackets:\n\n```text\n{_first_leak(state, chats)}\n```"


def _first_leak(state: str, chats: Chats) -> str:
    return next(leak for row in chats.rows for leak in leaks(list(STATES[state](row, chats)), chats))

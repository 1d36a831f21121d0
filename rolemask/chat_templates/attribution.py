"""Which message a chat template wrote each piece of its output for, and what it wrote inside `generation` blocks.

Jinja itself can tell: a template loops over the messages, so what it writes in an iteration, it writes for the message that the loop's
variable holds. Before a template is compiled, a mark is added to its syntax tree at the start of each iteration, and around each loop.
Marks are private-use characters; `read_marks` takes them out of the output again.

Macros and blocks that a template captures (`{% set x %}`, `{% filter %}`) get no marks, since the template may go on to look at that text.
A template that copies the messages, or collects its output in a variable, cannot be read like this: then nothing is known.
"""

import re
from collections.abc import Callable, Sequence

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

WRITTEN_FOR = "rolemask_written_for"
"""The name of the function that writes the marks; `render` gets it as a variable."""

_LOOP, _LOOP_ENDS, _MESSAGE, _GENERATION, _GENERATION_ENDS = "\ue0a2", "\ue0a3", "\ue0a4", "\ue0a0", "\ue0a1"
_MARK = re.compile(f"{_MESSAGE}([0-9]+);|[{_LOOP}{_LOOP_ENDS}{_GENERATION}{_GENERATION_ENDS}]")
# What is written inside these goes into a variable, or through a filter.
_CAPTURED = (jinja2.nodes.Macro, jinja2.nodes.AssignBlock, jinja2.nodes.FilterBlock)

Range = tuple[int, int]


class Generation(jinja2.ext.Extension):
    """The tag ``{% generation %}``, around what the model generates."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it like this

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:  # noqa: D102 - Jinja's
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{_GENERATION}{caller()}{_GENERATION_ENDS}"


def add_marks(node: jinja2.nodes.Node) -> None:
    """Add marks to the loops in a template's syntax tree."""
    if isinstance(node, _CAPTURED):
        return
    for child in list(node.iter_child_nodes()):
        add_marks(child)
    for statements in (getattr(node, field, None) for field in ("body", "else_")):
        if isinstance(statements, list):
            statements[:] = [marked for statement in statements for marked in _with_marks(statement)]


def _with_marks(statement: jinja2.nodes.Node) -> list[jinja2.nodes.Node]:
    if not isinstance(statement, jinja2.nodes.For):
        return [statement]
    # In `for i in range(...)`, a number is the index of a message.
    called = statement.iter.node if isinstance(statement.iter, jinja2.nodes.Call) else None
    counts = isinstance(called, jinja2.nodes.Name) and called.name == "range"
    target = statement.target
    names = [target] if isinstance(target, jinja2.nodes.Name) else list(target.find_all(jinja2.nodes.Name))
    arguments: list[jinja2.nodes.Expr] = [jinja2.nodes.Const(counts), *(jinja2.nodes.Name(name.name, "load") for name in names)]
    mark = jinja2.nodes.Call(jinja2.nodes.Name(WRITTEN_FOR, "load"), arguments, [], None, None)
    statement.body.insert(0, jinja2.nodes.Output([mark]))
    return [_text(_LOOP), statement, _text(_LOOP_ENDS)]


def _text(mark: str) -> jinja2.nodes.Node:
    return jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)])


def marker_of(messages: Sequence[object]) -> Callable[..., str]:
    """Return the function that writes the mark of a message: the one of `messages` that a loop's variable holds."""

    def mark(counts: bool, *values: object) -> str:
        for value in values:
            if counts and type(value) is int and 0 <= value < len(messages):
                return f"{_MESSAGE}{value};"
            for index, message in enumerate(messages):
                if value is message:
                    return f"{_MESSAGE}{index};"
        return ""

    return mark


def read_marks(marked: str) -> tuple[str, list[Range], list[tuple[int, int, int]]]:
    """Return an output without its marks, the ranges inside `generation` blocks, and what was written for which message.

    The last is a list of (start, stop, index of the message). A message for which nothing was written has an empty range.
    """
    parts: list[str] = []
    generated: list[Range] = []
    written: list[tuple[int, int, int]] = []
    opened: list[int] = []
    messages: list[int | None] = [None]  # of each loop around this place, outermost first
    size = begin = at = 0

    def close(index: int | None) -> None:
        if index is not None:
            written.append((begin, size, index))

    for mark in _MARK.finditer(marked):
        parts.append(marked[at : mark.start()])
        size += mark.start() - at
        at = mark.end()
        if mark.group() == _GENERATION:
            opened.append(size)
        elif mark.group() == _GENERATION_ENDS:
            generated.append((opened.pop(), size))
        else:
            close(messages[-1])
            begin = size
            if mark.group() == _LOOP:
                messages.append(messages[-1])
            elif mark.group() == _LOOP_ENDS:
                messages.pop()
            else:
                messages[-1] = int(mark.group(1))
    parts.append(marked[at:])
    return "".join(parts), generated, written

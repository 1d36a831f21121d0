"""Which message each piece of a rendered chat was written for."""

import pytest

from rolemask import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "Bye"}]


def pieces(source: str) -> list[str | None]:
    """Return what `source` wrote for each message; None where that is not known."""
    rendering = ChatTemplate(source, "toy", {}).render(MESSAGES)
    assert not any("\ue000" <= char <= "\uf8ff" for char in rendering.text)
    ranges = (rendering.own(index) for index in range(len(MESSAGES)))
    return [None if own is None else rendering.text[own[0] : own[1]] for own in ranges]


TURN = "<{{ m.role }}>{{ m.content }}"
TURNS = ["<user>Hi", "<assistant>", "<user>Bye"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Start.{% for m in messages %}" + TURN + "{% endfor %}End.", TURNS),
        ("{% for m in messages[1:] %}" + TURN + "{% endfor %}", [None, *TURNS[1:]]),
        ("{% for i in range(messages|length) %}{% set m = messages[i] %}" + TURN + "{% endfor %}", TURNS),
        ("{% for m in messages %}{% if m.content %}" + TURN + "{% else %}{% endif %}{% endfor %}", [TURNS[0], "", TURNS[2]]),
        ("{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}.{% endfor %}", ["Hi.", ".", "Bye."]),
        ("{% for m in messages %}{% for n in messages %}{% if n.x %}!{% endif %}{% endfor %}" + TURN + "{% endfor %}", TURNS),
        ("{% for m in messages %}{% generation %}" + TURN + "{% endgeneration %}{% endfor %}", TURNS),
        ("{% macro turn(m) %}" + TURN + "{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}", TURNS),
        ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}" + TURN + "{% endfor %}...", [TURNS[0], "", None]),
        # written twice, and not in one piece
        ("{% for m in messages %}{{ m.role }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}", [None, "assistant", None]),
        # collected, copied, captured: nothing is known
        ("{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role %}{% endfor %}{{ ns.t }}", ["", "", ""]),
        ("{% for m in messages | map('string') %}{{ m }}{% endfor %}", [None] * 3),
        ("{% set x %}{% for m in messages %}" + TURN + "{% endfor %}{% endset %}{{ x | length }}", [None] * 3),
        ("{% for n in range(-1, 3) %}{{ n }}{% endfor %}", ["0", "1", "2"]),
    ],
)  # fmt: skip
def test_what_was_written_for_each_message(source: str, expected: list[str | None]) -> None:
    assert pieces(source) == expected

"""The HTML page of `rolemask explain --html`."""

from collections.abc import Sequence

import jinja2

from rolemask.masking.explain import Explanation, visible


def to_html(explanations: Sequence[Explanation]) -> str:
    """Return a self-contained HTML page that shows what is trained in each chat."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("rolemask", "cli"), autoescape=True)
    environment.filters["visible"] = visible
    title = f"What a model learns from this chat: {explanations[0].name}" if explanations else "What a model learns from this chat"
    return environment.get_template("explain.html.jinja").render(explanations=explanations, title=title)

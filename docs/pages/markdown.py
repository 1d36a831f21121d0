"""Text for the cells of Markdown tables."""

from rolemask.masking.explain import visible


def cell(text: str) -> str:
    """Escape the bars, which would end a cell."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """Show a text as code, with its white space visible."""
    return f"`{cell(visible(text))}`"

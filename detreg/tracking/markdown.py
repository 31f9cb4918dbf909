"""Markdown in MLflow's descriptions, whose names come from files that anyone may have written."""

from detreg.errors import make_printable, shorten

MAX_NAME_LENGTH = 80
# Without those that have a meaning at the beginning of a line only, where no name stands.
_MARKS = set("\\`*_{}[]()<>#.!|~&$:@")


def quote_code(text: str) -> str:
    """Return a text as code, in which nothing but the end has a meaning."""
    line = make_printable(shorten(text))
    # A fence is longer than any run of backticks in the text.
    fence = "`"
    while fence in line:
        fence += "`"
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def escape(name: str) -> str:
    """Return a name as plain text on one line: every mark of markdown and HTML has a backslash."""
    line = make_printable(shorten(name, MAX_NAME_LENGTH))
    return "".join(f"\\{mark}" if mark in _MARKS else mark for mark in line)

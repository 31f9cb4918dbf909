"""Groups of findings as lines of text, at most a screenful."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import chain

from detreg.data.finding_groups import MAX_EXAMPLES, FindingGroup
from detreg.data.findings import Severity
from detreg.errors import make_printable, shorten

MAX_ROWS = 19
"""Rows of a screen that findings may fill; a verdict follows them, and a screen has 24 or more."""

_MIN_WIDTH = 40

_MAX_ROWS_OF_LINE = 5

_LABELS = {
    Severity.ERROR: "problem",
    Severity.WARNING: "warning",
    Severity.REPAIR: "repaired",
    Severity.NOTE: "note",
}

LineFormatter = Callable[[FindingGroup, int], list[str]]
"""Returns the lines of a group that show so many examples."""


def format_findings(
    groups: Sequence[FindingGroup], width: int | None, max_rows: int = MAX_ROWS
) -> list[str]:
    """Return what a terminal shows of the findings of a dataset.

    width: columns of the terminal, at which lines are broken; None does not break them.
    """
    return _fit(groups, _format_group, width, max_rows)


def format_problems(groups: Sequence[FindingGroup]) -> list[str]:
    """Return the lines of an exception that refuses a dataset with these findings."""
    errors = [group for group in groups if group.severity is Severity.ERROR]
    return _fit(errors, _format_error, None, MAX_ROWS)


def count_findings(groups: Sequence[FindingGroup], severity: Severity) -> int:
    """Return how many findings of a severity there are."""
    return sum(group.count for group in groups if group.severity is severity)


def _wrap_lines(lines: Sequence[str], width: int | None) -> list[str]:
    """Return the rows that lines fill."""
    rows: list[str] = []
    for line in lines:
        rows += wrap_line(line, width)
    return rows


def wrap_line(line: str, width: int | None) -> list[str]:
    """Return a line as the rows that it fills on a terminal of `width` columns."""
    if width is None:
        return [line]
    width = max(width, _MIN_WIDTH)
    shown = shorten(line, _MAX_ROWS_OF_LINE * width)
    return textwrap.wrap(shown, width, subsequent_indent="    ", break_on_hyphens=False)


def _fit(
    groups: Sequence[FindingGroup],
    format_group: LineFormatter,
    width: int | None,
    max_rows: int,
) -> list[str]:
    """Return the lines of all groups with three examples each, or with as many as fit a screen.

    Where one example each is too much, the last groups are counted only.
    """
    for examples in range(MAX_EXAMPLES, 0, -1):
        blocks = [_wrap_lines(format_group(group, examples), width) for group in groups]
        if sum(map(len, blocks)) <= max_rows:
            return list(chain.from_iterable(blocks))

    rows: list[str] = []
    for position, block in enumerate(blocks):
        # A row is left for what is hidden.
        if len(rows) + len(block) >= max_rows:
            return [*rows, f"... and {_count_hidden(groups[position:])}"]
        rows += block
    return rows


def _count_hidden(groups: Sequence[FindingGroup]) -> str:
    """Return how many findings are not shown, for a line."""
    counts = []
    for severity in Severity:
        count = count_findings(groups, severity)
        if count:
            counts.append(format_count(count, severity))
    return f"{join_words(counts)} of {format_number(len(groups), 'other kind')}"


def format_count(count: int, severity: Severity) -> str:
    """Return a number of findings in words, such as "1 problem" or "12 warnings"."""
    noun = "repair" if severity is Severity.REPAIR else _LABELS[severity]
    return format_number(count, noun)


def format_number(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 image" or "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join_words(words: Sequence[str]) -> str:
    """Return words as an enumeration: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _format_error(group: FindingGroup, examples: int) -> list[str]:
    """Return a line for the first example, and one with the places of the others.

    Where so few are alike that all are examples, each gets a line of its own.
    """
    if group.count <= examples:
        return group.list_examples()

    lines = group.list_examples(1)
    rest = f"... and {group.count - 1} more like it"
    places = group.list_places(examples)[1:]
    lines.append(f"{rest}: {', '.join(places)}, ..." if places else rest)
    return lines


def _format_group(group: FindingGroup, examples: int) -> list[str]:
    """Return the lines of a group, which begin with its severity."""
    label = _LABELS[group.severity]
    if group.severity is Severity.ERROR:
        lines = _format_error(group, examples)
        return [line if line.startswith("...") else f"{label}: {line}" for line in lines]

    # All findings of such a group say the same, so one line holds their places.
    places = ", ".join(group.list_places(examples))
    if group.count > examples:
        places += ", ..."
    return [make_printable(f"{label}: {group.first.text} ({group.count}): {places}")]

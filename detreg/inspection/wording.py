"""Counts and shares in words."""


def format_share(share: float) -> str:
    """Return a share from 0 to 1 as a percentage."""
    percent = 100 * share
    if 0 < percent < 1:
        return f"{percent:.1g} %"
    return f"{percent:.0f} %"


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun; the plural is that with an s where none is given."""
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"

"""Reads a share of a whole, as in `recall:0.95`. Standard library only."""


def parse_share(text: str) -> float | None:
    """Return a number over 0 and under 1, or None for any other text."""
    # float() also reads 1_0 and the digits of other scripts.
    if not text.isascii() or "_" in text:
        return None
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 < share < 1 else None

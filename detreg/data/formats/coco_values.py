"""Ids and numbers of COCO's JSON, in the spellings of many exporters."""

import re
from typing import TypeGuard

from detreg.errors import quote, shorten

_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0)?")
"""A number as programs write it: with zeros in front, text is a name and not a number."""


def make_key(value: object) -> str:
    """Return an id as text, by which it is compared: 7, 7.0 and "7" are the same."""
    if type(value) is int:
        return str(value)
    number = parse_whole_number(value)
    if number is not None:
        return str(number)
    if isinstance(value, str):
        return value
    return str(value) if value is None or isinstance(value, bool | float) else quote(value)


def parse_whole_number(value: object) -> int | None:
    """Return an id as a number; programs that work with tables write 7.0 for 7, or text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def format_id(value: object) -> str:
    """Return an id for a message."""
    return shorten(make_key(value))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON document is a number that fits a float."""
    # Exact types, which a parser of JSON returns: bool is a kind of int, and no number here.
    if type(value) is float:
        return True
    # JSON allows whole numbers that are too long for a float.
    return type(value) is int and abs(value) < 2**63

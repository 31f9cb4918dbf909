"""Reads yes-or-no values (COCO's iscrowd, VOC's difficult) in the spellings of many exporters."""

from detreg.data.findings import BadEntryError, FindingKind
from detreg.errors import quote

UNSPECIFIED_MESSAGE = "flag that says neither yes nor no taken as no"
"""Message of a repair: a flag is there, and its value is a word such as "Unspecified"."""

_TRUE_WORDS = ("1", "true", "yes", "y", "t")
_FALSE_WORDS = ("0", "false", "no", "n", "f")
_UNSPECIFIED_WORDS = ("unspecified", "unknown", "undefined", "none", "null", "nan", "n/a")


def parse_flag(value: object, name: str) -> bool | None:
    """Return whether a flag is set, None where it is there but says neither yes nor no.

    value: of JSON or the text of an element; what is missing or empty is not set.
    name: what to call the flag in a message.

    Raises BadEntryError for anything that could mean either.
    """
    if value is None or isinstance(value, bool):
        return bool(value)

    word = str(value).strip().casefold() if isinstance(value, str | int | float) else quote(value)
    if word == "" or word in _FALSE_WORDS:
        return False
    if word in _TRUE_WORDS:
        return True
    if word in _UNSPECIFIED_WORDS:
        return None

    # Programs that work with tables write 1.0 and 0.0.
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if number in (0, 1):
        return bool(number)
    raise BadEntryError(
        FindingKind.MALFORMED_ENTRY,
        f"{name} {quote(value)} is neither 0 nor 1; write one of them",
    )

"""Finds keys that an object of a JSON document has twice, of which parsers take the last."""

import json
from collections.abc import Sequence

from detreg.documents import decode_text
from detreg.errors import quote

_KEY_ENDS = (b'":', b'" :')


class _RepeatedKeyError(Exception):
    """A key that is given twice; the message says which one, and where."""


def describe_repeated_key(content: bytes, document: object) -> str | None:
    """Return which key an object of a document has twice, and where, None where there is none.

    content: the document as it was parsed without errors.

    To parse it again takes long, and is done only where the text does not have as many keys as
    the values.
    """
    try:
        num_written = sum(map(content.count, _KEY_ENDS))
        if num_written == _count_keys(document):
            return None
        # The hook returns nothing, so that no memory is filled.
        json.loads(decode_text(content), object_pairs_hook=_refuse_repeated_key)
    except _RepeatedKeyError as error:
        return str(error)
    # Nested more deeply than Python follows.
    except RecursionError:
        return None
    return None


def _count_keys(value: object) -> int:
    """Return how many keys there are in an object, and in those inside it and in its lists.

    Not in lists of lists, such as polygons, which would take longer than to parse them.
    """
    if not isinstance(value, dict):
        return 0
    count = len(value)
    for part in value.values():
        if type(part) is dict:
            count += _count_keys(part)
        elif type(part) is list and part and type(part[0]) is dict:
            count += sum(map(_count_keys, part))
    return count


def _refuse_repeated_key(pairs: Sequence[tuple[str, object]]) -> None:
    """Raise an error where two of the pairs of an object have the same key."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) == len(keys):
        return
    repeated = next(key for position, key in enumerate(keys) if key in keys[:position])
    where = f" of the object with the id {quote(dict(pairs)['id'])}" if "id" in keys else ""
    raise _RepeatedKeyError(f"the key {quote(repeated)}{where} is given twice")

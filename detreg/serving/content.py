"""What the body of a request holds, whatever its form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

COLUMN = "image"
"""The column, or the field of a form, that holds an image."""

EXAMPLE = 'send {"dataframe_records": [{"image": "<base64 of a JPEG or PNG file>"}]}'


@dataclass(frozen=True)
class Content:
    """Images that are not decoded yet, a cell for each, and params as they were given."""

    cells: tuple[object, ...]
    params: Mapping[str, object] = field(default_factory=dict)


def describe(value: object) -> str:
    """Return a value, or its kind, in the words of JSON."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)[:40]
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else type(value).__name__

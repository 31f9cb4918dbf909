"""Reads a JSON body: MLflow's protocol in its four forms.

MLflow's own reader is not used: it fails in many ways on wrong types, and what it makes of a body
of 32 MB can take gigabytes.
"""

import json
from collections.abc import Mapping

from detreg.errors import summarize_error
from detreg.serving.content import COLUMN, EXAMPLE, Content, describe
from detreg.serving.errors import BadRequest
from detreg.serving.params import MASKS_PARAM, PARAMS

_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_SPLIT_FORM = '{"columns": ["image"], "data": [["<base64>"], ...]}'

_MAX_JSON_VALUES = 10_000
"""An empty list is two bytes of JSON and 64 in memory. Base64 text has none of the characters that
separate values, so this leaves room for a hundred columns beside the images."""

_MAX_INTEGER_DIGITS = 18


def read_json(body: bytes) -> Content:
    """Return the images and the params of a body. Raises BadRequest."""
    num_values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if num_values > _MAX_JSON_VALUES:
        raise BadRequest(
            f"The body has more than {_MAX_JSON_VALUES} JSON values: {EXAMPLE}",
        )
    try:
        content = json.loads(body, parse_int=_parse_integer)
    except RecursionError as error:
        raise BadRequest(f"The body is nested too deeply: {EXAMPLE}") from error
    except ValueError as error:
        reason = summarize_error(error)[:200]
        raise BadRequest(f"The body is not valid JSON ({reason}): {EXAMPLE}") from error

    if not isinstance(content, dict):
        raise BadRequest(f"The body must be a JSON object, got {describe(content)}: {EXAMPLE}")
    cells = _read_form(content)
    return Content(tuple(cells), _read_params(content))


def _read_params(content: Mapping[str, object]) -> Mapping[str, object]:
    misplaced = [name for name in (*PARAMS, MASKS_PARAM) if name in content]
    if misplaced:
        name = misplaced[0]
        raise BadRequest(
            f'{name} belongs into params: send {{"dataframe_records": ..., '
            f'"params": {{"{name}": ...}}}}'
        )
    params = content.get("params")
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise BadRequest(f"params must be an object, got {describe(params)}")
    return params


def _parse_integer(text: str) -> int | float:
    # Python refuses to parse integers of more than 4300 digits, and nothing here is that large.
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else float(text)


def _read_form(content: Mapping[str, object]) -> list[object]:
    """Return the cells of the column `image`."""
    given = [form for form in _FORMS if form in content]
    if len(given) != 1:
        raise BadRequest(
            f"The body must have exactly one of the input fields {', '.join(_FORMS)}, "
            f"got {', '.join(given) or 'none'}: {EXAMPLE}"
        )

    form = given[0]
    value = content[form]
    if form == "dataframe_split":
        return _read_split(value)
    if form != "dataframe_records" and isinstance(value, dict) and COLUMN in value:
        column = value[COLUMN]
        return column if isinstance(column, list) else [column]
    if not isinstance(value, list):
        raise BadRequest(f"{form} must be a list of rows, got {describe(value)}: {EXAMPLE}")
    return [_read_row(position, row, form) for position, row in enumerate(value)]


def _read_row(position: int, row: object, form: str) -> object:
    if isinstance(row, dict):
        if COLUMN not in row:
            raise BadRequest(f"row {position}: it must have a column `{COLUMN}`: {EXAMPLE}")
        return row[COLUMN]
    if form == "dataframe_records":
        raise BadRequest(
            f"row {position}: it must be an object with a column `{COLUMN}`, "
            f"got {describe(row)}: {EXAMPLE}"
        )
    return row


def _read_split(value: object) -> list[object]:
    columns = value.get("columns") if isinstance(value, dict) else None
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise BadRequest(f"dataframe_split must be {_SPLIT_FORM}")
    if columns.count(COLUMN) != 1:
        raise BadRequest(f"dataframe_split must have one column `{COLUMN}`: send {_SPLIT_FORM}")

    cells = []
    for position, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise BadRequest(
                f"row {position}: it must be a list with a value for each of the "
                f"{len(columns)} columns: send {_SPLIT_FORM}"
            )
        cells.append(row[columns.index(COLUMN)])
    return cells

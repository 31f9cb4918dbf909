"""Reads the body of a request: the cells of its column `image`, and its params.

MLflow's protocol in its four JSON forms, CSV and Parquet. The cells are not decoded here, so that
only one image of a request is in memory at a time.

MLflow's own reader is not used: it fails in many ways on wrong types, and what it makes of a body
of 32 MB can take gigabytes.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import pandas as pd
import pyarrow.parquet as pq

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import UsageError, summarize_error
from detreg.inference.detector import check_limits
from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits

COLUMN = "image"

_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_EXAMPLE = 'send {"dataframe_records": [{"image": "<base64 of a JPEG or PNG file>"}]}'
_SPLIT_FORM = '{"columns": ["image"], "data": [["<base64>"], ...]}'

_MAX_JSON_VALUES = 10_000
"""An empty list is two bytes of JSON and 64 in memory. Base64 text has none of the characters that
separate values, so this leaves room for a hundred columns beside the images."""

_MAX_INTEGER_DIGITS = 18
_PARQUET_CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""Others pack gigabytes into kilobytes; Snappy, pandas' default, packs 21 bytes into one."""


@dataclass(frozen=True)
class DetectionRequest:
    """What a client asks for. `score_threshold` None is the model's own."""

    cells: tuple[object, ...]
    score_threshold: float | None = None
    max_detections: int = MAX_DETECTIONS


def read_request(body: bytes, content_type: str, limits: Limits) -> DetectionRequest:
    """Read a body. Raises BadRequest for everything that is not a request for detections."""
    media_type, _, parameters = content_type.lower().partition(";")
    reader = _READERS.get(media_type.strip())
    if reader is None or not _is_utf_8(parameters):
        raise BadRequest(
            f"The Content-Type must be one of {', '.join(_READERS)}, in UTF-8, "
            f"got {content_type[:100]!r}",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )

    request = reader(body, limits)
    num_images = len(request.cells)
    if num_images == 0:
        raise BadRequest("the input has no rows: send at least one image")
    if num_images > limits.max_images:
        raise BadRequest(f"the input has {num_images} rows: send at most {limits.max_images}")
    return request


def _is_utf_8(parameters: str) -> bool:
    """Tell whether the parameters of a Content-Type name no charset but UTF-8."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') != "utf-8":
            return False
    return True


def describe(value: object) -> str:
    """Return a value, or its kind, in the words of JSON."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)[:40]
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else type(value).__name__


def _read_json(body: bytes, limits: Limits) -> DetectionRequest:  # noqa: ARG001
    num_values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if num_values > _MAX_JSON_VALUES:
        raise BadRequest(
            f"The body has more than {_MAX_JSON_VALUES} JSON values: {_EXAMPLE}",
        )
    try:
        content = json.loads(body, parse_int=_parse_integer)
    except RecursionError as error:
        raise BadRequest(f"The body is nested too deeply: {_EXAMPLE}") from error
    except ValueError as error:
        reason = summarize_error(error)[:200]
        raise BadRequest(f"The body is not valid JSON ({reason}): {_EXAMPLE}") from error

    if not isinstance(content, dict):
        raise BadRequest(f"The body must be a JSON object, got {describe(content)}: {_EXAMPLE}")
    cells = _read_form(content)
    threshold, max_detections = _read_params(content.get("params"))
    return DetectionRequest(tuple(cells), threshold, max_detections)


def _parse_integer(text: str) -> int | float:
    # Python refuses to parse integers of more than 4300 digits, and nothing here is that large.
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else float(text)


def _read_form(content: Mapping[str, object]) -> list[object]:
    """Return the cells of the column `image`."""
    given = [form for form in _FORMS if form in content]
    if len(given) != 1:
        raise BadRequest(
            f"The body must have exactly one of the input fields {', '.join(_FORMS)}, "
            f"got {', '.join(given) or 'none'}: {_EXAMPLE}"
        )

    form = given[0]
    value = content[form]
    if form == "dataframe_split":
        return _read_split(value)
    if form != "dataframe_records" and isinstance(value, dict) and COLUMN in value:
        column = value[COLUMN]
        return column if isinstance(column, list) else [column]
    if not isinstance(value, list):
        raise BadRequest(f"{form} must be a list of rows, got {describe(value)}: {_EXAMPLE}")
    return [_read_row(position, row, form) for position, row in enumerate(value)]


def _read_row(position: int, row: object, form: str) -> object:
    if isinstance(row, dict):
        if COLUMN not in row:
            raise BadRequest(f"row {position}: it must have a column `{COLUMN}`: {_EXAMPLE}")
        return row[COLUMN]
    if form == "dataframe_records":
        raise BadRequest(
            f"row {position}: it must be an object with a column `{COLUMN}`, "
            f"got {describe(row)}: {_EXAMPLE}"
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


def _read_params(params: object) -> tuple[float | None, int]:
    """Return score_threshold and max_detections. Others are ignored, as MLflow does."""
    if params is None:
        return None, MAX_DETECTIONS
    if not isinstance(params, dict):
        raise BadRequest(f"params must be an object, got {describe(params)}")

    # A threshold of null is the model's own: MLflow's signature has always let it pass.
    threshold = params.get("score_threshold")
    if threshold is not None and not _is_number(threshold):
        raise BadRequest(
            f"score_threshold must be a number between 0 and 1, got {describe(threshold)}"
        )
    max_detections = params.get("max_detections", MAX_DETECTIONS)
    if not _is_number(max_detections) or isinstance(max_detections, float):
        raise BadRequest(f"max_detections must be an integer, got {describe(max_detections)}")

    try:
        check_limits(threshold or 0, max_detections)
    except UsageError as error:
        raise BadRequest("; ".join(error.problems)) from error
    return threshold, max_detections


def _is_number(value: object) -> bool:
    # In Python true and false are integers.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_csv(body: bytes, limits: Limits) -> DetectionRequest:
    try:
        table = pd.read_csv(
            io.StringIO(body.decode("utf-8-sig")),
            usecols=[COLUMN],
            dtype=str,
            keep_default_na=False,
            nrows=limits.max_images + 1,
        )
    except ValueError as error:
        reason = summarize_error(error)[:200]
        raise BadRequest(f"The body is not CSV with a column `{COLUMN}` ({reason})") from error
    return DetectionRequest(tuple(table[COLUMN].tolist()))


def _read_parquet(body: bytes, limits: Limits) -> DetectionRequest:
    try:
        # As a dictionary, so that a value that many rows share is in memory once.
        file = pq.ParquetFile(io.BytesIO(body), read_dictionary=[COLUMN])
        _check_parquet(file.metadata, limits)
        column = file.read(columns=[COLUMN]).column(COLUMN)
        cells: list[object] = []
        for chunk in column.chunks:
            values = chunk.dictionary.to_pylist()
            cells += [
                None if index is None else values[index] for index in chunk.indices.to_pylist()
            ]
    except BadRequest:
        raise
    except Exception as error:  # whatever Arrow raises, the body is the cause
        reason = summarize_error(error)[:200]
        raise BadRequest(f"The body is not Parquet with a column `{COLUMN}` ({reason})") from error
    return DetectionRequest(tuple(cells))


def _check_parquet(metadata: pq.FileMetaData, limits: Limits) -> None:
    """Refuse what would be large in memory. Raises BadRequest."""
    if metadata.num_rows > limits.max_images:
        raise BadRequest(
            f"the input has {metadata.num_rows} rows: send at most {limits.max_images}"
        )

    num_bytes = 0
    for group in range(metadata.num_row_groups):
        for position in range(metadata.num_columns):
            column = metadata.row_group(group).column(position)
            num_bytes += column.total_uncompressed_size
            if column.compression not in _PARQUET_CODECS:
                raise BadRequest(
                    f"The Parquet body is compressed with {column.compression}: "
                    "compress it with snappy, or not at all"
                )
    if num_bytes > limits.max_body_bytes:
        raise BadRequest(
            f"The Parquet body holds {num_bytes} bytes uncompressed: "
            f"send at most {limits.max_body_bytes}",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


_READERS: dict[str, Callable[[bytes, Limits], DetectionRequest]] = {
    "application/json": _read_json,
    "text/csv": _read_csv,
    "application/vnd.apache.parquet": _read_parquet,
}

"""Reads the column `image` of a body that is CSV or Parquet."""

import io
from http import HTTPStatus

import pandas as pd
import pyarrow.parquet as pq

from detreg.errors import summarize_error
from detreg.serving.content import COLUMN, Content
from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits

_PARQUET_CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""Others pack gigabytes into kilobytes; Snappy, pandas' default, packs 21 bytes into one."""


def read_csv(body: bytes, limits: Limits) -> Content:
    """Return the images of a CSV body. Raises BadRequest."""
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
    return Content(tuple(table[COLUMN].tolist()))


def read_parquet(body: bytes, limits: Limits) -> Content:
    """Return the images of a Parquet body. Raises BadRequest."""
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
    return Content(tuple(cells))


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

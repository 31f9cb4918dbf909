"""Which tracking store the run of a folder is in: the file run.json.

A store's URI is kept without its password. Whoever delivers the run must know that.
"""

import json
from pathlib import Path

import mlflow
import sqlalchemy
from sqlalchemy.exc import ArgumentError

from detreg.errors import UsageError
from detreg.files import write_atomically
from detreg.redaction import HIDDEN, redact

_HEADER = "run.json"


def write_header(folder: Path) -> None:
    """Write down the store in use. Raises OSError."""
    content = {"tracking_uri": _describe_store(mlflow.get_tracking_uri())}
    with write_atomically(folder / _HEADER) as file:
        file.write(json.dumps(content).encode())


def read_tracking_uri(folder: Path) -> str:
    """Return the URI of the store that a folder's run is in.

    Raises UsageError where it has a password that MLFLOW_TRACKING_URI does not tell, OSError, and
    ValueError or KeyError for a file of another form.
    """
    stored = str(json.loads((folder / _HEADER).read_text())["tracking_uri"])
    in_use = str(mlflow.get_tracking_uri())
    if stored == _describe_store(in_use):
        return in_use
    if HIDDEN in stored:
        raise UsageError(
            f"the run of {folder} is in {stored}: set MLFLOW_TRACKING_URI to that with its password"
        )
    return stored


def is_of_store_in_use(folder: Path) -> bool:
    """Whether a folder's run is in the store in use, or in none because its process died early."""
    try:
        return read_tracking_uri(folder) == mlflow.get_tracking_uri()
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, UsageError):
        return False


def _describe_store(uri: str) -> str:
    """Return a store's URI for any working directory, with *** in place of a password."""
    try:
        url = sqlalchemy.make_url(uri)
    except ArgumentError:  # a folder, or `databricks`
        return redact(uri)
    if url.drivername.startswith("sqlite") and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return redact(url.render_as_string(hide_password=False))

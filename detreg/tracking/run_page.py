"""Where MLflow shows a run."""

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from detreg.environment import find_program
from detreg.errors import UnreachableError
from detreg.redaction import redact
from detreg.tracking.runs import get_run, get_tracking_uri

_LOCAL_SERVER = "http://127.0.0.1:5000"
"""Of `mlflow ui`."""
_DEFAULT_STORES = ("mlflow.db", "mlruns")
"""What `mlflow ui` opens by itself, in the folder where it is started."""


def describe_run_page(eid: str, folder: Path) -> str:
    """Return the URL of a run's page, after the command that starts a server where there is none.

    `folder` is where the user stands. MLflow opens its pages for language models unless the URL
    asks for those of trainings.
    """
    uri = get_tracking_uri()
    try:
        experiment = get_run(eid).info.experiment_id
    except UnreachableError:
        return f"run {eid} in {redact(uri)}"
    page = f"#/experiments/{experiment}/runs/{eid}?workflowType=machine_learning"

    scheme, host, path, *_ = urlsplit(uri)
    if scheme in ("http", "https"):
        without_password = host.rpartition("@")[2]
        return f"{scheme}://{without_password}{path.rstrip('/')}/{page}"
    if scheme == "databricks":
        return f"run {eid} in {uri}"

    store = ""
    if not _is_found_in(uri, folder):
        store = f" --backend-store-uri {shlex.quote(redact(_make_absolute(uri)))}"
    return f"{find_program('mlflow')} ui{store}, then {_LOCAL_SERVER}/{page}"


def _is_found_in(uri: str, folder: Path) -> bool:
    """Whether `mlflow ui` without arguments opens this store in a folder."""
    path = _find_path(uri)
    return path is not None and path in [folder / name for name in _DEFAULT_STORES]


def _make_absolute(uri: str) -> str:
    path = _find_path(uri)
    if path is None or not uri.startswith("sqlite:"):
        return uri
    return f"sqlite:///{path}"


def _find_path(uri: str) -> Path | None:
    """Return the file or folder of a local store; None for a database server."""
    for start in ("sqlite:///", "file://", "file:"):
        if uri.startswith(start):
            return Path.cwd() / uri.removeprefix(start)
    return None if "://" in uri else Path.cwd() / uri

"""The environment: the cache's folder, defaults of MLflow's variables, how programs start."""

import os
import shlex
import shutil
import sys
from pathlib import Path

_MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that refuses connections is given up after seconds; at MLflow's seven retries every
    # call takes minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def set_mlflow_defaults() -> None:
    """Set the variables that are not set.

    To be called before anything imports MLflow, which reads some of them while it is imported.
    """
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)


def resolve_cache_folder(cache: str | Path | None = None) -> Path:
    """Return the folder for files that detreg can create again.

    It is `cache`, else the environment variable DETREG_CACHE, else ~/.cache/detreg.
    """
    default = Path.home() / ".cache" / "detreg"
    folder = Path(cache or os.environ.get("DETREG_CACHE") or default)
    return folder.expanduser().resolve()


def find_program(name: str) -> str:
    """Return how a program of this Python is started where the user stands, for a command to type.

    Its name is not found where an environment is used without being activated.
    """
    return name if shutil.which(name) else f"{shlex.quote(sys.executable)} -m {name}"

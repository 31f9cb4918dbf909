"""Defaults for MLflow's environment variables, which a user's own settings override."""

import os

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

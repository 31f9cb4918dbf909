"""Defaults for MLflow's environment variables, which a user's own settings override."""

import os

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that refuses connections is found dead in seconds; at MLflow's seven tries every call takes minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def set_mlflow_defaults() -> None:
    """Sets those that are not set. Called before anything imports MLflow, which reads some of them then."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)

"""Finds the ONNX file that MODEL names: a file, an MLflow run or a registered version."""

import os
import re
import tempfile
from pathlib import Path

from detreg.environment import set_mlflow_defaults
from detreg.errors import DataError, NotFoundError, UsageError
from detreg.mlflow_errors import translate_mlflow_errors

MODEL_NAME = "model"
"""The name that a run's model is logged with: runs:/<run id>/model."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def read_model(model: str | os.PathLike[str]) -> bytes:
    """The bytes of the ONNX file.

    `model` is an .onnx file, a run id, `runs:/<run id>/model`, `models:/name@alias` or `models:/name/3`; MLflow is asked only for the
    latter four. Raises NotFoundError, UsageError for text that names no kind of model, UnreachableError, and DataError where an MLflow
    model holds no ONNX file.
    """
    name = os.fspath(model)
    if _RUN_ID.fullmatch(name):
        return _download(
            f"runs:/{name}/{MODEL_NAME}",
            f"Run {name} is not there or has logged no model: see its page, or train again",
        )
    if name.startswith("runs:/"):
        return _download(name, f"{name} is not there: a run's model is runs:/<run id>/{MODEL_NAME}")
    if name.startswith("models:/"):
        return _download(
            name,
            f"{name} is not registered: look for the name, and the version or alias, in MLflow's model registry",
        )
    if Path(name).suffix.lower() != ".onnx":
        raise UsageError(
            f"{name!r} is no model: give an .onnx file, a run id (32 hexadecimal digits), models:/name@alias or models:/name/3"
        )
    try:
        return Path(name).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{name}: there is no such file") from error


def _download(uri: str, missing: str) -> bytes:
    set_mlflow_defaults()  # before MLflow is imported: no progress bar of its own
    import mlflow

    with tempfile.TemporaryDirectory() as folder, translate_mlflow_errors(missing):
        try:
            downloaded = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except OSError as error:  # the entry is there, its files are gone
            raise NotFoundError(
                f"{uri}: its files are gone from the artifact store ({error})"
            ) from error
        files = sorted(downloaded.glob("artifacts/*.onnx"))
        if len(files) != 1:
            raise DataError(
                f"{uri} holds {len(files)} ONNX files instead of one: it was not logged by detreg"
            )
        return files[0].read_bytes()

"""Reads the ONNX file that MODEL names: a file, an MLflow run or a registered version."""

import os
import re
from pathlib import Path

from detreg.environment import set_mlflow_defaults
from detreg.errors import NotFoundError, UsageError
from detreg.files import read_regular

MODEL_NAME = "model"
"""The name that a run's model is logged with: runs:/<run id>/model."""

MAX_MODEL_BYTES = 1 << 30
"""Largest ONNX file that is read. That of yolox_x has 378 MiB, and that of a RetinaNet with a
regressor for each of 1200 classes 513."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def read_model(model: str | os.PathLike[str]) -> bytes:
    """Return the bytes of the ONNX file.

    `model` is an .onnx file, a run id, `runs:/<run id>/model`, `models:/name@alias` or
    `models:/name/3`; MLflow is imported only for the latter four. Raises NotFoundError, UsageError
    for text that names no kind of model, UnreachableError, RefusedError for a registered version
    whose file is not the one that was registered, and DataError where an MLflow model holds no ONNX
    file, or the file is too large or not a regular one.
    """
    name = os.fspath(model)
    if _RUN_ID.fullmatch(name):
        return _download(f"runs:/{name}/{MODEL_NAME}")
    if name.startswith(("runs:/", "models:/")):
        return _download(name)
    if Path(name).suffix.lower() != ".onnx":
        raise UsageError(
            f"{name!r} is not a model: give an .onnx file, a run id (32 hexadecimal digits), "
            "models:/name@alias or models:/name/3"
        )
    try:
        return read_regular(name, MAX_MODEL_BYTES)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{name}: there is no such file") from error


def _download(uri: str) -> bytes:
    set_mlflow_defaults()  # MLflow reads some of them when it is imported
    from detreg.mlflow_models import download_onnx  # noqa: PLC0415 (imports MLflow)

    return download_onnx(uri, MAX_MODEL_BYTES)

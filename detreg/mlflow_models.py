"""Downloads the ONNX file of a model that is logged or registered in MLflow."""

import tempfile
from pathlib import Path

import mlflow

from detreg.errors import DataError, NotFoundError
from detreg.mlflow_errors import translate_mlflow_errors


def download_onnx(uri: str) -> bytes:
    """Return the ONNX file of `runs:/<run id>/model`, `models:/name@alias` or `models:/name/3`.

    Raises NotFoundError, UnreachableError, and DataError where the model holds no ONNX file.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        translate_mlflow_errors(_describe_missing(uri)),
    ):
        try:
            path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except OSError as error:
            # MLflow has an entry for the model, but the artifact store has lost the files.
            raise NotFoundError(
                f"{uri}: its files are gone from the artifact store ({error})"
            ) from error

        files = sorted(path.glob("artifacts/*.onnx"))
        if len(files) != 1:
            raise DataError(
                f"{uri} holds {len(files)} ONNX files instead of one: it was not logged by detreg"
            )
        return files[0].read_bytes()


def _describe_missing(uri: str) -> str:
    if uri.startswith("models:/"):
        return (
            f"{uri} is not registered: look for the name, and the version or alias, "
            "in MLflow's model registry"
        )
    return (
        f"{uri} is not there: the run does not exist or has logged no model. See the run's page, "
        "or train again"
    )

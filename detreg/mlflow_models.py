"""Downloads the ONNX file of a model that is logged or registered in MLflow, and verifies it.

The sha256 of the file is kept in two places when it is registered: as a tag of the version, in the
registry's database, and in the metadata of the MLflow model, beside the file in the artifact store.
Who can write to the artifact store alone can replace the file and its metadata, not the tag.
"""

import hashlib
import re
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.models import Model

from detreg.errors import DataError, NotFoundError, RefusedError
from detreg.files import read_regular
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.redaction import redact

ONNX_SHA256 = "onnx_sha256"
"""The tag of a version, and the key in a model's metadata, with the sha256 of its ONNX file."""

_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")


def download_onnx(uri: str, max_bytes: int) -> bytes:
    """Return the ONNX file of `runs:/<run id>/model`, `models:/name@alias` or `models:/name/3`.

    Raises NotFoundError, UnreachableError, RefusedError where the file is not the one that was
    registered or logged, and DataError where the model holds no ONNX file of at most `max_bytes`.
    Warns of a version that was registered without a sha256.
    """
    with translate_mlflow_errors(_describe_missing(uri)):
        version_uri, registered_sha256 = _find_registered_sha256(uri)
    if version_uri is not None and registered_sha256 is None:
        print(
            f"{uri} was registered before detreg kept the sha256 of the file: it cannot be "
            "verified. Register it again to have that",
            file=sys.stderr,
            flush=True,
        )

    # An alias may move at any moment: what is downloaded is the version whose tag was read.
    data = _download(version_uri or uri, max_bytes)
    if registered_sha256 is not None and hashlib.sha256(data).hexdigest() != registered_sha256:
        raise RefusedError(
            f"{uri}: its ONNX file in the artifact store is not the one that was registered "
            f"(sha256 {registered_sha256[:16]}...): somebody has changed it. Serve another "
            "version, or register the model again"
        )
    return data


def check_logged_sha256(model_folder: Path, data: bytes) -> None:
    """Raise RefusedError where the metadata of a local MLflow model name another ONNX file.

    Models that were logged before detreg wrote the sha256 there pass.
    """
    if not (model_folder / "MLmodel").is_file():
        return
    metadata = Model.load(str(model_folder)).metadata or {}
    logged_sha256 = metadata.get(ONNX_SHA256)
    if logged_sha256 is not None and hashlib.sha256(data).hexdigest() != logged_sha256:
        raise RefusedError(
            f"{model_folder}: its ONNX file is not the one that was logged (sha256 "
            f"{str(logged_sha256)[:16]}...): somebody has changed it"
        )


def _find_registered_sha256(uri: str) -> tuple[str | None, str | None]:
    """Return the URI of the registered version and its sha256.

    Both are None for a model that is not registered, the second for one without the tag.
    """
    client = MlflowClient()
    if match := _ALIAS.fullmatch(uri):
        version = client.get_model_version_by_alias(*match.groups())
    elif match := _VERSION.fullmatch(uri):
        version = client.get_model_version(*match.groups())
    else:
        return None, None
    return f"models:/{version.name}/{version.version}", version.tags.get(ONNX_SHA256)


def _download(uri: str, max_bytes: int) -> bytes:
    """Return the ONNX file of a model, which is that of its own metadata."""
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
        data = read_regular(files[0], max_bytes)
        check_logged_sha256(path, data)
        return data


def _describe_missing(uri: str) -> str:
    if uri.startswith("models:/"):
        return (
            f"{uri} is not registered in {redact(mlflow.get_registry_uri())}: look for the name, "
            "and the version or alias, or set MLFLOW_TRACKING_URI to the server or database that "
            "has it"
        )
    return (
        f"{uri} is not there: the run does not exist or has logged no model. See the run's page, "
        "or train again"
    )

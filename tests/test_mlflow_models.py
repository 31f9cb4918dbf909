"""The ONNX file of a registered model is the one that was registered, or it is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient
from toy_detector import CARD, write_toy_model

from detreg.errors import RefusedError
from detreg.files import compute_sha256
from detreg.inference.detector import Detector
from detreg.mlflow_models import ONNX_SHA256

MLMODEL = Path(__file__).parent / "compatibility" / "MLmodel"
OTHER_CARD = replace(CARD, classes=("whale", "shark"))


def write_model_folder(folder: Path, sha256: str | None = None) -> Path:
    """Write an MLflow model with the toy's file; returns the file."""
    onnx_path = folder / "artifacts" / "toy.onnx"
    onnx_path.parent.mkdir(parents=True)
    write_toy_model(onnx_path)
    description = yaml.safe_load(MLMODEL.read_text())
    if sha256 is not None:
        description["metadata"] = {ONNX_SHA256: sha256}
    # JSON is YAML, too.
    (folder / "MLmodel").write_text(json.dumps(description, default=str))
    return onnx_path


def register(name: str, folder: Path, tags: dict[str, str]) -> None:
    client = MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, source=folder.as_uri(), tags=tags)
    client.set_registered_model_alias(name, "champion", "1")


@pytest.mark.parametrize("end", ["/1", "@champion"])
def test_a_file_that_was_replaced_in_the_artifact_store_is_refused(
    end: str, store: str, tmp_path: Path
) -> None:
    name = f"replaced{end[0].replace('/', '-').replace('@', '-')}{end[1:]}"
    onnx_path = write_model_folder(tmp_path / "model")
    register(name, tmp_path / "model", {ONNX_SHA256: compute_sha256(onnx_path)})
    uri = f"models:/{name}{end}"
    assert Detector.load(uri).classes == CARD.classes

    write_toy_model(onnx_path, OTHER_CARD)
    with pytest.raises(RefusedError, match="is not the one that was registered"):
        Detector.load(uri)


def test_a_version_without_a_sha256_loads_with_a_warning(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model_folder(tmp_path / "model")
    register("from-before", tmp_path / "model", {})
    assert Detector.load("models:/from-before/1").classes == CARD.classes
    assert "models:/from-before/1 was registered before detreg kept" in capsys.readouterr().err


def test_a_file_that_differs_from_its_own_metadata_is_refused(store: str, tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model", sha256="0" * 64)
    register("other-metadata", tmp_path / "model", {})
    with pytest.raises(RefusedError, match="is not the one that was logged"):
        Detector.load("models:/other-metadata/1")


def test_the_served_model_compares_the_file_with_its_metadata(tmp_path: Path) -> None:
    """All that `mlflow models serve` has is the folder."""
    from detreg.serving.model import ServedDetector

    onnx_path = write_model_folder(tmp_path / "model")
    model_folder = tmp_path / "second"
    onnx_path = write_model_folder(model_folder, compute_sha256(onnx_path))
    context = SimpleNamespace(artifacts={"onnx": str(onnx_path)}, model_config={})
    ServedDetector().load_context(context)  # type: ignore[arg-type]

    write_toy_model(onnx_path, OTHER_CARD)
    with pytest.raises(RefusedError, match="is not the one that was logged"):
        ServedDetector().load_context(context)  # type: ignore[arg-type]

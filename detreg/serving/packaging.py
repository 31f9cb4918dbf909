"""Logs an ONNX file as the MLflow model that `mlflow models serve` serves."""

import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from detreg.defaults import MAX_DETECTIONS
from detreg.inference.card import Card
from detreg.inference.detector import Detector
from detreg.inference.model_files import MODEL_NAME

REQUIREMENTS = ("mlflow", "numpy", "opencv-python-headless", "onnxruntime-gpu", "pandas", "pillow")
"""What the served model imports. Inferred requirements would name the CPU build of onnxruntime."""

_HERE = Path(__file__).parent


def signature(score_threshold: float) -> ModelSignature:
    """The input, output and params of the served model; `score_threshold` is the default of the param."""
    number = DataType.double
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(Array(Array(number)), "boxes"),
                ColSpec(Array(number), "scores"),
                ColSpec(Array(DataType.long), "labels"),
                ColSpec(Array(DataType.string), "class_names"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("score_threshold", number, score_threshold),
                ParamSpec("max_detections", DataType.long, MAX_DETECTIONS),
            ],
        ),
    )


def log_model(onnx_path: Path, name: str = MODEL_NAME, *, require_gpu: bool = False) -> ModelInfo:
    """Logs an ONNX file that detreg exported to the active run (a new one where there is none).

    `require_gpu` makes the served model refuse to start off the GPU. Raises what `Detector.load` raises for a file that is none.
    """
    card = Detector.load(onnx_path).card
    with warnings.catch_warnings():
        # An example would be run at every logging, to learn what the signature below already says.
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        info: ModelInfo = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(_HERE / "model.py"),
            artifacts={"onnx": str(onnx_path)},
            code_paths=[str(_HERE.parent)],
            signature=signature(card.score_threshold),
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            model_config={"require_gpu": require_gpu},
            metadata=_metadata(card),
        )
    return info


def _metadata(card: Card) -> dict[str, str | list[str] | None]:
    return {
        "template": card.template,
        "classes": list(card.classes),
        "eid": card.eid,
        "dataset_digest": card.dataset_digest,
        "detreg_version": card.detreg_version,
    }

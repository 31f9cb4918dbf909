"""Logs an ONNX file as the MLflow model that `mlflow models serve` serves."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import onnxruntime
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

from detreg.defaults import MAX_DETECTIONS
from detreg.files import compute_sha256
from detreg.inference.card import Card
from detreg.inference.detector import Detector
from detreg.inference.masks import choose_mask_form
from detreg.inference.model_files import MODEL_NAME
from detreg.inference.outputs import OUTPUTS, Output
from detreg.mlflow_models import ONNX_SHA256
from detreg.serving.params import MASKS_PARAM

REQUIREMENTS = ("mlflow", "numpy", "opencv-python-headless", "pandas", "pillow")
"""What the served model imports, beside onnxruntime.

They are not inferred, because MLflow would name the CPU build of onnxruntime."""

_HAS_CUDA = (
    "sys_platform != 'darwin' and (platform_machine == 'x86_64' or platform_machine == 'AMD64')"
)
"""Where there are wheels of onnxruntime with CUDA; those without are elsewhere. As in
pyproject.toml."""
_HAS_NO_CUDA = (
    "sys_platform == 'darwin' or (platform_machine != 'x86_64' and platform_machine != 'AMD64')"
)

_MODEL_FILE = Path(__file__).with_name("model.py")
_PACKAGE = Path(__file__).parents[1]
_EXAMPLE_SIZE = 64
"""Width and height in pixels."""
_JSON_TYPES = {"float32": DataType.double, "int64": DataType.long}


def log_model(onnx_path: Path, name: str = MODEL_NAME, *, require_gpu: bool = False) -> ModelInfo:
    """Log an ONNX file that detreg exported to the active run, or to a new one.

    `require_gpu` makes the served model refuse to start without a GPU. Raises what `Detector.load`
    raises for any other file.
    """
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=_UncheckedPyfunc,
        flavor_name="pyfunc",
        validate_serving_input=False,
        code_paths=[str(_PACKAGE)],
        model_config={"require_gpu": require_gpu},
        **_build_content(onnx_path),
    )
    return info


def save_model(onnx_path: Path, folder: Path) -> None:
    """Write an ONNX file as an MLflow model into a new folder, for this process to serve.

    The model uses the detreg that runs, and has no copy of it. Raises what `log_model` raises.
    """
    mlflow.pyfunc.save_model(path=str(folder), **_build_content(onnx_path))


def _build_content(onnx_path: Path) -> dict[str, Any]:
    """Return what MLflow's functions take to log or to save the model."""
    card = Detector.load(onnx_path).card
    sha256 = compute_sha256(onnx_path)
    return {
        "python_model": str(_MODEL_FILE),
        "artifacts": {"onnx": str(onnx_path)},
        "signature": _build_signature(card),
        "input_example": _draw_example(),
        "pip_requirements": list_requirements(),
        "metadata": _build_metadata(card) | {ONNX_SHA256: sha256},
    }


def list_requirements() -> list[str]:
    """Return what pip installs for the served model, in the versions that are installed here.

    onnxruntime comes with CUDA and cuDNN, which torch brings here and nothing else would bring
    there. It runs on the CPU where there is no GPU.
    """
    pinned = [f"{package}=={version(package)}" for package in REQUIREMENTS]
    runtime = onnxruntime.__version__
    return [
        *pinned,
        f"onnxruntime-gpu[cuda,cudnn]=={runtime} ; {_HAS_CUDA}",
        f"onnxruntime=={runtime} ; {_HAS_NO_CUDA}",
    ]


class _UncheckedPyfunc:
    """MLflow's pyfunc flavor, which does not run the input example when a model is logged.

    `mlflow.pyfunc.log_model` loads the model again for that. What it would find is known: the
    signature is given, and the file has just been compared with the trained network.
    """

    @staticmethod
    def save_model(path: str, *, validate_serving_input: bool, **content: Any) -> None:
        """Write the model into a folder."""
        assert not validate_serving_input  # it is Model.log that looks at it
        mlflow.pyfunc.save_model(path=path, **content)


def _draw_example() -> pd.DataFrame:
    """Return a request with a small image of a few hundred bytes, which is nobody's."""
    ramp = np.linspace(0, 255, _EXAMPLE_SIZE, dtype=np.uint8)
    pixels = np.broadcast_to(ramp[:, None], (_EXAMPLE_SIZE, _EXAMPLE_SIZE))
    _, jpeg = cv2.imencode(".jpg", pixels)
    return pd.DataFrame({"image": [jpeg.tobytes()]})


def _build_signature(card: Card) -> ModelSignature:
    """Return the input, the columns of the answer, and the params with their defaults."""
    columns: list[ColSpec | TensorSpec] = []
    for output in OUTPUTS:
        if output.name in card.outputs:
            columns.append(_build_column(output))
    columns.append(ColSpec(Array(DataType.string), "class_names"))
    params = [
        ParamSpec("score_threshold", DataType.double, card.score_threshold),
        ParamSpec("max_detections", DataType.long, MAX_DETECTIONS),
    ]
    if card.has_masks:
        params.append(ParamSpec(MASKS_PARAM, DataType.string, choose_mask_form(None, True)))
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(columns),
        params=ParamSchema(params),
    )


def _build_column(output: Output) -> ColSpec:
    """Return the column of an output: for each image, an array with a row for each detection.

    That of a mask holds the coordinates of its polygons, which is its usual form.
    """
    column_type = Array(_JSON_TYPES[output.dtype])
    for _ in output.detection_axes:
        column_type = Array(column_type)
    return ColSpec(column_type, output.name)


def _build_metadata(card: Card) -> dict[str, str | list[str] | None]:
    return {
        "template": card.template,
        "classes": list(card.classes),
        "eid": card.eid,
        "dataset_digest": card.dataset_digest,
        "detreg_version": card.detreg_version,
    }

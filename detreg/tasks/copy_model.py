"""Copies the file of a model that was exported when it was trained."""

from pathlib import Path

from detreg.inference.detector import Detector
from detreg.inference.model_files import read_model


def copy_model(model: str, out: str) -> Path:
    """Copy the ONNX file of a run or a registered model to `out`.

    It was compared with the trained network when it was made.
    """
    Detector.load(model)  # refuses what is no model of detreg
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(read_model(model))
    return path

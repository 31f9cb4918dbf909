"""What `mlflow models serve` runs: one Detector behind MLflow's scoring protocol, as a model from code.

MLflow copies this file into the model and runs it there; the rest of detreg comes from the model's own copy of the package.
Input: a column `image`, one JPEG or PNG a row, as bytes or base64 text. Output: a dict each with boxes (lists of x1, y1, x2, y2 in the
picture's pixels), scores, labels and class_names. Params: score_threshold, max_detections.
"""

import base64
import binascii
import os
import re
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from detreg.errors import DataError, UsageError
from detreg.inference.detector import Detector
from detreg.inference.images import decode_image
from detreg.serving.errors import BadRequest, answer_in_one_line

_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+=*\s*")


class ServedDetector(PythonModel):
    """Loads the logged ONNX file and answers requests."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the detector.

        Raises RefusedError off the GPU where the model configuration has `require_gpu` or DETREG_REQUIRE_GPU is set.
        """
        asked = os.environ.get("DETREG_REQUIRE_GPU", "").lower() not in ("", "0", "false")
        configured = bool((context.model_config or {}).get("require_gpu"))
        self.detector = Detector.load(context.artifacts["onnx"], require_gpu=asked or configured)
        answer_in_one_line()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:  # noqa: ARG002
        """Detects in the pictures of the column `image`: a dict for each row, in the rows' order.

        Dicts, because building a table and taking it apart again costs a third of a small network's time.
        Raises BadRequest, which names every row that is wrong.
        """
        images = _decode_all(model_input["image"].tolist())
        try:
            found = self.detector.batch(images, **(params or {}))
        except UsageError as error:
            raise BadRequest("; ".join(error.problems)) from error
        return [
            {
                "boxes": detections.boxes.tolist(),
                "scores": detections.scores.tolist(),
                "labels": detections.labels.tolist(),
                "class_names": detections.names,
            }
            for detections in found
        ]


def _decode_all(values: list[Any]) -> list[NDArray[np.uint8]]:
    images: list[NDArray[np.uint8]] = []
    problems: list[str] = []
    for row, value in enumerate(values):
        try:
            images.append(decode_image(_file_bytes(value)))
        except DataError as error:
            problems += [f"row {row}: {problem}" for problem in error.problems]
    if problems:
        raise BadRequest("; ".join(problems))
    if not images:
        raise BadRequest("the input has no rows: send at least one picture")
    return images


def _file_bytes(value: Any) -> bytes:
    """The picture file in one cell.

    MLflow decodes base64 in `dataframe_split` and `dataframe_records` only; what comes as `inputs` or `instances` is still text, as
    bytes or in an array without dimensions. No picture format is base64 text by itself: each has bytes outside its alphabet.
    """
    data = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    data = data.encode() if isinstance(data, str) else data
    if not isinstance(data, bytes):
        raise DataError(
            f"a picture is the bytes of a file or their base64 text, not {type(data).__name__}"
        )
    if not _BASE64.fullmatch(data):
        return data
    try:
        return base64.b64decode(data)
    except binascii.Error:  # text all the same, and no picture either
        return data


mlflow.models.set_model(ServedDetector())

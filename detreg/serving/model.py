"""What `mlflow models serve` runs: one Detector behind MLflow's scoring protocol.

It is a model from code: MLflow copies this file into the model and runs it there; the rest of
detreg comes from the model's own copy of the package.

Input: a column `image`, one JPEG or PNG a row, as bytes or base64 text. Output: a dict for each
row, with boxes (lists of x1, y1, x2, y2 in the image's pixels), scores, labels and class_names.
Params: score_threshold, max_detections.
"""

import base64
import binascii
import os
import re
from collections.abc import Sequence
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from detreg.errors import DataError, UsageError
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.images import decode_image
from detreg.serving.errors import BadRequest, install_one_line_errors

_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+=*\s*")

Answer = dict[str, list[object]]
"""The detections of one image, as JSON lists."""


class ServedDetector(PythonModel):
    """Loads the logged ONNX file and answers requests."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector.

        Raises RefusedError without a usable GPU where the model configuration has `require_gpu` or
        DETREG_REQUIRE_GPU is set.
        """
        variable = os.environ.get("DETREG_REQUIRE_GPU", "").lower()
        is_set_by_user = variable not in ("", "0", "false")
        is_set_by_model = bool((context.model_config or {}).get("require_gpu"))
        self.detector = Detector.load(
            context.artifacts["onnx"], require_gpu=is_set_by_user or is_set_by_model
        )
        install_one_line_errors()

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Detect in the images of the column `image`; return a dict for each row, in their order.

        Raises BadRequest, which names every row that is wrong.
        """
        images = _decode_images(model_input["image"].tolist())
        try:
            found = self.detector.batch(images, **(params or {}))
        except UsageError as error:
            raise BadRequest("; ".join(error.problems)) from error

        # Dicts, because building a table and taking it apart again costs a third of a small
        # network's time.
        return [_to_answer(detections) for detections in found]


def _to_answer(detections: Detections) -> Answer:
    answer = {name: array.tolist() for name, array in detections.arrays.items()}
    answer["class_names"] = detections.names
    return answer


def _decode_images(cells: Sequence[object]) -> list[NDArray[np.uint8]]:
    """Decode the image in each cell. Raises BadRequest with the problem of every row."""
    images: list[NDArray[np.uint8]] = []
    problems: list[str] = []
    for row, cell in enumerate(cells):
        try:
            images.append(decode_image(_read_file(cell)))
        except DataError as error:
            problems += [f"row {row}: {problem}" for problem in error.problems]

    if problems:
        raise BadRequest("; ".join(problems))
    if not images:
        raise BadRequest("the input has no rows: send at least one image")
    return images


def _read_file(cell: object) -> bytes:
    """Return the image file in one cell.

    MLflow decodes base64 in `dataframe_split` and `dataframe_records` only; what comes as `inputs`
    or `instances` is still text, as bytes or in an array without dimensions. No image file is
    base64 text by itself: every format has bytes outside its alphabet.
    """
    if isinstance(cell, np.ndarray) and cell.ndim == 0:
        cell = cell.item()
    if isinstance(cell, str):
        cell = cell.encode()
    if not isinstance(cell, bytes):
        raise DataError(
            f"an image must be the bytes of a file or their base64 text, got {type(cell).__name__}"
        )

    if not _BASE64.fullmatch(cell):
        return cell
    try:
        return base64.b64decode(cell)
    except binascii.Error:
        # It only looks like base64: decode_image says that it is not an image.
        return cell


mlflow.models.set_model(ServedDetector())

"""What `mlflow models serve` runs: one Detector behind MLflow's scoring protocol.

It is a model from code: MLflow copies this file into the model and runs it there; the rest of
detreg comes from the model's own copy of the package.

Input: a column `image`, one JPEG or PNG a row, as bytes, base64 text or a data: URL; over HTTP also
image files as they are (detreg/serving/requests.py). Output: a dict for each
row, with boxes (lists of x1, y1, x2, y2 in the image's pixels), scores, labels and class_names, and
masks from a model that has them. Params: score_threshold, max_detections, masks.
"""

import json
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from detreg.inference.detector import Detector
from detreg.inference.model_files import read_model
from detreg.mlflow_models import check_logged_sha256
from detreg.serving.answers import Answer, ImageAnswerer
from detreg.serving.content import COLUMN
from detreg.serving.cors import read_allowed_origins
from detreg.serving.limits import Limits
from detreg.serving.pages import build_pages
from detreg.serving.requests import read_request
from detreg.serving.scoring_app import install_layer, is_scoring_server


class ServedDetector(PythonModel):
    """Loads the logged ONNX file and answers requests."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector; in a scoring server, take over its requests.

        Raises RefusedError without a usable GPU where the model configuration has `require_gpu` or
        DETREG_REQUIRE_GPU is set, and for an ONNX file that was changed since it was logged, and
        UsageError for limits that are not positive integers and for origins that are none.
        """
        variable = os.environ.get("DETREG_REQUIRE_GPU", "").lower()
        is_set_by_user = variable not in ("", "0", "false")
        is_set_by_model = bool((context.model_config or {}).get("require_gpu"))
        onnx_path = Path(context.artifacts["onnx"])
        # The registry is out of reach from here: what can be compared lies beside the file.
        check_logged_sha256(onnx_path.parents[1], read_model(onnx_path))
        detector = Detector.load(onnx_path, require_gpu=is_set_by_user or is_set_by_model)

        # Whoever calls `predict` in a process of their own knows how much they give it.
        self.is_server = is_scoring_server()
        self.limits = Limits.from_environment()
        self.answerer = ImageAnswerer(detector, self.limits.max_pixels if self.is_server else None)
        if self.is_server:
            origins = read_allowed_origins()
            pages = build_pages(detector.card, self.limits, origins)
            install_layer(self.answer, self.limits, pages, origins)

    def answer(self, body: bytes, content_type: str, query: str) -> bytes:
        """Answer a request, its body and the query of its URL, with JSON. Raises BadRequest."""
        has_masks = self.answerer.has_masks
        request = read_request(body, content_type, self.limits, query, has_masks=has_masks)
        params = request.params
        answers = self.answerer.answer(
            request.cells, params.score_threshold, params.max_detections, params.masks
        )
        return json.dumps({"predictions": answers}).encode()

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Detect in the images of the column `image`; return a dict for each row, in their order.

        Raises BadRequest, which names every row that is wrong.
        """
        if self.is_server:
            # A version of MLflow that makes its app in another way would serve without limits.
            raise RuntimeError("The request did not pass detreg's layer: serve with MLflow 3.17")
        return self.answerer.answer(model_input[COLUMN].tolist(), **(params or {}))


mlflow.models.set_model(ServedDetector())

"""Masks of a served model: the forms of an answer, and what MLflow's model says of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as reference
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.inference.detector import Detector
from detreg.run_lengths import RunLengthMask
from detreg.serving.answers import ImageAnswerer
from detreg.serving.errors import BadRequest
from detreg.serving.packaging import save_model

WIDTH, HEIGHT = 128, 96
IMAGE = draw_image(WIDTH, HEIGHT, (32, 16, 96, 80))
PNG = encode_image(IMAGE)


@pytest.fixture(scope="module")
def saved(toy_mask_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the toy model with masks as MLflow has saved and loaded it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(toy_mask_model, folder)
    yield mlflow.pyfunc.load_model(str(folder))


def test_the_answer_has_polygons_codes_or_no_masks(toy_mask_model: Path) -> None:
    detector = Detector.load(toy_mask_model)
    found = detector(IMAGE)
    assert found.masks is not None
    arrays = found.masks.to_arrays()
    answerer = ImageAnswerer(detector, None)

    (answer,) = answerer.answer([PNG])
    assert list(answer) == ["boxes", "scores", "labels", "class_names", "masks"]
    assert answer["masks"] == found.masks.to_polygons() == json.loads(json.dumps(answer["masks"]))
    assert [len(cast(list[object], polygons)) for polygons in answer["masks"]] == [1, 2]

    (answer,) = answerer.answer([PNG], masks="rle")
    for code, array in zip(answer["masks"], arrays, strict=True):
        np.testing.assert_array_equal(reference.decode(cast(Any, code)), array)
    assert answer["masks"] == [mask.to_coco() for mask in found.masks.to_run_lengths()]

    (answer,) = answerer.answer([PNG], masks="none", max_detections=1)
    assert list(answer) == ["boxes", "scores", "labels", "class_names"]
    with pytest.raises(BadRequest, match="masks must be one of polygons, rle, none, got 'png'"):
        answerer.answer([PNG], masks="png")


def test_a_model_of_boxes_answers_as_before(tmp_path: Path) -> None:
    answerer = ImageAnswerer(Detector.load(write_toy_model(tmp_path / "toy.onnx")), None)
    (answer,) = answerer.answer([PNG])
    assert list(answer) == ["boxes", "scores", "labels", "class_names"]
    assert answerer.answer([PNG], masks="none") == [answer]
    with pytest.raises(BadRequest, match="masks must be none, got rle: the model has no masks"):
        answerer.answer([PNG], masks="rle")


def test_the_saved_model_has_masks_in_its_signature(saved: Any) -> None:
    signature = saved.metadata.signature
    params = {spec.name: spec.default for spec in signature.params}
    assert params == {"score_threshold": 0.3, "max_detections": 100, "masks": "polygons"}
    assert signature.outputs.input_names()[3:] == ["masks", "class_names"]

    request = pd.DataFrame({"image": [PNG]})
    (polygons,) = saved.predict(request)
    (codes,) = saved.predict(request, params={"masks": "rle"})
    code = RunLengthMask(HEIGHT, WIDTH, codes["masks"][0]["counts"])
    assert codes["masks"][0] == code.to_coco()
    assert len(polygons["masks"]) == 2


def test_the_server_reads_the_form_from_the_url(saved: Any) -> None:
    served = saved.unwrap_python_model()
    content = json.loads(served.answer(PNG, "image/png", "masks=rle&max_detections=1"))
    (prediction,) = content["predictions"]
    assert prediction["masks"][0]["size"] == [HEIGHT, WIDTH]
    with pytest.raises(BadRequest, match="got 'png'"):
        served.answer(PNG, "image/png", "masks=png")

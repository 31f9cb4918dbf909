"""Where the card's score threshold is obeyed, and where it is not."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import onnx
import pytest
from test_card import POINT
from toy_detector import CARD, draw_image, encode_image, write_toy_model

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.card_file import replace_card
from detreg.inference.detector import Detector
from detreg.serving.answers import ImageAnswerer
from detreg.tasks.predict import PredictRequest, predict_images

# The toy finds a boat with a score of 1, and a buoy with 0.5.
IMAGE = draw_image(64, 64, (10, 10, 30, 30))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_toy_model(tmp_path / "toy.onnx")
    replace_card(path, replace(CARD, score_threshold=0.75, operating_point=POINT))
    return path


def test_replacing_a_card_leaves_the_rest_of_the_file(model: Path, tmp_path: Path) -> None:
    changed = onnx.load(model)
    original = onnx.load(write_toy_model(tmp_path / "original.onnx"))
    assert changed.graph.SerializeToString() == original.graph.SerializeToString()
    assert len(changed.metadata_props) == len(original.metadata_props) == 1
    assert Detector.load(model).card.operating_point == POINT


def test_a_detector_obeys_it_and_a_caller_overrides_it(model: Path) -> None:
    detector = Detector.load(model)
    assert detector(IMAGE).names == ["boat"]
    assert detector(IMAGE, score_threshold=0.4).names == ["boat", "buoy"]


def test_predict_obeys_it_and_a_flag_overrides_it(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), IMAGE)
    request = PredictRequest(str(model), [str(image)], tmp_path / "out")
    for threshold, count in ((None, 1), (0.4, 2)):
        result = predict_images(replace(request, score_threshold=threshold))
        assert len(json.loads(result.file.read_text())) == count


def test_serving_obeys_it_and_a_request_overrides_it(model: Path) -> None:
    answerer = ImageAnswerer(Detector.load(model), max_pixels=None)
    data = encode_image(IMAGE)
    assert answerer.answer([data])[0]["class_names"] == ["boat"]
    assert answerer.answer([data], 0.4)[0]["class_names"] == ["boat", "buoy"]


def test_scoring_takes_all_detections(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), IMAGE)
    content = {
        "images": [{"id": 1, "file_name": str(image), "width": 64, "height": 64}],
        "annotations": [],
        "categories": [{"id": 1, "name": "boat"}, {"id": 2, "name": "buoy"}],
    }
    predictions = predict_split(Detector.load(model), GroundTruth.load(content))
    assert predictions[1].names == ["boat", "buoy"]

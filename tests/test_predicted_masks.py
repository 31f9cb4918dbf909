"""Masks in what `detreg predict` writes: rows, drawings, videos, labels to correct."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools import mask as reference
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.data import formats
from detreg.data.check import check_dataset
from detreg.data.findings import has_errors
from detreg.errors import UsageError
from detreg.inference.detector import Detector
from detreg.inference.images import read_image
from detreg.tasks.predict import PredictRequest, predict_images

WIDTH, HEIGHT = 640, 480
IMAGE = draw_image(WIDTH, HEIGHT, (160, 80, 480, 400))


@pytest.fixture
def request_for(toy_mask_model: Path, tmp_path: Path) -> PredictRequest:
    """Return a request for an image with a boat and a buoy."""
    image = tmp_path / "boats.png"
    image.write_bytes(encode_image(IMAGE))
    return PredictRequest(str(toy_mask_model), [str(image)], tmp_path / "out")


def test_rows_have_masks_in_the_form_asked_for(request_for: PredictRequest) -> None:
    rows = json.loads(predict_images(request_for).file.read_bytes())
    assert [len(row["segmentation"]) for row in rows] == [1, 2]
    found = Detector.load(request_for.model)(IMAGE)
    assert found.masks is not None
    arrays = found.masks.to_arrays()
    for row, array in zip(rows, arrays, strict=True):
        code = reference.merge(reference.frPyObjects(row["segmentation"], HEIGHT, WIDTH))
        pixels = reference.decode(code).astype(bool)
        assert (pixels & array).sum() / (pixels | array).sum() > 0.98

    codes = json.loads(predict_images(replace(request_for, masks="rle")).file.read_bytes())
    for row, array in zip(codes, arrays, strict=True):
        np.testing.assert_array_equal(reference.decode(row["segmentation"]), array)

    boxes = json.loads(predict_images(replace(request_for, masks="none")).file.read_bytes())
    assert [row | {"segmentation": 0} for row in boxes] == [
        row | {"segmentation": 0} for row in rows
    ]
    assert all("segmentation" not in row for row in boxes)


def test_masks_are_drawn_unless_they_are_not_wanted(request_for: PredictRequest) -> None:
    drawn = {}
    for masks in ("polygons", "none"):
        out = request_for.out / masks
        predict_images(replace(request_for, masks=masks, out=out))
        drawn[masks] = read_image(out / "0001_boats.jpg").astype(int)
    change = np.abs(drawn["polygons"] - drawn["none"]).sum(axis=2)
    # In the ring, in its hole, and beside the box.
    assert change[240, 190] > 60
    assert change[240, 320] < 30 and change[450, 600] < 30


def test_labels_of_yolo_are_polygons(request_for: PredictRequest, tmp_path: Path) -> None:
    # A dataset has two images at least.
    other = tmp_path / "more.png"
    other.write_bytes(encode_image(draw_image(64, 64, (8, 8, 40, 50))))
    images = [*request_for.images, str(other)]
    predict_images(replace(request_for, images=images, format="yolo"))
    checked = check_dataset(formats.read(request_for.out / "yolo"), with_masks=True)
    assert not has_errors(checked.findings)
    listed = [image for images in checked.splits.values() for image in images]
    (image,) = [image for image in listed if image.width == WIDTH]
    assert [box.label for box in image.boxes] == ["boat", "buoy"]

    found = Detector.load(request_for.model)(IMAGE)
    assert found.masks is not None
    for outline, array in zip(image.masks, found.masks.to_arrays(), strict=True):
        assert outline is not None
        (polygon,) = outline.polygons
        code = reference.frPyObjects([list(polygon)], HEIGHT, WIDTH)
        pixels = reference.decode(code)[..., 0].astype(bool)
        assert (pixels & array).sum() / (pixels | array).sum() > 0.98


def test_labels_of_voc_are_boxes(request_for: PredictRequest) -> None:
    predict_images(replace(request_for, format="voc"))
    folder = request_for.out / "voc"
    assert not (folder / "SegmentationObject").exists()
    assert "polygon" not in next((folder / "Annotations").iterdir()).read_text()


def test_label_studio_gets_polygons_in_percent(request_for: PredictRequest) -> None:
    predict_images(replace(request_for, format="labelstudio"))
    (task,) = json.loads((request_for.out / "label_studio.json").read_bytes())
    regions = task["predictions"][0]["result"]
    assert [region["type"] for region in regions] == ["polygonlabels"] * 2
    assert [region["value"]["polygonlabels"] for region in regions] == [["boat"], ["buoy"]]
    points = np.array(regions[0]["value"]["points"])
    assert points.min(axis=0) == pytest.approx((25, 100 / 6), abs=3)
    assert points.max(axis=0) == pytest.approx((75, 100 * 5 / 6), abs=3)

    config = ElementTree.fromstring((request_for.out / "label_studio.xml").read_text())
    control = config.find("PolygonLabels")
    assert control is not None and control.get("name") == regions[0]["from_name"] == "polygon"
    assert config.find("RectangleLabels") is not None


def test_frames_of_a_video_have_masks(request_for: PredictRequest, tmp_path: Path) -> None:
    video = tmp_path / "boats.avi"
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(video), codec, 5, (WIDTH, HEIGHT))
    writer.write(cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))
    writer.release()

    request = replace(request_for, images=[str(video)])
    lines = request.out / "0001_boats.jsonl"
    predict_images(request)
    assert len(json.loads(lines.read_text())["masks"]) == 2
    predict_images(replace(request, masks="rle"))
    assert json.loads(lines.read_text())["masks"][0]["size"] == [HEIGHT, WIDTH]
    predict_images(replace(request, masks="none"))
    assert "masks" not in json.loads(lines.read_text())


def test_masks_of_a_model_without_are_refused(request_for: PredictRequest, tmp_path: Path) -> None:
    request = replace(request_for, model=str(write_toy_model(tmp_path / "toy.onnx")))
    with pytest.raises(UsageError, match="masks must be none, got rle: the model has no masks"):
        predict_images(replace(request, masks="rle"))
    rows = json.loads(predict_images(replace(request, masks="none")).file.read_bytes())
    assert rows == json.loads(predict_images(request).file.read_bytes())
    assert "segmentation" not in rows[0]

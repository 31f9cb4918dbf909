"""Labels to correct, which `detreg predict` writes for annotation tools, as they are read again."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_images import EXIF_QUARTER_TURN
from toy_detector import CARD, draw_image, encode_image, write_toy_model

from detreg.data import formats
from detreg.data.check import check_dataset
from detreg.data.findings import has_errors
from detreg.errors import DataError, UsageError
from detreg.tasks.predict import PredictRequest, predict_images
from detreg.tasks.predict_result import PredictResult

SIZE = (96, 64)
EMPTY = "dark.png"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with images of one name, one that EXIF turns, and one without an object."""
    folder = tmp_path / "new images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    bright = draw_image(*SIZE, (12, 8, 40, 30))
    (folder / "a/one.png").write_bytes(encode_image(bright))
    (folder / "b/one.png").write_bytes(encode_image(draw_image(*SIZE, (60, 30, 90, 60))))
    (folder / EMPTY).write_bytes(encode_image(draw_image(64, 64, (0, 0, 1, 1), brightness=20)))
    jpeg = encode_image(bright, ".jpg")
    (folder / "turned.jpg").write_bytes(jpeg[:2] + EXIF_QUARTER_TURN + jpeg[2:])
    return folder


def predict(images: Path, format: str) -> PredictResult:
    model = write_toy_model(images.parent / "toy.onnx")
    request = PredictRequest(str(model), [str(images)], images.parent / "out", format=format)
    return predict_images(request)


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_a_dataset_is_read_again_with_every_box(images: Path, format: str) -> None:
    result = predict(images, format)
    folder = images.parent / "out" / format
    assert result.prelabels == folder
    assert result.describe().splitlines()[-1] == f"{folder}: labels to correct"

    raw = formats.read(folder)
    assert raw.format == format
    assert sorted(raw.classes) == ["boat", "buoy"]
    checked = check_dataset(raw)
    assert not has_errors(checked.findings)

    read = {image.sha256: image for images in checked.splits.values() for image in images}
    assert len(read) == 4
    boxes = [box for image in read.values() for box in image.boxes]
    corners = sorted(box.corners for box in boxes)
    expected = []
    for row in json.loads(result.file.read_bytes()):
        x, y, width, height = row["bbox"]
        expected.append((x, y, x + width, y + height))
    assert len(corners) == 6
    for one, other in zip(corners, sorted(expected), strict=True):
        assert one == pytest.approx(other, abs=0.01)
    assert sorted(box.label for box in boxes) == ["boat"] * 3 + ["buoy"] * 3
    sizes = sorted((image.width, image.height) for image in read.values())
    assert sizes == [(64, 64), (64, 96), SIZE, SIZE]


def test_label_studio_gets_predictions_in_percent(images: Path) -> None:
    result = predict(images, "labelstudio")
    out = images.parent / "out"
    assert result.prelabels == out / "label_studio.json"
    tasks = json.loads(result.prelabels.read_bytes())
    assert len(tasks) == 4

    first = tasks[0]
    folder = str(images).replace(" ", "%20").lstrip("/")
    assert first["data"]["image"] == f"/data/local-files/?d={folder}/a/one.png"
    boat, buoy = first["predictions"][0]["result"]
    assert first["predictions"][0]["score"] == buoy["score"] == 0.5
    assert boat["score"] == 1
    assert boat["value"].pop("rectanglelabels") == ["boat"]
    x, y, width, height = json.loads(result.file.read_bytes())[0]["bbox"]
    expected = {
        "x": 100 * x / 96,
        "y": 100 * y / 64,
        "width": 100 * width / 96,
        "height": 100 * height / 64,
        "rotation": 0,
    }
    assert boat["value"] == pytest.approx(expected)
    (empty,) = [task for task in tasks if not task["predictions"][0]["result"]]
    assert empty["data"]["image"].endswith(EMPTY)

    config = ElementTree.fromstring((out / "label_studio.xml").read_text())
    assert [label.get("value") for label in config.iter("Label")] == ["boat", "buoy"]
    names = {"from_name": "label", "to_name": "image"}
    control = config.find("RectangleLabels")
    assert control is not None
    assert (control.get("name"), control.get("toName")) == tuple(names.values())
    assert {name: boat[name] for name in names} == names


def test_predictions_json_is_the_same_with_every_format(images: Path) -> None:
    contents = {predict(images, name).file.read_bytes() for name in ("coco", "labelstudio", "voc")}
    assert len(contents) == 1


@pytest.mark.parametrize("format", ["voc", "yolo", "labelstudio"])
def test_names_that_a_format_cannot_hold_are_refused(images: Path, format: str) -> None:
    hostile = replace(CARD, classes=("\x1b[31mboat", "buoy"))
    model = write_toy_model(images.parent / "hostile.onnx", hostile)
    request = PredictRequest(str(model), [str(images)], images.parent / "out")
    assert "\x1b" not in predict_images(request).describe()
    with pytest.raises(DataError, match="cannot hold the class"):
        predict_images(replace(request, format=format))


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_labels_of_an_earlier_run_are_not_mixed_with_new_ones(images: Path, format: str) -> None:
    predict(images, format)
    with pytest.raises(UsageError, match="is not empty: remove it"):
        predict(images, format)

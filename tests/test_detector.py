"""The detector on a toy network, and on a session that is not onnxruntime's."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from toy_detector import CARD, LETTERBOX, draw_image, encode_image, write_toy_model

import detreg
from detreg.errors import DataError, NotFoundError, UsageError
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector, ImageOrFile
from detreg.inference.outputs import OutputArray
from detreg.inference.session import InputShape


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.load(write_toy_model(tmp_path_factory.mktemp("toy") / "toy.onnx"))


@dataclass(frozen=True)
class FakeSession:
    """Finds one boat, two pixels wide and high, in every image; the second row is padding."""

    input_shape: InputShape = InputShape()
    output_names: tuple[str, ...] = ("boxes", "scores", "labels")
    device: str = "cpu"

    def run(self, images: NDArray[np.uint8], output_names: Sequence[str]) -> dict[str, OutputArray]:
        count = len(images)
        outputs: dict[str, OutputArray] = {
            "boxes": np.tile(np.array([[4, 6, 6, 8], [0, 0, 0, 0]], np.float32), (count, 1, 1)),
            "scores": np.tile(np.array([0.9, 0], np.float32), (count, 1)),
            "labels": np.tile(np.array([0, -1]), (count, 1)),
        }
        return {name: outputs[name] for name in output_names}


def test_any_session_will_do() -> None:
    detector = Detector(FakeSession(), CARD)
    # Twice as wide and high as the input, so the box is too.
    found = detector(np.zeros((128, 128, 3), np.uint8))
    assert found.boxes.tolist() == [[8, 12, 12, 16]]
    assert found.names == ["boat"]
    assert detector.device == "cpu"


def test_a_session_must_fit_the_card() -> None:
    with pytest.raises(DataError, match=r"has the outputs \['boxes'\], the card declares"):
        Detector(FakeSession(output_names=("boxes",)), CARD)
    with pytest.raises(
        DataError, match=r"takes images of \(64, 32\), the card prepares \(64, 64\)"
    ):
        Detector(FakeSession(InputShape(height=32, width=64)), CARD)


def test_an_output_that_the_card_does_not_declare_is_ignored() -> None:
    session = FakeSession(output_names=("boxes", "scores", "labels", "later"))
    assert len(Detector(session, CARD)(np.zeros((64, 64, 3), np.uint8))) == 1


def test_boxes_come_back_in_the_images_own_pixels(detector: Detector) -> None:
    found = detector(draw_image(128, 96, (32, 16, 64, 48)))
    # One pixel of the input is two pixels of the image.
    np.testing.assert_allclose(found.boxes, [[32, 16, 64, 48], [16, 8, 32, 24]], atol=2)
    np.testing.assert_allclose(found.scores, [1, 0.5], atol=1e-6)
    assert found.labels.tolist() == [0, 1]
    assert found.names == ["boat", "buoy"]
    assert found.boxes.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert found.labels.dtype == np.int64


def test_boxes_are_clipped_to_the_image(detector: Detector) -> None:
    # The padding is the brightest region, so the box reaches into it.
    bright_padding = replace(CARD.preprocessing, pad_value=(255, 255, 255))
    bright = Detector(detector.session, replace(CARD, preprocessing=bright_padding))
    found = bright(draw_image(128, 96, (32, 16, 64, 48)))
    assert found.boxes[0].tolist() == [0, pytest.approx(16, abs=2), 128, 96]


@pytest.mark.parametrize(
    ("threshold", "max_detections", "count"),
    [(None, 100, 2), (0.6, 100, 1), (0.0, 100, 2), (1.0, 100, 1), (0.0, 1, 1)],
)
def test_threshold_and_number(
    detector: Detector, threshold: float | None, max_detections: int, count: int
) -> None:
    image = draw_image(64, 64, (8, 8, 16, 16))
    assert len(detector(image, threshold, max_detections)) == count


def test_an_image_with_nothing_in_it(detector: Detector) -> None:
    assert len(detector(np.zeros((40, 40, 3), np.uint8))) == 0


@pytest.mark.parametrize("aspect", [1.0, 2.0])
@pytest.mark.parametrize("batch", ["n", "1", "3"])
def test_a_batch_equals_one_by_one(tmp_path: Path, aspect: float, batch: str) -> None:
    card = replace(CARD, preprocessing=replace(LETTERBOX, max_aspect_ratio=aspect))
    detector = Detector.load(write_toy_model(tmp_path / "toy.onnx", card, (batch, "h", "w")))
    sizes = [(64, 64), (128, 64), (64, 128), (90, 60), (64, 64), (300, 40), (128, 64), (65, 64)]
    images = []
    for number, (width, height) in enumerate(sizes):
        images.append(draw_image(width, height, (5, 6, 20 + number, 30), 210 + number))

    together = detector.batch(images, batch_size=2)
    assert len(together) == len(images)
    for image, found in zip(images, together, strict=True):
        alone = detector(image)
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.scores, alone.scores)
        np.testing.assert_array_equal(found.labels, alone.labels)


def test_an_empty_batch(detector: Detector) -> None:
    assert detector.batch([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        b"bytes of a file",
        np.zeros((4, 4)),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_anything_but_an_rgb_array_is_refused(detector: Detector, wrong: object) -> None:
    with pytest.raises(TypeError, match="uint8 array"):
        detector(wrong)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return an image file with one bright box."""
    path = tmp_path / "boat.png"
    path.write_bytes(encode_image(draw_image(128, 96, (32, 16, 64, 48))))
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_of_a_file_is_taken(detector: Detector, file: Path, kind: type) -> None:
    found = detector(kind(file), max_detections=1)
    np.testing.assert_array_equal(found.boxes, detector(detreg.read(file)).boxes[:1])
    assert found.image == file


def test_what_is_found_in_an_array_is_drawn_on_it(detector: Detector) -> None:
    array = draw_image(128, 96, (32, 16, 64, 48))
    found = detector(array)
    assert found.image is array
    assert (found.draw() != array).any()


def test_files_and_arrays_run_in_one_batch(detector: Detector, file: Path) -> None:
    array = draw_image(64, 64, (8, 8, 30, 30))
    images: list[ImageOrFile] = [array, file, str(file), array, file]
    together = detector.batch(images, batch_size=2)
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found.boxes, detector(image).boxes)
    assert [found.image for found in together] == [None, file, file, None, file]


def test_a_few_files_are_in_memory_at_once(
    detector: Detector, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    detect = Detector._detect

    def note_detection(self: Detector, images: list[Any], *limits: Any) -> list[Detections]:
        events.append(len(images))
        return detect(self, images, *limits)

    monkeypatch.setattr(Detector, "_detect", note_detection)
    assert len(detector.batch([file] * 7, batch_size=3)) == 7
    assert events == [3, 3, 1]


def test_a_file_that_is_no_image_is_an_error_that_names_it(
    detector: Detector, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.jpg: there is no such image"):
        detector("nowhere.jpg")
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(DataError, match=r"text\.jpg: "):
        detector(tmp_path / "text.jpg")


def test_a_detector_is_shown_on_one_line(tmp_path: Path) -> None:
    detector = Detector.load(write_toy_model(tmp_path / "toy.onnx"))
    shown = "Detector(yolox, 2 classes: boat, buoy; score_threshold 0.3; cpu)"
    assert repr(detector) == shown.replace("cpu", detector.device)
    many = replace(detector.card, classes=tuple("abcdefgh"))
    assert "8 classes: a, b, c, d, e, ...;" in repr(replace(detector, card=many))


def test_limits_out_of_range_are_refused_together(detector: Detector) -> None:
    with pytest.raises(UsageError) as refused:
        detector(draw_image(8, 8, (0, 0, 1, 1)), score_threshold=1.5, max_detections=0)
    assert len(refused.value.problems) == 2


def test_a_file_that_is_not_a_model_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"broken.onnx: it is not an ONNX file"):
        Detector.load(tmp_path / "broken.onnx")
    with pytest.raises(DataError, match=r"bare.onnx: .*without detreg's card"):
        Detector.load(write_toy_model(tmp_path / "bare.onnx", card=None))
    with pytest.raises(DataError, match=r"sides.onnx: .*takes images of"):
        Detector.load(write_toy_model(tmp_path / "sides.onnx", shape=("n", "32", "64")))
    with pytest.raises(NotFoundError, match="no such file"):
        Detector.load(tmp_path / "missing.onnx")
    with pytest.raises(UsageError, match="is not a model"):
        Detector.load("yolox")


def test_only_numpy_opencv_and_onnxruntime_are_needed(tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "mmdet", "mmengine", "mmcv", "mlflow", "pandas", "PIL", "onnx"):
    sys.modules[name] = None
import numpy
from detreg import Detector
print(len(Detector.load(sys.argv[1])(numpy.full((9, 9, 3), 255, numpy.uint8))))
"""
    model = write_toy_model(tmp_path / "toy.onnx")
    completed = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert completed.stdout == "2\n"

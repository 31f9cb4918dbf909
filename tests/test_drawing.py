"""Boxes and texts on images, and the colors that they share with plots and pages."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from detreg.inference.detections import Detections
from detreg.report.canvas import MAX_SIDE, MIN_SIDE, Canvas
from detreg.report.drawing import draw_detections
from detreg.report.theme import CLASS_COLORS, choose_text_color, get_class_color, parse_color

Image = npt.NDArray[np.uint8]

CLASSES = ("boat", "buoy", "été")
BLACK = np.zeros((200, 240, 3), np.uint8)
BOX = np.array([20, 60, 180, 180], np.float32)


def make_detection(label: int, box: npt.NDArray[np.float32] = BOX) -> Detections:
    return Detections(box[None], np.array([0.9], np.float32), np.array([label]), CLASSES)


def save_and_read(canvas: Canvas, path: Path) -> Image:
    """Write a canvas, and return its pixels in BGR."""
    image = cv2.imread(str(canvas.save(path)))
    assert image is not None
    return image.astype(np.uint8)


@pytest.mark.parametrize("label", range(3))
def test_a_box_has_the_color_of_its_class(label: int) -> None:
    drawn = draw_detections(BLACK, make_detection(label))
    # The text has a filled tag above the box, whose lower left corner is free of letters.
    assert tuple(drawn[57, 20].tolist()) == parse_color(get_class_color(label))


def test_the_image_that_is_drawn_on_stays_as_it_is() -> None:
    before = BLACK.copy()
    drawn = draw_detections(BLACK, make_detection(0))
    np.testing.assert_array_equal(BLACK, before)
    assert (drawn != before).any()


def test_colors_repeat_after_the_last_one() -> None:
    assert get_class_color(len(CLASS_COLORS)) == get_class_color(0)
    assert len(set(CLASS_COLORS)) == len(CLASS_COLORS)


@pytest.mark.parametrize("color", CLASS_COLORS)
def test_text_is_readable_on_every_class_color(color: str) -> None:
    background = sum(parse_color(color)) / 3
    text = sum(parse_color(choose_text_color(color))) / 3
    assert abs(background - text) > 90


@pytest.mark.parametrize(
    ("size", "longer_side"),
    [((60, 40), MIN_SIDE), ((500, 600), 600), ((3000, 2000), MAX_SIDE)],
)
def test_a_canvas_is_as_large_as_a_page_can_show(
    size: tuple[int, int], longer_side: int, tmp_path: Path
) -> None:
    width, height = size
    canvas = Canvas(np.zeros((height, width, 3), np.uint8))
    image = save_and_read(canvas, tmp_path / "canvas.jpg")
    assert max(image.shape) == longer_side
    assert image.shape[1] / image.shape[0] == pytest.approx(width / height, rel=0.01)


@pytest.mark.parametrize(
    "box",
    [
        np.array([180, 180, 20, 60], np.float32),  # its corners are in reverse order
        np.array([100, 100, 100, 100], np.float32),  # without extent
        np.array([-50, -50, 900, 900], np.float32),  # larger than the image
    ],
)
def test_a_canvas_takes_every_box_that_a_detector_puts_out(
    box: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    canvas = Canvas(BLACK)
    canvas.draw_box(box, get_class_color(0), width=2)
    canvas.draw_dashed_box(box, is_bold=True)
    canvas.write_tag(box, "été 0.90", get_class_color(1))
    assert save_and_read(canvas, tmp_path / "canvas.jpg").max() > 100


def test_a_tag_stays_on_the_canvas(tmp_path: Path) -> None:
    canvas = Canvas(BLACK)
    canvas.write_tag(np.array([239, 0, 240, 9], np.float32), "boat 0.90", get_class_color(6))
    image = save_and_read(canvas, tmp_path / "canvas.jpg")
    is_colored = image.max(axis=2) > 100
    rows, columns = np.flatnonzero(is_colored.any(axis=1)), np.flatnonzero(is_colored.any(axis=0))
    assert rows[0] == 0
    assert columns[-1] == image.shape[1] - 1
    assert columns[0] < image.shape[1] - 40, "the whole text fits"

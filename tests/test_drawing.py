"""Boxes and texts on images, and the colors that they share with plots and pages."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from detreg.inference.detections import Detections
from detreg.report.canvas import MAX_SIDE, MIN_SIDE, Canvas
from detreg.report.drawing import ELLIPSIS, Label, draw_detections, write_labels
from detreg.report.theme import CLASS_COLORS, choose_text_color, get_class_color, parse_color

Image = npt.NDArray[np.uint8]

CLASSES = ("boat", "buoy", "été")
BLACK = np.zeros((200, 240, 3), np.uint8)
BOX = np.array([20, 60, 180, 180], np.float32)


def make_label(box: npt.NDArray[np.float32], name: str, score: str = "0.90") -> Label:
    x1, y1, x2, y2 = box.tolist()
    return Label((x1, y1, x2, y2), name, score, get_class_color(1))


def find_tag(image: Image, color: str) -> tuple[int, int, int, int]:
    """Return the corners of all pixels of a color, RGB."""
    rows, columns = np.nonzero((image == parse_color(color)).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


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
    canvas.write_labels([make_label(box, "été")])
    assert save_and_read(canvas, tmp_path / "canvas.jpg").max() > 100


def test_a_tag_stays_on_the_canvas(tmp_path: Path) -> None:
    canvas = Canvas(BLACK)
    canvas.write_labels([make_label(np.array([239, 0, 240, 9], np.float32), "boat")])
    image = save_and_read(canvas, tmp_path / "canvas.jpg")
    is_colored = image.max(axis=2) > 100
    rows, columns = np.flatnonzero(is_colored.any(axis=1)), np.flatnonzero(is_colored.any(axis=0))
    assert rows[0] >= 0
    assert columns[-1] == image.shape[1] - 1
    assert columns[0] < image.shape[1] - 40, "the whole text fits"


@pytest.mark.parametrize("label", range(len(CLASS_COLORS)))
def test_a_box_is_seen_on_an_image_of_its_own_color(label: int) -> None:
    classes = tuple(f"class {number}" for number in range(len(CLASS_COLORS)))
    color = parse_color(get_class_color(label))
    image = np.full((200, 240, 3), color, np.uint8)
    detection = Detections(BOX[None], np.array([0.9], np.float32), np.array([label]), classes)
    # Across the right side of the box: the line in its color, between two rims.
    across = draw_detections(image, detection)[120, 172:188].astype(int)
    is_rim = np.abs(across - color).sum(axis=1) > 200
    assert is_rim[:8].any() and not is_rim[8] and is_rim[9:].any()


def test_every_alphabet_is_written() -> None:
    """A letter that the font lacks would be drawn as a question mark or a box."""
    drawn = []
    for name in ("船", "Ж", "ε", "é", "?", "\u2026"):
        image = np.zeros((100, 200, 3), np.uint8)
        write_labels(image, [make_label(np.array([5, 40, 90, 90], np.float32), name, "")])
        drawn.append(image.tobytes())
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("side", [24, 48, 96, 640, 2000])
def test_texts_are_legible_and_fit_into_images_of_every_size(side: int) -> None:
    image = np.zeros((side, side, 3), np.uint8)
    name = "a very long name of a class that no tag can hold as it is"
    box = np.array([0, side / 2, side / 2, side - 1], np.float32)
    write_labels(image, [make_label(box, name)])
    if side == 24:
        assert not image.any(), "not even the score fits into so few pixels"
        return
    _, top, right, bottom = find_tag(image, get_class_color(1))
    assert bottom - top >= 15
    assert (bottom - top) / side >= 1 / 40
    assert right <= side
    assert top >= 0


def test_a_long_name_is_shortened_and_its_score_is_not() -> None:
    drawn = []
    for name in ("x" * 40, f"{'x' * 7}{ELLIPSIS}", "x" * 7):
        image = np.zeros((120, 110, 3), np.uint8)
        write_labels(image, [make_label(np.array([0, 50, 60, 100], np.float32), name)])
        drawn.append(image)
    # How many letters stay depends on the font: the long name ends as one of the short ones does.
    tags = [find_tag(image, get_class_color(1)) for image in drawn]
    assert tags[0][1] == tags[1][1] and tags[0][3] == tags[1][3]
    assert 60 < tags[0][2] <= 110


def test_a_line_break_in_a_name_starts_no_line() -> None:
    drawn = []
    for name in ("a\nb", "a b"):
        image = np.zeros((100, 200, 3), np.uint8)
        write_labels(image, [make_label(np.array([5, 40, 90, 90], np.float32), name)])
        drawn.append(image)
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_the_best_detections_keep_their_labels_in_a_crowd() -> None:
    count = 100
    boxes = np.repeat(BOX[None], count, axis=0)
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
    crowd = Detections(boxes, scores, np.zeros(count, np.int64), CLASSES)
    drawn = draw_detections(BLACK, crowd)
    assert (drawn == parse_color(get_class_color(0))).all(axis=2).mean() < 0.9

    # A label is the same whatever has a lower score.
    few = crowd.filter(0.0, 12)
    tag = draw_detections(BLACK, few)[40:59, 20:70]
    np.testing.assert_array_equal(drawn[40:59, 20:70], tag)

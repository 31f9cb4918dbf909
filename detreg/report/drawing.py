"""Boxes with names and scores, drawn on an image with OpenCV alone.

OpenCV writes ASCII only; `detreg.report.canvas` writes every alphabet, and needs Pillow.
"""

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from detreg.report.theme import choose_text_color, get_class_color, parse_color

FONT = cv2.FONT_HERSHEY_SIMPLEX
PADDING = 2
"""Pixels between a text and the border of its tag."""


class DrawableDetections(Protocol):
    """What can be drawn: the detections of an image, the best one first."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(n, 4), x1 y1 x2 y2 in pixels."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(n,), from 0 to 1."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,), each with a color of its own."""

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""


def draw_detections(
    image: npt.NDArray[np.uint8], detections: DrawableDetections
) -> npt.NDArray[np.uint8]:
    """Return a copy of an image with a box, class name and score for each detection.

    `image` is uint8 (height, width, 3) in RGB. Lines and text grow with the image. A class has the
    same color in every image.
    """
    drawn = image.copy()
    # On an image of 1100 pixels OpenCV's font then has its own size.
    shorter_side = min(image.shape[:2])
    thickness = max(1, round(shorter_side / 240))
    font_scale = max(0.35, shorter_side / 1100)

    boxes = detections.boxes.round().astype(int).tolist()
    colors = [get_class_color(label) for label in detections.labels.tolist()]
    names = detections.names

    # The best detection is drawn last, on top of the others, and all texts on top of all boxes.
    worst_first = range(len(boxes) - 1, -1, -1)
    for index in worst_first:
        box = boxes[index]
        color = parse_color(colors[index])
        cv2.rectangle(drawn, box[:2], box[2:], color, thickness, cv2.LINE_AA)
    for index in worst_first:
        text = f"{names[index]} {detections.scores[index]:.2f}"
        _write_tag(drawn, text, boxes[index], colors[index], font_scale)
    return drawn


def _write_tag(
    image: npt.NDArray[np.uint8], text: str, box: list[int], background: str, font_scale: float
) -> None:
    """Write a text on a filled tag above a box, or inside it where there is no room above.

    The tag stays within the image's width wherever it fits into it.
    """
    weight = max(1, round(font_scale * 1.6))
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, font_scale, weight)
    width = text_width + 2 * PADDING
    height = text_height + baseline + PADDING

    box_left, box_top = box[:2]
    rightmost = image.shape[1] - width
    left = max(0, min(box_left, rightmost))
    has_room_above = box_top >= height
    top = box_top - height if has_room_above else box_top

    upper_left = (left, top)
    lower_right = (left + width, top + height)
    cv2.rectangle(image, upper_left, lower_right, parse_color(background), cv2.FILLED)

    # OpenCV places a text by the left end of its baseline, not by its upper left corner.
    origin = (left + PADDING, top + text_height + 1)
    color = parse_color(choose_text_color(background))
    cv2.putText(image, text, origin, FONT, font_scale, color, weight, cv2.LINE_AA)

"""Draws detections into pictures."""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.inference.detections import Detections

Color = tuple[int, int, int]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034


def draw(image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """A copy of the picture, uint8 (height, width, 3) RGB, with a box, class name and score for each detection.

    Lines and text grow with the picture; a class has the same color in every picture; the best detection is drawn last, on top.
    """
    drawn = image.copy()
    shorter = min(image.shape[:2])
    line = max(1, round(shorter / 240))
    size = max(0.35, shorter / 1100)
    rows = list(
        zip(
            detections.boxes.round().astype(int).tolist(),
            detections.scores,
            detections.labels,
            detections.names,
            strict=True,
        )
    )
    for box, _, label, _ in reversed(rows):
        cv2.rectangle(drawn, box[:2], box[2:], class_color(int(label)), line, cv2.LINE_AA)
    for box, score, label, name in reversed(rows):
        _write(drawn, f"{name} {score:.2f}", box, class_color(int(label)), size)
    return drawn


def class_color(label: int) -> Color:
    """The RGB color of a class: hues far apart for neighbouring labels, the same in every picture."""
    hue = label * _GOLDEN_RATIO % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0 if label % 2 == 0 else 0.8)
    return int(red * 255), int(green * 255), int(blue * 255)


def _write(
    image: NDArray[np.uint8], text: str, box: list[int], background: Color, size: float
) -> None:
    """Writes on a filled tag above the box, inside it where there is no room above, and never outside the picture."""
    weight = max(1, round(size * 1.6))
    (width, height), below = cv2.getTextSize(text, _FONT, size, weight)
    tall = height + below + 2
    left = max(0, min(box[0], image.shape[1] - width - 4))
    top = box[1] - tall if box[1] >= tall else box[1]
    cv2.rectangle(image, (left, top), (left + width + 4, top + tall), background, cv2.FILLED)
    luminance = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2]
    ink = (0, 0, 0) if luminance > 140 else (255, 255, 255)
    cv2.putText(image, text, (left + 2, top + height + 1), _FONT, size, ink, weight, cv2.LINE_AA)

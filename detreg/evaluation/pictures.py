"""Pictures of what was found, false and missed, and the choice of the pictures that are worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detreg.errors import DetregError
from detreg.evaluation.colors import INK, class_color
from detreg.evaluation.ground_truth import TruthImage
from detreg.evaluation.outcomes import Outcome
from detreg.inference.images import read_image

SMALLEST, LARGEST = 480, 640  # pixels of a drawn picture's longer side
CROWDED = 12  # with more detections than this only those that are wrong carry a text
DASH = 6

Box = Sequence[float]


def worst(judged: Mapping[int, Outcome], most: int) -> list[int]:
    """Ids of the pictures with most errors, the worst first; pictures without an error are not among them."""
    wrong = [image for image, outcome in judged.items() if outcome.errors]
    return sorted(wrong, key=lambda image: (-judged[image].errors, image))[:most]


def typical(judged: Mapping[int, Outcome], most: int, besides: Sequence[int] = ()) -> list[int]:
    """Ids of the pictures nearest to the median number of errors, those besides and empty ones left out where others are to be had."""
    median = float(np.median([outcome.errors for outcome in judged.values()])) if judged else 0.0
    rest = [image for image in judged if image not in besides]

    def distance(image: int) -> tuple[bool, float, int]:
        return not len(judged[image].found), abs(judged[image].errors - median), image

    return sorted(sorted(rest, key=distance)[:most])


def caption(outcome: Outcome) -> str:
    """The picture's outcome in words, as `18 found, 2 missed, 1 false`."""
    counts = {
        "found": outcome.found,
        "confused": outcome.confused,
        "missed": outcome.missed,
        "false": outcome.false,
    }
    words = [
        f"{len(indices)} {name}"
        for name, indices in counts.items()
        if len(indices) or name == "found"
    ]
    return ", ".join(words)


def draw(picture: TruthImage, outcome: Outcome, path: Path) -> Path:
    """Write a JPEG of the picture: objects dashed in white, detections in the color of their class.

    What is wrong, a missed object or a false or confused detection, has a thick line.
    A picture that cannot be read is drawn as a grey ground, so that a report never fails for it.
    """
    canvas, scale = _canvas(picture)
    pencil = ImageDraw.Draw(canvas)
    boxes = outcome.detections.boxes * scale
    wrong = {*outcome.false.tolist(), *outcome.confused[:, 0].tolist()}
    for index, box in enumerate(boxes.tolist()):
        color = class_color(int(outcome.detections.labels[index]))
        pencil.rectangle(_ordered(box), outline=color, width=4 if index in wrong else 2)
    missed = set(outcome.missed.tolist())
    for index, box in enumerate((picture.boxes * scale).tolist()):
        _dashed(pencil, box, thick=index in missed)
    for index in range(len(boxes) - 1, -1, -1):
        if index in wrong or len(boxes) <= CROWDED:
            _label(pencil, boxes[index].tolist(), outcome, index, canvas.width)
    canvas.save(path, quality=82, optimize=True)
    return path


def _canvas(picture: TruthImage) -> tuple[Image.Image, float]:
    try:
        content = read_image(picture.file)
    except DetregError:
        content = np.full((picture.height, picture.width, 3), 128, dtype=np.uint8)
    longer = max(content.shape[:2])
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    size = (round(content.shape[1] * scale), round(content.shape[0] * scale))
    return Image.fromarray(
        cv2.resize(content, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    ), scale


def _dashed(pencil: ImageDraw.ImageDraw, box: Box, thick: bool) -> None:
    left, top, right, bottom = _ordered(box)
    for ends in (
        (left, top, right, top),
        (left, bottom, right, bottom),
        (left, top, left, bottom),
        (right, top, right, bottom),
    ):
        if thick:
            pencil.line(ends, fill=INK, width=4)
        for dash in _dashes(ends):
            pencil.line(dash, fill="white", width=4 if thick else 1)


def _dashes(ends: Box) -> list[tuple[float, ...]]:
    start, end = np.array(ends[:2]), np.array(ends[2:])
    length = max(float(np.abs(end - start).max()), 1.0)
    steps = [np.clip([at, at + DASH], 0, length) / length for at in np.arange(0, length, 2 * DASH)]
    return [
        tuple((start + (end - start) * share).ravel().tolist())
        for share in (step[:, None] for step in steps)
    ]


def _label(
    pencil: ImageDraw.ImageDraw, box: Box, outcome: Outcome, index: int, canvas_width: int
) -> None:
    found = outcome.detections
    label = int(found.labels[index])
    text = f"{found.class_names[label]} {found.scores[index]:.2f}"
    left, top, right, bottom = pencil.textbbox((0, 0), text, font=_font(), anchor="lt")
    width, height = right - left + 6, bottom - top + 6
    x = min(max(box[0], 0), canvas_width - width)
    y = max(box[1] - height, 0)
    color = class_color(label)
    pencil.rectangle((x, y, x + width, y + height), fill=color)
    pencil.text((x + 3, y + 3), text, font=_font(), anchor="lt", fill=_readable_on(color))


def _readable_on(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _ordered(box: Box) -> tuple[float, float, float, float]:
    """Pillow refuses a rectangle whose right side is left of its left one, which a detector may well put out."""
    return min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])


@cache
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib ships a font with Latin, Greek and Cyrillic letters; OpenCV 4 writes ASCII only.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 12
    )

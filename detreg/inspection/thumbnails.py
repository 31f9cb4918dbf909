"""Small images with boxes, which a page embeds by the hundred."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from detreg.data.boxes import Corners
from detreg.data.outlines import Outline
from detreg.errors import DetregError
from detreg.inference.images import read_image
from detreg.inspection.places import Place
from detreg.mask_patches import MaskPatch, cut_patch
from detreg.report.canvas import Canvas
from detreg.report.drawing import tint_mask
from detreg.report.theme import WRONG

Pixels = npt.NDArray[np.uint8]

SIDE = 260
"""Pixels of a thumbnail's longer side."""
MAX_BYTES = 20_000
"""Of a thumbnail's file, so that the page stays small with images of noise."""

HIGHLIGHT = WRONG
OTHER = "#FFFFFF"
"""The color of boxes that are not meant; they get a dark rim, to be seen on any image."""
RIM = "#22272E"
_OUTSIDE = np.array([-1.0, -1.0, 1.0, 1.0])
"""From a box to its rim, in pixels of the thumbnail."""

MIN_HIGHLIGHT = 18
"""Pixels of a thumbnail under which a highlighted box gets a larger one around it."""


@dataclass(frozen=True)
class DrawnBox:
    """A box in pixels of the image, with the color (#rrggbb) of its lines."""

    corners: Corners
    color: str


@dataclass(frozen=True)
class DrawnMask:
    """The mask of an object of an image, with the color (#rrggbb) that its pixels are tinted in."""

    outline: Outline
    color: str


def draw_thumbnail(
    image: Path, boxes: Sequence[DrawnBox], path: Path, masks: Sequence[DrawnMask] = ()
) -> Path | None:
    """Write a thumbnail as JPEG, None where the image cannot be read."""
    pixels = _read(image)
    if pixels is None:
        return None
    return _draw(_tint(pixels, masks), boxes, path)


def draw_place(place: Place, path: Path) -> Path | None:
    """Write a thumbnail of the image of a finding, with the box that it is about in color."""
    pixels = _read(place.image)
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    scale = np.array([width, height, width, height]) if place.fractions else np.ones(4)

    boxes = []
    for index, corners in enumerate(place.boxes):
        # The boxes of a broken dataset lie anywhere, also at infinity.
        box = np.array(corners, np.float64) * scale
        if np.isfinite(box).all():
            x1, y1, x2, y2 = box.clip(-width - height, 2 * (width + height)).tolist()
            color = HIGHLIGHT if index == place.found else OTHER
            boxes.append(DrawnBox((x1, y1, x2, y2), color))
    return _draw(pixels, boxes, path)


def _read(image: Path) -> Pixels | None:
    try:
        return read_image(image)
    except (DetregError, OSError):
        return None


def _tint(pixels: Pixels, masks: Sequence[DrawnMask]) -> Pixels:
    """Return an image whose objects are tinted in the colors of their masks."""
    tinted = pixels.copy() if masks else pixels
    for mask in masks:
        tint_mask(tinted, _fill(mask.outline, pixels.shape[1], pixels.shape[0]), mask.color)
    return tinted


def _fill(outline: Outline, width: int, height: int) -> MaskPatch:
    """Return the pixels of a checked mask, as far as drawings are exact."""
    if outline.mask is not None:
        return cut_patch(outline.mask)

    filled = Image.new("1", (width, height))
    for polygon in outline.polygons:
        ImageDraw.Draw(filled).polygon(list(polygon), fill=1)
    return MaskPatch(0, 0, np.asarray(filled))


def _draw(pixels: Pixels, boxes: Sequence[DrawnBox], path: Path) -> Path:
    """Write an image with boxes, those in color on top of the others."""
    canvas = Canvas(pixels, min_side=SIDE, max_side=SIDE)
    smallest = MIN_HIGHLIGHT * max(pixels.shape[:2]) / SIDE
    for box in sorted(boxes, key=lambda box: box.color != OTHER):
        corners = np.array(box.corners, np.float64)
        if box.color == OTHER:
            canvas.draw_box(corners + _OUTSIDE * max(pixels.shape[:2]) / SIDE, RIM, 1)
            canvas.draw_box(corners, OTHER, 1)
            continue
        canvas.draw_box(corners, box.color, 3)
        size = corners[2:] - corners[:2]
        if box.color == HIGHLIGHT and size.max() < smallest:
            margin = (smallest - size.clip(0)) / 2
            canvas.draw_box(
                np.concatenate([corners[:2] - margin, corners[2:] + margin]), HIGHLIGHT, 2
            )
    return canvas.save(path, MAX_BYTES)

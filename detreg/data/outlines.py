"""Outlines of objects: the polygons or the mask that formats may have beside boxes.

Boxes are learned without them. Readers leave them out, unless masks are asked for or a copy of a
dataset keeps them.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from detreg.data.boxes import DECIMALS, Corners
from detreg.run_lengths import RunLengthMask

Polygon = Sequence[float]
"""x1, y1, x2, y2, ...; an array of floats, which takes a quarter of the memory of a tuple."""

_MIN_NUMBERS = 6


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of an object: polygons or a mask.

    As it was read, nothing is known of it; as the mask of a checked image, it lies inside the image
    and has an area, and its mask is compressed.

    polygons: its parts, in the same unit as its box.
    mask: COCO's run-length code, of the whole image; None where there are polygons.
    defect: what keeps it from being read, with its remedy; mostly empty.
    """

    polygons: tuple[Polygon, ...] = ()
    mask: RunLengthMask | None = None
    defect: str = ""


def parse_polygon(values: object) -> Polygon | None:
    """Return a list of numbers as a polygon, however many there are; None for anything else."""
    if not isinstance(values, list | tuple):
        return None
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        return None


def fit_outline(outline: Outline, size: tuple[int, int], fractions: bool) -> Outline | None:
    """Return an outline in pixels and inside its image, None for one that cannot be used.

    size: width and height of the image in pixels.
    fractions: whether the polygons are in fractions of the image.
    """
    width, height = size
    if outline.defect or not all(map(_is_sound, outline.polygons)):
        return None
    if outline.mask is not None:
        return outline if (outline.mask.width, outline.mask.height) == size else None

    x_scale, y_scale = (width, height) if fractions else (1, 1)
    polygons = []
    for polygon in outline.polygons:
        fitted = array("d")
        for x, y in zip(polygon[::2], polygon[1::2], strict=True):
            fitted.append(_fit(x * x_scale, width))
            fitted.append(_fit(y * y_scale, height))
        polygons.append(fitted)
    return Outline(tuple(polygons))


def find_corners(polygon: Polygon) -> Corners:
    """Return the corners of the box around a polygon."""
    xs = polygon[::2]
    ys = polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _is_sound(polygon: Polygon) -> bool:
    """Whether a polygon has three points or more, of finite coordinates."""
    is_complete = len(polygon) >= _MIN_NUMBERS and len(polygon) % 2 == 0
    return is_complete and all(map(math.isfinite, polygon))


def _fit(value: float, size: int) -> float:
    """Return a coordinate that is inside the image, rounded as those of boxes."""
    return round(min(max(value, 0.0), float(size)), DECIMALS)

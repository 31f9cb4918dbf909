"""Outlines of objects: the polygons or the mask that some formats have beside boxes.

Nothing is learned from them, so readers leave them out. Only a copy of a dataset keeps them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detreg.data.boxes import DECIMALS, Corners

Polygon = tuple[float, ...]
"""x1, y1, x2, y2, ... of three points or more."""

_MIN_NUMBERS = 6


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of an object.

    polygons: its parts, in the same unit as its box.
    mask: COCO's run-length code, of the whole image; None where there are polygons.
    """

    polygons: tuple[Polygon, ...] = ()
    mask: Mapping[str, object] | None = None


def parse_polygon(values: object) -> Polygon | None:
    """Return the polygon that a list of numbers is, None where it is none."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    if len(values) < _MIN_NUMBERS or len(values) % 2:
        return None
    if not all(isinstance(value, int | float) and abs(value) < math.inf for value in values):
        return None
    return tuple(map(float, values))


def fit_outline(outline: Outline, size: tuple[int, int], fractions: bool) -> Outline | None:
    """Return an outline in pixels and inside its image, None for a mask of another size.

    size: width and height of the image in pixels.
    fractions: whether the polygons are in fractions of the image.
    """
    width, height = size
    if outline.mask is not None:
        return outline if outline.mask["size"] == [height, width] else None

    x_scale, y_scale = (width, height) if fractions else (1, 1)
    polygons = []
    for polygon in outline.polygons:
        fitted = []
        for x, y in zip(polygon[::2], polygon[1::2], strict=True):
            fitted += [_fit(x * x_scale, width), _fit(y * y_scale, height)]
        polygons.append(tuple(fitted))
    return Outline(tuple(polygons))


def find_corners(polygon: Polygon) -> Corners:
    """Return the corners of the box around a polygon."""
    xs = polygon[::2]
    ys = polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _fit(value: float, size: int) -> float:
    """Return a coordinate that is inside the image, rounded as those of boxes."""
    return round(min(max(value, 0.0), float(size)), DECIMALS)

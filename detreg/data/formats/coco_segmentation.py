"""Parses a segmentation of COCO, polygons or a run-length encoded mask, and finds its box."""

import math
from collections.abc import Sequence

from detreg.data.boxes import Corners
from detreg.data.outlines import Outline, parse_polygon
from detreg.run_lengths import RunLengthMask, bound_runs, parse_runs

_MIN_POLYGON_NUMBERS = 6
_MAX_RUN = 1 << 40
"""More pixels than any image has."""


_BAD_MASK = (
    "the segmentation is neither a list of polygons nor a mask with size and counts; export it "
    "again, or remove it"
)
_BAD_POLYGON = (
    "a polygon of the segmentation is not a list of numbers; write x1, y1, x2, y2, ... in pixels"
)


def parse_segmentation(segmentation: object) -> Outline | None:
    """Return a segmentation as JSON has it as an outline, None where there is none."""
    if segmentation is None or segmentation in ([], {}):
        return None
    if isinstance(segmentation, dict):
        mask = _parse_mask(segmentation)
        return Outline(defect=_BAD_MASK) if mask is None else Outline(mask=mask)
    if not isinstance(segmentation, list):
        return Outline(defect=_BAD_MASK)

    polygons = [polygon for polygon in map(parse_polygon, segmentation) if polygon is not None]
    if len(polygons) < len(segmentation):
        return Outline(defect=_BAD_POLYGON)
    return Outline(tuple(polygons))


def bound_segmentation(segmentation: object) -> Corners | None:
    """Return the corners of the box around a segmentation in pixels, None where it has no extent.

    Also None for what is no segmentation, or is only partly one.
    """
    if isinstance(segmentation, list):
        return _bound_polygons(segmentation)
    if isinstance(segmentation, dict):
        return _bound_mask(segmentation)
    return None


def _bound_polygons(polygons: Sequence[object]) -> Corners | None:
    """Return the corners of the box around polygons, each a list x1, y1, x2, y2, ..."""
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < _MIN_POLYGON_NUMBERS:
            return None
        if len(polygon) % 2 == 1 or not all(map(_is_finite, polygon)):
            return None
        xs.extend(polygon[::2])
        ys.extend(polygon[1::2])

    if not xs:
        return None
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def _is_finite(value: object) -> bool:
    """Whether a value of JSON is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _MAX_RUN and not math.isnan(value)


def _bound_mask(value: dict[str, object]) -> Corners | None:
    """Return the corners of the box around the ones of an encoded mask."""
    mask = _parse_mask(value)
    runs = None if mask is None else parse_runs(mask)
    return None if mask is None or runs is None else bound_runs(runs, mask.height)


def _parse_mask(value: dict[str, object]) -> RunLengthMask | None:
    """Return a mask as it is stated, None where it has no size or no runs of whole numbers."""
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_side, size)):
        return None
    height, width = size
    if isinstance(counts, str):
        return RunLengthMask(height, width, counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        return None
    return RunLengthMask(height, width, tuple(counts))


def _is_side(value: object) -> bool:
    """Whether a value of JSON may be the width or height of an image."""
    return isinstance(value, int) and 0 <= value < _MAX_RUN

"""Masks as the pixels of a part of their image: what is drawn, and turned into other forms."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.loops import Points, join_loops
from detreg.run_lengths import RunLengthMask, Runs, bound_runs, decode_runs, join_spans, parse_runs

_FINENESS = 2
"""Points of a polygon lie between those of a grid this many times finer than the pixels."""
TOLERANCE = 0.375
"""Pixels that a polygon with few points may lie beside the exact one."""


@dataclass(frozen=True, eq=False)
class MaskPatch:
    """The pixels (rows, columns) of a part of an image, whose first one is at `left`, `top`."""

    left: int
    top: int
    pixels: NDArray[np.bool_]


def cut_patch(mask: RunLengthMask) -> MaskPatch:
    """Return the smallest part of an image that has all pixels of a mask.

    Raises ValueError for runs that are not those of the image.
    """
    runs = parse_runs(mask)
    if runs is None:
        raise ValueError(f"runs must be those of {mask.width} x {mask.height} pixels")
    box = bound_runs(runs, mask.height)
    if box is None:
        return MaskPatch(0, 0, np.zeros((0, 0), np.bool_))
    left, top, right, bottom = map(int, box)
    pixels = decode_runs(runs, mask.height, mask.width)
    return MaskPatch(left, top, pixels[top:bottom, left:right])


def find_runs(patch: MaskPatch, height: int, width: int) -> Runs:
    """Return the runs of a mask in an image of a height and width, without unfolding it."""
    # Down the columns, as the code goes; a zero above and below each ends the spans in it.
    rows = len(patch.pixels)
    columns = np.zeros((patch.pixels.shape[1], rows + 2), np.bool_)
    columns[:, 1:-1] = patch.pixels.T
    pixels = columns.reshape(-1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    edge_columns, edge_rows = np.divmod(edges, columns.shape[1])
    places = (patch.left + edge_columns) * height + patch.top + edge_rows
    starts, ends = places[::2], places[1::2]
    if rows < height:
        return join_spans(starts, ends, height * width)

    # A span that reaches the bottom goes on where the next column's begins at the top.
    span_starts = np.setdiff1d(starts, ends, assume_unique=True)
    span_ends = np.setdiff1d(ends, starts, assume_unique=True)
    return join_spans(span_starts, span_ends, height * width)


def trace_polygons(patch: MaskPatch, tolerance: float = TOLERANCE) -> list[list[float]]:
    """Return the polygons x1, y1, x2, y2, ... of a mask in pixels of the image, one for each part.

    A part with holes is one polygon, whose lines to the holes are gone forth and back.
    """
    polygons = []
    for loops in _trace_parts(patch, tolerance):
        polygons.append(_to_polygon(join_loops(loops), patch))
    return polygons


def trace_polygon(patch: MaskPatch) -> list[float]:
    """Return all parts of a mask as one polygon, joined by such lines; [] without a pixel."""
    loops = [loop for part in _trace_parts(patch, TOLERANCE) for loop in part]
    return _to_polygon(join_loops(loops), patch) if loops else []


def _trace_parts(patch: MaskPatch, tolerance: float) -> list[list[Points]]:
    """Return the closed lines around each part of a mask, and around its holes, in a finer grid."""
    # OpenCV's contours run through the centers of pixels. Those of the finer grid lie a quarter of
    # a pixel inside the border and around every center, so a line of single pixels has an area.
    fine = np.repeat(np.repeat(patch.pixels.astype(np.uint8), _FINENESS, 0), _FINENESS, 1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts: dict[int, list[Points]] = {}
    for number, contour in enumerate(contours):
        # A hole names its part; parts come before and after their holes.
        parent = int(hierarchy[0, number, 3])
        loop = _simplify(contour, tolerance * _FINENESS)
        part = parts.setdefault(number if parent < 0 else parent, [])
        part.insert(0 if parent < 0 else len(part), loop)
    return [part for _, part in sorted(parts.items())]


def _to_polygon(points: Points, patch: MaskPatch) -> list[float]:
    in_image = (points + 0.5) / _FINENESS + (patch.left, patch.top)
    polygon: list[float] = in_image.reshape(-1).tolist()
    return polygon


def _simplify(contour: NDArray[np.int32], tolerance: float) -> Points:
    """Return a contour with fewer points, unless nothing would be left of its area."""
    simple = cv2.approxPolyDP(contour, tolerance, closed=True)
    chosen = simple if cv2.contourArea(simple) > 0 else contour
    return chosen.reshape(-1, 2).astype(np.int64)

"""Finds the box around a segmentation of COCO: polygons or a run-length encoded mask.

A mask is stored as the lengths of its runs of zeros and ones in turn, down the first column, then
down the next. The lengths are a list, or text in the compressed form of pycocotools (rleToString in
maskApi.c): 5 bits a character, from chr(48) on, the next-to-last bit set where more follow; from
the third run on, the difference to the run before the previous one.
"""

import math
from collections.abc import Sequence

from detreg.data.boxes import Corners

_MIN_POLYGON_NUMBERS = 6
_MAX_RUN = 1 << 40
"""More pixels than any image has."""


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


def _bound_mask(mask: dict[str, object]) -> Corners | None:
    """Return the corners of the box around the ones of an encoded mask."""
    size = mask.get("size")
    counts = mask.get("counts")
    runs = _decompress_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(size, list) or len(size) != 2 or not isinstance(runs, list):
        return None
    if not all(isinstance(value, int) and 0 <= value < _MAX_RUN for value in [*size, *runs]):
        return None

    height, width = size
    if sum(runs) != height * width:
        return None

    x1, y1, x2, y2 = width, height, 0, 0
    end = 0
    for number, length in enumerate(runs):
        start = end
        end += length
        is_ones = number % 2 == 1
        if not is_ones or length == 0:
            continue

        first_column, first_row = divmod(start, height)
        last_column, last_row = divmod(end - 1, height)
        # A run over several columns touches the top and the bottom.
        is_one_column = first_column == last_column
        x1 = min(x1, first_column)
        x2 = max(x2, last_column + 1)
        y1 = min(y1, first_row if is_one_column else 0)
        y2 = max(y2, last_row + 1 if is_one_column else height)

    return (float(x1), float(y1), float(x2), float(y2)) if x2 > x1 else None


def _decompress_runs(text: str) -> list[int] | None:
    """Return the lengths of the runs in compressed text, None where it cannot be such."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 50:
            return None

        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue

        is_negative = bits & 0x10
        if is_negative:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return runs if shift == 0 else None

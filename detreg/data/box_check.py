"""Checks the boxes of one image: what is wrong is an error, what is harmless is repaired."""

import math

from detreg.data.boxes import (
    DECIMALS,
    Box,
    Corners,
    clip_corners,
    compute_area,
    format_corners,
    round_corners,
    scale_box,
)
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector
from detreg.data.raw import ImageRecord

_MIN_SHARE_INSIDE = 0.75
"""A box of which less is in its image is told apart: many of them are an error (split_check.py)."""


def check_boxes(
    record: ImageRecord, size: tuple[int, int], fractions: bool, problems: ProblemCollector
) -> tuple[Box, ...]:
    """Return the usable boxes of an image, in pixels and inside it, each with its area.

    size: width and height of the image in pixels, 0 where they are not known. Boxes are then
        checked as far as that goes, and none is returned.
    fractions: whether the record's boxes are in fractions of the image.
    """
    width, height = size
    boxes: dict[tuple[str, Corners, bool], Box] = {}

    for box in record.boxes:
        in_pixels = scale_box(box, width, height) if fractions else box
        where = f"{record.source} {box.where}"
        # Not `catch_bad_entry`: this is called for each of a million boxes.
        try:
            repaired = _repair_box(in_pixels, width, height, where, problems)
        except BadEntryError as error:
            problems.add_error(error.kind, where, str(error))
            continue
        if repaired is None:
            continue

        # The first of several equal boxes is kept. Another class or flag is another box.
        identity = (repaired.label, repaired.corners, repaired.crowd)
        if identity in boxes:
            problems.add_repair(
                FindingKind.DUPLICATE_BOX, where, "exact duplicate of a box dropped"
            )
        else:
            boxes[identity] = repaired

    return tuple(boxes.values())


def _repair_box(
    box: Box, width: int, height: int, where: str, problems: ProblemCollector
) -> Box | None:
    """Return the box clipped to its image, with an area; None where it is dropped.

    Raises BadEntryError for a box that cannot be meant.
    """
    corners = _check_corners(box.corners)
    x1, y1, x2, y2 = corners
    if x1 == x2 or y1 == y2:
        problems.add_repair(FindingKind.EMPTY_BOX, where, "box without extent dropped")
        return None

    is_size_known = width > 0 and height > 0
    if not is_size_known:
        return None

    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise BadEntryError(
            FindingKind.BOX_OUTSIDE_IMAGE,
            f"the box ({format_corners(corners)}) lies wholly outside its image of "
            f"{width}x{height}; correct or remove it",
        )

    is_inside = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    if not is_inside:
        x1, y1, x2, y2 = clip_corners(corners, width, height)

    # MMDetection leaves such boxes out of training without saying so, but scoring expects them.
    if round(min(x2 - x1, y2 - y1), DECIMALS) < 1:
        problems.add_repair(
            FindingKind.THIN_BOX, where, "box less than one pixel wide or high dropped"
        )
        return None

    area = box.area
    if not is_inside:
        if compute_area((x1, y1, x2, y2)) < _MIN_SHARE_INSIDE * compute_area(corners):
            problems.add_repair(
                FindingKind.BOX_CUT, where, "box clipped to its image by more than a quarter"
            )
        else:
            problems.add_repair(FindingKind.BOX_CLIPPED, where, "box clipped to its image")
        # The stated area is that of the whole box.
        area = None
    if not area:
        area = round((x2 - x1) * (y2 - y1), DECIMALS)
    return Box((x1, y1, x2, y2), box.label, box.crowd, box.where, area)


def _check_corners(corners: Corners) -> Corners:
    """Return the rounded corners. Raises BadEntryError unless they are finite and in order."""
    if not all(map(math.isfinite, corners)):
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            "the box has a coordinate that is not a finite number (NaN or infinite); "
            "correct or remove it",
        )

    rounded = round_corners(corners)
    x1, y1, x2, y2 = rounded
    if x2 < x1 or y2 < y1:
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"the box ({format_corners(rounded)}) ends before it begins: a negative width or "
            "height, or swapped corners; correct it",
        )
    return rounded

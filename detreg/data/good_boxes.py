"""Checks the boxes of thousands of images at once, as far as there is nothing to tell of them.

So are nearly all images of a dataset. What is computed here is what box_check.py computes of each
box, to the last bit. An image with a box that is wrong or needs a repair is left to it.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from detreg.data.boxes import DECIMALS, Box
from detreg.data.raw import ImageRecord

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_SCALE = 10.0**DECIMALS

_MAX_SCALED = 2.0**40
_DOUBT = 1e-3
"""Under `_MAX_SCALED` the error of a product is a tenth of this at most."""

_CORNER_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
_IMAGE_FACTOR = np.uint64(0x27D4EB2F165667C5)
"""Odd numbers without a pattern."""


def keep_good_boxes(
    records: Sequence[ImageRecord], sizes: Sequence[tuple[int, int]], fractions: bool
) -> list[tuple[Box, ...] | None]:
    """Return the boxes of each image as `check_boxes` does, None for those that it has to look at.

    sizes: width and height of each image in pixels, 0 where they are not known.
    fractions: whether the boxes are in fractions of their image.
    """
    counts = [len(record.boxes) for record in records]
    boxes = list(chain.from_iterable(record.boxes for record in records))
    image_of_box = np.repeat(np.arange(len(records)), counts)
    image_sizes = np.array(sizes, np.float64).reshape(-1, 2)
    limits = image_sizes[image_of_box]

    numbers = chain.from_iterable(box.corners for box in boxes)
    stated = np.fromiter(numbers, np.float64, 4 * len(boxes)).reshape(-1, 4)
    # What is not finite, or too large, is found in what comes out.
    with np.errstate(all="ignore"):
        corners = round_exactly(stated * np.tile(limits, 2) if fractions else stated) + 0.0
        is_good = _are_good(corners, limits) & ~_may_be_repeated(corners, image_of_box)
        areas = round_exactly(np.prod(corners[:, 2:] - corners[:, :2], axis=1))

    is_usable = image_sizes.min(axis=1) > 0
    is_usable[image_of_box[~is_good]] = False

    # Negative zero is equal to zero.
    has_changed = ((corners != stated) | np.signbit(stated)).any(axis=1)
    has_changed |= np.fromiter((not box.area for box in boxes), np.bool_, len(boxes))
    changed = np.flatnonzero(has_changed & is_usable[image_of_box])
    columns = (changed.tolist(), corners[changed].tolist(), areas[changed].tolist())
    for place, (x1, y1, x2, y2), area in zip(*columns, strict=True):
        box = boxes[place]
        boxes[place] = Box((x1, y1, x2, y2), box.label, box.crowd, box.where, box.area or area)

    ends = np.cumsum([0, *counts]).tolist()
    kept: list[tuple[Box, ...] | None] = []
    for image, can_use in enumerate(is_usable.tolist()):
        kept.append(tuple(boxes[ends[image] : ends[image + 1]]) if can_use else None)
    return kept


def round_exactly(values: Floats) -> Floats:
    """Return what `round(value, DECIMALS)` returns for each value, to the last bit.

    Python rounds the exact value, and numpy its product with 1000, which is itself rounded. That
    makes a difference only near the middle between two results: those values Python rounds.
    """
    scaled = values * _SCALE
    nearest = np.rint(scaled)
    rounded: Floats = nearest / _SCALE

    is_certain = (np.abs(scaled - nearest) < 0.5 - _DOUBT) & (np.abs(scaled) < _MAX_SCALED)
    doubtful = np.flatnonzero(~is_certain)
    rounded.flat[doubtful] = [round(value, DECIMALS) for value in values.flat[doubtful].tolist()]
    return rounded


def _are_good(corners: Floats, limits: Floats) -> Booleans:
    """Return whether each box lies inside its image and is a pixel wide and high at least.

    corners: (boxes, 4), rounded. limits: (boxes, 2), width and height of each box's image.
    """
    is_inside = (corners[:, :2] >= 0) & (corners[:, 2:] <= limits)
    is_large_enough = corners[:, 2:] - corners[:, :2] >= 1
    are_good: Booleans = np.all(is_inside & is_large_enough, axis=1)
    return are_good


def _may_be_repeated(corners: Floats, image_of_box: npt.NDArray[np.int64]) -> Booleans:
    """Return whether the image of each box may have another one with the same corners.

    By a number that boxes with the same corners have in common; others rarely do.
    """
    bits = corners.view(np.uint64) * _CORNER_FACTORS
    numbers = bits.sum(axis=1) + image_of_box.astype(np.uint64) * _IMAGE_FACTOR
    order = np.argsort(numbers)
    is_equal = numbers[order[1:]] == numbers[order[:-1]]
    is_repeated = np.zeros(len(corners), np.bool_)
    is_repeated[order[1:][is_equal]] = True
    return is_repeated

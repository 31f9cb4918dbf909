"""Boxes that are worth a look: tiny, long, as large as their image, or of two classes at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.inspection.table import BoxTable, Floats, Integers

TINY = 4
"""Pixels of the shorter side, in the image as it is."""
LONG = 20
"""The longer side over the shorter one."""
WHOLE_IMAGE = 0.98
"""Share of the image's area."""
SAME_PLACE = 0.9
"""IoU of two boxes that are meant for one object."""

_NEIGHBORS = 8
"""Boxes behind each one, from left to right, that it is compared with."""


@dataclass(frozen=True)
class OutlyingBoxes:
    """Boxes that stand out in one way.

    reason: what they are, such as "under 4 px".
    boxes: their indices in the table, the most extreme first.
    """

    reason: str
    boxes: Integers


def find_outlying_boxes(table: BoxTable) -> tuple[OutlyingBoxes, ...]:
    """Return the boxes that stand out, one group for each way in which any does."""
    shapes = table.box_sizes
    shorter = shapes.min(axis=1)
    elongation = shapes.max(axis=1) / shorter
    image_areas = table.sizes[table.image_of_box].prod(axis=1)
    covered = shapes.prod(axis=1) / image_areas

    groups = [
        OutlyingBoxes(f"under {TINY} px", _select(shorter < TINY, shorter)),
        OutlyingBoxes(f"over {LONG}:1", _select(elongation >= LONG, -elongation)),
        OutlyingBoxes("as large as the image", _select(covered >= WHOLE_IMAGE, -covered)),
        OutlyingBoxes("two classes on one box", _find_contradictions(table)),
    ]
    return tuple(group for group in groups if len(group.boxes))


def _select(condition: npt.NDArray[np.bool_], order: Floats) -> Integers:
    """Return the indices for which a condition holds, in an order."""
    chosen = np.flatnonzero(condition)
    return chosen[np.argsort(order[chosen], kind="stable")]


def _find_contradictions(table: BoxTable) -> Integers:
    """Return the first box of each two that have one place in one image and two classes."""
    corners = table.corners
    by_place = np.lexsort((corners[:, 1], corners[:, 0], table.image_of_box))

    found = []
    for distance in range(1, _NEIGHBORS + 1):
        first, second = by_place[:-distance], by_place[distance:]
        is_candidate = table.image_of_box[first] == table.image_of_box[second]
        is_candidate &= table.labels[first] != table.labels[second]
        first, second = first[is_candidate], second[is_candidate]
        overlaps = _compute_iou(corners[first], corners[second])
        found.append(first[overlaps >= SAME_PLACE])
    return np.unique(np.concatenate(found))


def _compute_iou(first: Floats, second: Floats) -> Floats:
    """Return the overlap of each box of (n, 4) with the one of the same index."""
    upper_left = np.maximum(first[:, :2], second[:, :2])
    lower_right = np.minimum(first[:, 2:], second[:, 2:])
    intersection = (lower_right - upper_left).clip(0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(
        axis=1
    )
    overlaps: Floats = intersection / (areas - intersection)
    return overlaps

"""The objects of a training image as arrays, and what moving its pixels does to boxes and masks.

A box is left, top, right, bottom in pixels. All functions return new arrays: a transform may be
given arrays that others still use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detreg.training.object_masks import Matrix, ObjectMasks, make_matrix

Boxes = NDArray[np.float32]
"""Boxes (n, 4)."""


@dataclass(frozen=True)
class Part:
    """A rectangle of whole pixels; `right` and `bottom` are the first beyond it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    def move(self, right: int, down: int) -> "Part":
        """Return the part moved by whole pixels."""
        return Part(self.left + right, self.top + down, self.right + right, self.bottom + down)


@dataclass(frozen=True)
class Objects:
    """The labeled objects of an image."""

    boxes: Boxes
    labels: NDArray[np.int64]
    """Numbers of classes (n,)."""
    is_ignored: NDArray[np.bool_]
    """Whether an object is neither to be found nor an error if it is found (n,)."""
    masks: ObjectMasks | None = None
    """The masks of all objects, None where masks are not trained."""

    def replace_boxes(self, boxes: Boxes) -> "Objects":
        """Return the objects with other boxes."""
        return replace(self, boxes=boxes)


def get_objects(results: dict[str, Any]) -> Objects:
    """Return the objects of an image in MMDetection's form."""
    return Objects(
        boxes=results["gt_bboxes"],
        labels=results["gt_bboxes_labels"],
        is_ignored=results["gt_ignore_flags"],
        masks=results.get("gt_masks"),
    )


def put_objects(results: dict[str, Any], objects: Objects) -> None:
    """Replace the objects of an image in MMDetection's form."""
    results["gt_bboxes"] = objects.boxes
    results["gt_bboxes_labels"] = objects.labels
    results["gt_ignore_flags"] = objects.is_ignored
    if objects.masks is not None:
        results["gt_masks"] = objects.masks


def join_objects(parts: Sequence[Objects]) -> Objects:
    """Return all objects of one or more images, in order.

    They must have no masks: no template that learns masks mixes images.
    """
    if any(part.masks is not None for part in parts):
        raise NotImplementedError("images that are mixed must not have masks")
    return Objects(
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        is_ignored=np.concatenate([part.is_ignored for part in parts]),
    )


def select_objects(objects: Objects, is_chosen: NDArray[np.bool_]) -> Objects:
    """Return the objects for which `is_chosen` (n,) is true."""
    return Objects(
        boxes=objects.boxes[is_chosen],
        labels=objects.labels[is_chosen],
        is_ignored=objects.is_ignored[is_chosen],
        masks=None if objects.masks is None else objects.masks[is_chosen],
    )


def select_objects_inside(objects: Objects, width: int, height: int) -> Objects:
    """Return the objects of which a part lies within an image."""
    left, top, right, bottom = objects.boxes.T
    return select_objects(objects, (left < width) & (top < height) & (right > 0) & (bottom > 0))


def scale_objects(objects: Objects, factor_x: float, factor_y: float) -> Objects:
    """Scale objects with their image."""
    factors = np.array([factor_x, factor_y, factor_x, factor_y], np.float32)
    return _transform(objects, objects.boxes * factors, make_matrix(factor_x, factor_y))


def move_objects(objects: Objects, right: int, down: int) -> Objects:
    """Move objects by whole pixels."""
    distances = np.array([right, down, right, down], np.float32)
    return _transform(objects, objects.boxes + distances, make_matrix(right=right, down=down))


def clip_objects(objects: Objects, width: int, height: int) -> Objects:
    """Cut boxes off at the borders of an image; one that lies outside is left without an area.

    Masks are left as they are: what lies outside the boxes of an image is not looked at.
    """
    limits = np.array([width, height, width, height], np.float32)
    return objects.replace_boxes(np.clip(objects.boxes, 0, limits))


def mirror_objects(objects: Objects, width: int) -> Objects:
    """Exchange left and right in an image `width` pixels wide."""
    left, top, right, bottom = objects.boxes.T
    mirrored = np.stack([width - right, top, width - left, bottom], axis=-1)
    return _transform(objects, mirrored, make_matrix(factor_x=-1.0, right=width))


def _transform(objects: Objects, boxes: Boxes, matrix: Matrix) -> Objects:
    """Return the objects with moved boxes, and masks moved by the matrix that moved the boxes."""
    masks = None if objects.masks is None else objects.masks.transform(matrix)
    return Objects(boxes, objects.labels, objects.is_ignored, masks)

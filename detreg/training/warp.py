"""A random affine warp of an image and of its boxes.

The random numbers are those of MMDetection 3.3's RandomAffine, in the same order, and so are the
boxes, to the last bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.structures.bbox import HorizontalBoxes
from numpy.typing import NDArray

from detreg.training.objects import Boxes, Part

MAX_ROTATION = 10.0
"""Degrees to either side."""
MAX_SHEAR = 2.0
"""Degrees to either side, of x and of y."""
MAX_SHIFT = 0.1
"""Share of the width and of the height, to either side."""

Matrix = NDArray[np.floating[Any]]
"""An affine matrix (3, 3) of float32, from x, y and 1 before to those after."""


def draw_warp(factors: tuple[float, float], width: int, height: int) -> Matrix:
    """Draw a warp that scales, rotates, shears and shifts about the top left corner, in this order.

    `factors` are the lowest and the highest factor; `width` and `height` are those of the result.
    """
    angle = math.radians(_draw_within(MAX_ROTATION))
    rotation = _make_matrix(
        [np.cos(angle), -np.sin(angle), 0.0],
        [np.sin(angle), np.cos(angle), 0.0],
    )

    factor = np.random.uniform(*factors)
    scaling = _make_matrix([factor, 0.0, 0.0], [0.0, factor, 0.0])

    shear_x = math.radians(_draw_within(MAX_SHEAR))
    shear_y = math.radians(_draw_within(MAX_SHEAR))
    shear = _make_matrix([1.0, np.tan(shear_x), 0.0], [np.tan(shear_y), 1.0, 0.0])

    shift_x = _draw_within(MAX_SHIFT) * width
    shift_y = _draw_within(MAX_SHIFT) * height
    shift = _make_matrix([1.0, 0.0, shift_x], [0.0, 1.0, shift_y])

    return shift @ shear @ rotation @ scaling


def warp_boxes(boxes: Boxes, matrix: Matrix) -> Boxes:
    """Return the upright boxes around the warped ones."""
    # Torch computes this, as for MMDetection: the last bits of NumPy's products differ.
    warped = HorizontalBoxes(boxes)
    warped.project_(matrix)
    return warped.numpy()


def find_visible_part(matrix: Matrix, width: int, height: int) -> Part:
    """Return the part of an image that a warped result of `width` x `height` is made of.

    It may reach beyond the image on the right and below.
    """
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    x, y, _ = np.linalg.inv(matrix.astype(np.float64)) @ corners

    # Interpolation looks at the next pixel; more covers rounding.
    margin = 3
    return Part(
        left=max(int(x.min()) - margin, 0),
        top=max(int(y.min()) - margin, 0),
        right=max(int(x.max()) + margin, 0),
        bottom=max(int(y.max()) + margin, 0),
    )


def _draw_within(limit: float) -> float:
    """Draw a number from -limit to limit."""
    return np.random.uniform(-limit, limit)


def _make_matrix(first_row: Sequence[float], second_row: Sequence[float]) -> Matrix:
    return np.array([first_row, second_row, [0.0, 0.0, 1.0]], np.float32)

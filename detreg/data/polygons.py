"""Geometry of polygons that anyone may have drawn: clipped, without extent, crossing themselves.

Points are float64 (points, 2), x and y in pixels.
"""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

MAX_EXAMINED = 2000
"""Points of the largest polygon that is searched for crossings, in time and memory of its square.

What has more was traced along the pixels of a mask by a program."""

_MIN_DISTANCE = 1e-3
"""Pixels that a polygon without extent may be off its line."""


def clip_polygon(points: Points, width: int, height: int) -> Points:
    """Return the part of a polygon inside an image; it may be empty.

    By Sutherland and Hodgman, edge by edge of the image: parts that a straight edge would join
    remain joined along it, which encloses nothing.
    """
    for axis, limit in ((0, width), (1, height)):
        points = _clip_below(points, axis, float(limit))
        mirrored = points * (-1 if axis == 0 else 1, -1 if axis == 1 else 1)
        points = _clip_below(mirrored, axis, 0.0)
        points = points * (-1 if axis == 0 else 1, -1 if axis == 1 else 1)
    # Negative zeros become zeros.
    return points + 0.0


def _clip_below(points: Points, axis: int, limit: float) -> Points:
    """Return the part of a polygon whose coordinate of an axis is at most `limit`."""
    if len(points) == 0:
        return points
    following = np.roll(points, -1, axis=0)
    is_inside = points[:, axis] <= limit
    does_cross = is_inside != np.roll(is_inside, -1)

    distance = following[:, axis] - points[:, axis]
    to_limit = limit - points[:, axis]
    share = np.divide(to_limit, distance, where=does_cross, out=np.zeros(len(points)))
    crossings = points + share[:, None] * (following - points)
    crossings[:, axis] = limit

    # After each point that is inside, the place where the edge from it leaves or enters.
    both = np.stack([points, crossings], axis=1).reshape(-1, 2)
    return both[np.stack([is_inside, does_cross], axis=1).reshape(-1)]


def has_extent(points: Points) -> bool:
    """Whether a polygon has three points or more that are not on a line."""
    if len(points) < 3:
        return False
    offsets = points - points[0]
    far = offsets[np.argmax((offsets**2).sum(axis=1))]
    length = float(np.hypot(*far))
    if length == 0:
        return False
    distances = np.abs(offsets[:, 0] * far[1] - offsets[:, 1] * far[0]) / length
    return bool(distances.max() > _MIN_DISTANCE)


def crosses_itself(points: Points) -> bool:
    """Whether two edges of a closed polygon cross between their ends; False for too many points."""
    count = len(points)
    if count > MAX_EXAMINED:
        return False
    following = np.roll(points, -1, axis=0)

    # On which side of each edge (rows) each point (columns) lies.
    direction = following - points
    offsets = points[None] - points[:, None]
    turns = direction[:, None, 0] * offsets[..., 1] - direction[:, None, 1] * offsets[..., 0]
    is_left, is_right = turns > 0, turns < 0
    are_apart = is_left & np.roll(is_right, -1, axis=1) | is_right & np.roll(is_left, -1, axis=1)
    return bool((are_apart & are_apart.T).any())

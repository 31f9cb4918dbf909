"""Geometry of polygons that anyone may have drawn: clipped, without extent, crossing themselves.

Points are float64 (points, 2), x and y in pixels.
"""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

_MAX_PAIRS = 200_000
"""Most edges above each other that are compared, in the time and memory of as many."""

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
    """Whether two edges of a closed polygon cross between their ends.

    False where more edges than `_MAX_PAIRS` are above each other, which nobody draws.
    """
    ends = np.roll(points, -1, axis=0)
    lows, highs = np.minimum(points, ends), np.maximum(points, ends)

    # In the order of their left ends, an edge can cross those that follow before it ends itself.
    order = np.argsort(lows[:, 0], kind="stable")
    following = np.searchsorted(lows[order, 0], highs[order, 0], side="right")
    counts = following - np.arange(len(points)) - 1
    if counts.sum() > _MAX_PAIRS:
        return False
    places = np.repeat(np.arange(len(points)), counts)
    distances = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    one, other = order[places], order[places + distances]

    do_overlap = (lows[one, 1] < highs[other, 1]) & (lows[other, 1] < highs[one, 1])
    one, other = one[do_overlap], other[do_overlap]
    is_other_apart = _are_apart(points[one], ends[one], points[other], ends[other])
    is_one_apart = _are_apart(points[other], ends[other], points[one], ends[one])
    return bool((is_other_apart & is_one_apart).any())


def _are_apart(starts: Points, ends: Points, one: Points, other: Points) -> npt.NDArray[np.bool_]:
    """Return whether two points each are on both sides of the line from a start to an end."""
    return _turn(starts, ends, one) * _turn(starts, ends, other) < 0


def _turn(starts: Points, ends: Points, points: Points) -> Points:
    """Return numbers above 0 for points on one side of the line, below 0 for the other side."""
    direction, offsets = ends - starts, points - starts
    turns: Points = direction[:, 0] * offsets[:, 1] - direction[:, 1] * offsets[:, 0]
    return turns

"""Turns the pixels of a mask into one polygon that has exactly these pixels again.

Formats that hold one polygon for an object hold a mask of several parts, or with holes, as a
polygon whose parts are joined by lines that are gone forth and back and so enclose nothing.
Programs that fill by COCO's rule (a pixel is inside where its center is) find the same pixels.
"""

import numpy as np
import numpy.typing as npt

from detreg.data.boxes import Corners
from detreg.loops import MAX_NEAREST_LOOPS, Points, join_loops

_MAX_CUT = 0.45
"""Pixels that a box may cut from the outer ones without reaching their centers."""

_MAX_POINTS = 20_000
"""Masks of more loops than `MAX_NEAREST_LOOPS` or more points are noise, or too detailed."""


def trace_polygon(mask: npt.NDArray[np.bool_], box: Corners) -> list[float] | None:
    """Return the polygon x1, y1, ... of a mask (height, width), around which `box` is the box.

    Where the mask ends within its box, lines that enclose nothing lead from it to the sides of the
    box. None for a mask without pixels, that reaches over its box, or that is too detailed.
    """
    loops = _trace_loops(mask)
    if not loops or len(loops) > MAX_NEAREST_LOOPS or sum(map(len, loops)) > _MAX_POINTS:
        return None
    points = _drop_straight_points(join_loops(loops)).astype(np.float64)
    # A box between pixels cuts the outer ones; their centers are inside.
    fitted = points.clip(box[:2], box[2:])
    if np.abs(fitted - points).max() > _MAX_CUT:
        return None

    points = fitted
    x1, y1 = points.min(axis=0)
    x2, y2 = points.max(axis=0)

    for axis, side, extreme in ((0, box[0], x1), (1, box[1], y1), (0, box[2], x2), (1, box[3], y2)):
        if side != extreme:
            points = _reach_for(points, axis, side, extreme)
    return points.reshape(-1).tolist()


def _trace_loops(mask: npt.NDArray[np.bool_]) -> list[Points]:
    """Return the loops around the parts of a mask and its holes, along the edges of pixels."""
    padded = np.pad(mask, 1).astype(np.int8)
    # With the mask on the right hand: rightwards along its upper edges, downwards along its right.
    across = np.diff(padded, axis=0)[:, 1:-1]
    down = np.diff(padded, axis=1)[1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dx, dy), (ys, xs) in (
        ((1, 0), np.nonzero(across == 1)),
        ((-1, 0), np.nonzero(across == -1)),
        ((0, -1), np.nonzero(down == 1)),
        ((0, 1), np.nonzero(down == -1)),
    ):
        # An edge leftwards or upwards begins at its other end.
        starts = zip((xs + (dx < 0)).tolist(), (ys + (dy < 0)).tolist(), strict=True)
        for start in starts:
            steps.setdefault(start, []).append((dx, dy))

    loops = []
    while steps:
        start = next(iter(steps))
        x, y = start
        loop = []
        while (x, y) in steps:
            loop.append((x, y))
            # Where two parts touch in a corner, either way is one: both turn off there.
            choices = steps[x, y]
            dx, dy = choices.pop()
            if not choices:
                del steps[x, y]
            x, y = x + dx, y + dy
        loops.append(np.array(loop, np.int64))
    return loops


def _drop_straight_points(points: Points) -> Points:
    """Return a loop without the points at which it goes straight on."""
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    is_straight = (before == after).all(axis=1)
    # A joined loop repeats a point where its parts touch.
    is_repeated = (after == 0).all(axis=1)
    return points[~is_straight & ~is_repeated]


def _reach_for(
    points: npt.NDArray[np.float64], axis: int, side: float, extreme: float
) -> npt.NDArray[np.float64]:
    """Return a loop with a line from its extreme point to a side of the box, and back."""
    place = int(np.flatnonzero(points[:, axis] == extreme)[0])
    end = points[place].copy()
    end[axis] = side
    return np.insert(points, place + 1, [end, points[place]], axis=0)

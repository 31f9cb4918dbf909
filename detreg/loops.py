"""Closed lines around the parts and the holes of a mask, joined to one that has the same inside."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int64]
"""Points (points, 2), x and y, of a closed line; the last one leads to the first."""

MAX_NEAREST_LOOPS = 64
"""Of more loops, which the mask of a poor model may have, the nearest pairs are not looked for."""


def join_loops(loops: Sequence[Points]) -> Points:
    """Return one loop of all, in which lines that are gone forth and back lead from one to another.

    Such a line encloses nothing. Of up to `MAX_NEAREST_LOOPS` loops it lies between the points
    where two are the nearest. So no line crosses a loop whose points lie close together: another
    loop on its way would be nearer.
    """
    if len(loops) > MAX_NEAREST_LOOPS:
        return _join_from_left(loops)

    joined, *rest = loops
    while rest:
        nearest = [_find_nearest(joined, loop) for loop in rest]
        chosen = min(range(len(rest)), key=lambda number: nearest[number][0])
        _, place, place_of_loop = nearest[chosen]
        joined = _insert(joined, place, rest.pop(chosen), place_of_loop)
    return joined


def _join_from_left(loops: Sequence[Points]) -> Points:
    """Return one loop of all, each joined to the nearest point of those on its left.

    The time grows with the loops and the points, and not with their squares. Lines may cross loops.
    """
    joined, *others = sorted(loops, key=lambda loop: int(loop[:, 0].min()))
    for loop in others:
        leftmost = int(loop[:, 0].argmin())
        distances = ((joined - loop[leftmost]) ** 2).sum(axis=1)
        joined = _insert(joined, int(distances.argmin()), loop, leftmost)
    return joined


def _insert(joined: Points, place: int, loop: Points, place_of_loop: int) -> Points:
    """Return a loop in which a line leads from a place to another loop, around it, and back."""
    turned = np.roll(loop, -place_of_loop, axis=0)
    return np.concatenate([joined[: place + 1], turned, turned[:1], joined[place:]])


def _find_nearest(one: Points, other: Points) -> tuple[int, int, int]:
    """Return the squared distance of the nearest points of two loops, and their places."""
    best = (np.iinfo(np.int64).max, 0, 0)
    # In pieces, which bounds the memory.
    for start in range(0, len(one), 256):
        offsets = one[start : start + 256, None] - other[None]
        distances = (offsets**2).sum(axis=2)
        place, place_of_other = divmod(int(distances.argmin()), len(other))
        distance = int(distances[place, place_of_other])
        best = min(best, (distance, start + place, place_of_other))
    return best

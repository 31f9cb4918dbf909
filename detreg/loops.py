"""Closed lines around the parts and the holes of a mask, joined to one that has the same inside."""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int64]
"""Points (points, 2), x and y, of a closed line; the last one leads to the first."""


def join_loops(loops: list[Points]) -> Points:
    """Return one loop of all, joined by lines between the places where they are the nearest.

    So no line crosses a loop: another loop on its way would be nearer.
    """
    joined, *rest = loops
    while rest:
        nearest = [_find_nearest(joined, loop) for loop in rest]
        chosen = min(range(len(rest)), key=lambda number: nearest[number][0])
        _, place, place_of_loop = nearest[chosen]
        loop = np.roll(rest.pop(chosen), -place_of_loop, axis=0)
        joined = np.concatenate([joined[: place + 1], loop, loop[:1], joined[place:]])
    return joined


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

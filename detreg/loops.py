"""Closed lines around the parts and the holes of a mask, joined to one that has the same inside."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int64]
"""Points (points, 2), x and y, of a closed line; the last one leads to the first."""


def join_loops(loops: Sequence[Points]) -> Points:
    """Return one loop of all, in which lines that are gone forth and back lead from one to another.

    Such a line encloses nothing, whatever it crosses. Each loop is joined to the nearest point of
    those on its left, in a time that grows with the loops and the points and not with their square:
    the mask of a poor model has hundreds of holes.
    """
    first, *others = sorted(loops, key=lambda loop: int(loop[:, 0].min()))
    joined = first
    for loop in others:
        turned = np.roll(loop, -int(loop[:, 0].argmin()), axis=0)
        distances = ((joined - turned[0]) ** 2).sum(axis=1)
        place = int(distances.argmin())
        joined = np.concatenate([joined[: place + 1], turned, turned[:1], joined[place:]])
    return joined

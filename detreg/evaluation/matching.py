"""Which box of one set is which box of another: overlaps, and COCO's greedy assignment over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from detreg.inference.detections import Detections

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNMATCHED = -1


def overlaps(boxes: Floats, others: Floats, crowd: Bools | None = None) -> npt.NDArray[np.float64]:
    """Intersection over union of every box with every other one.

    boxes (n, 4) and others (m, 4) are xyxy; the result is (n, m), 0 where both boxes are empty. Where crowd (m,) is true, the
    intersection is divided by the first box's area alone, as COCO does it, because a crowd's box may hold many objects.
    """
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    area, other_area = ((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b))
    whole = area + other_area - shared
    if crowd is not None:
        whole = np.where(crowd[None], area, whole)
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def assign(overlap: Floats, iou: float, crowd: Bools | None = None) -> Ints:
    """Give each row the column it overlaps most among those that no earlier row has taken.

    overlap is (n, m) with its rows in falling order of score; the result (n,) holds columns, or UNMATCHED where nothing reaches
    iou. A crowd column can be taken by many rows, but only by those that no other column satisfies. Of equal overlaps the last
    column wins, as in pycocotools' evaluateImg, whose rule this is.
    """
    columns = overlap.shape[1]
    crowd = np.zeros(columns, dtype=bool) if crowd is None else crowd
    assigned = np.full(len(overlap), UNMATCHED, dtype=np.int64)
    free = np.ones(columns, dtype=bool)
    for row in np.flatnonzero((overlap >= iou).any(axis=1)):
        for candidates in (free & ~crowd, crowd):
            values = np.where(candidates & (overlap[row] >= iou), overlap[row], -1.0)
            best = columns - 1 - int(values[::-1].argmax())
            if values[best] >= 0:
                assigned[row] = best
                free[best] = crowd[best]
                break
    return assigned


def near(
    boxes: Floats,
    others: Floats,
    corner_tolerance: float | None = None,
) -> npt.NDArray[np.float64]:
    """Measure how well every box (n, 4) fits every other one (m, 4): their overlap (n, m).

    With corner_tolerance, in pixels, boxes whose corners are that close fit nearly perfectly,
    whatever their overlap: a box of a few pixels loses it to rounding.
    """
    overlap = overlaps(boxes, others)
    if corner_tolerance is None:
        return overlap
    apart = np.abs(boxes[:, None].astype(np.float64) - others[None]).max(axis=-1)
    return np.where(apart <= corner_tolerance, np.maximum(overlap, 1.0 - apart / 1000), overlap)


def assign_most(overlap: Floats, iou: float) -> Ints:
    """Give as many rows as possible a column of their own that they overlap by at least iou.

    overlap is (n, m); the result (n,) holds columns, or UNMATCHED. It starts as `assign` does, and
    moves rows to other columns where a row would otherwise get none, so that the order of rows with
    equal scores does not decide how many are matched.
    """
    assigned = assign(overlap, iou)
    fits = overlap >= iou
    for row in np.flatnonzero((assigned == UNMATCHED) & fits.any(axis=1)):
        _make_room(int(row), fits, assigned)
    return assigned


def _make_room(row: int, fits: Bools, assigned: Ints) -> None:
    """Give a row a column by moving other rows to other columns, where that is possible.

    fits (n, m) tells which row may have which column. This is a search for an augmenting path, in
    breadth, so that the fewest rows move.
    """
    holders = np.full(fits.shape[1], UNMATCHED, dtype=np.int64)
    given = np.flatnonzero(assigned != UNMATCHED)
    holders[assigned[given]] = given
    wanted_by = np.full(fits.shape[1], UNMATCHED, dtype=np.int64)
    waiting = [row]
    while waiting:
        seeker = waiting.pop(0)
        for column in np.flatnonzero(fits[seeker] & (wanted_by == UNMATCHED)).tolist():
            wanted_by[column] = seeker
            if holders[column] == UNMATCHED:
                _pass_on(column, row, wanted_by, assigned)
                return
            waiting.append(int(holders[column]))


def _pass_on(free: int, row: int, wanted_by: Ints, assigned: Ints) -> None:
    """Give a free column to the row that wants it, that row's former column to the next, and so on.

    It ends with `row`, which had none.
    """
    while True:
        taker = int(wanted_by[free])
        former = int(assigned[taker])
        assigned[taker] = free
        if taker == row:
            return
        free = former


def match(
    a: Detections,
    b: Detections,
    iou: float = 0.99,
    score_tolerance: float | None = None,
    corner_tolerance: float | None = None,
) -> Ints:
    """Pair the detections of one model with those of another, one to one and within the same class.

    Returns (k, 2) indices into a and b, in falling order of a's score; there are as many pairs as
    there can be. With score_tolerance a pair's scores differ by at most that much; corner_tolerance
    is that of `near`. Labels are compared as numbers: both sides must count the same classes.
    """
    overlap = near(a.boxes, b.boxes, corner_tolerance)
    allowed = a.labels[:, None] == b.labels[None]
    if score_tolerance is not None:
        apart = np.abs(a.scores[:, None].astype(np.float64) - b.scores[None])
        allowed &= apart <= score_tolerance

    assigned = assign_most(np.where(allowed, overlap, -1.0), iou)
    rows = np.flatnonzero(assigned != UNMATCHED)
    return np.stack([rows, assigned[rows]], axis=1)

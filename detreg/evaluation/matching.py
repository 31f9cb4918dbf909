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


def match(
    a: Detections, b: Detections, iou: float = 0.99, score_tolerance: float | None = None, corner_tolerance: float | None = None
) -> Ints:
    """Pair the detections of one model with those of another, one to one and within the same class.

    Returns (k, 2) indices into a and b, in falling order of a's score. With score_tolerance a pair's scores differ by at most that
    much. With corner_tolerance, in pixels, boxes whose corners are that close pair whatever their overlap: a box of a few pixels
    loses it to rounding. Labels are compared as numbers: both sides must count the same classes.
    """
    overlap = overlaps(a.boxes, b.boxes)
    if corner_tolerance is not None:
        apart = np.abs(a.boxes[:, None].astype(np.float64) - b.boxes[None]).max(axis=-1)
        overlap = np.where(apart <= corner_tolerance, np.maximum(overlap, 1.0 - apart / 1000), overlap)
    allowed = a.labels[:, None] == b.labels[None]
    if score_tolerance is not None:
        allowed &= np.abs(a.scores[:, None].astype(np.float64) - b.scores[None]) <= score_tolerance
    assigned = assign(np.where(allowed, overlap, -1.0), iou)
    rows = np.flatnonzero(assigned != UNMATCHED)
    return np.stack([rows, assigned[rows]], axis=1)

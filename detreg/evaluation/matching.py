"""Which box of one set is which box of another one: overlaps, and assignments over them."""

from collections import deque

import numpy as np
import numpy.typing as npt

from detreg.inference.detections import Detections

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNMATCHED = -1


def compute_iou(boxes: Floats, others: Floats, crowd: Bools | None = None) -> Floats:
    """Compute the intersection over union of every box with every other one.

    boxes (n, 4) and others (m, 4) are xyxy; the result is float64 (n, m), 0 where both boxes are
    empty. Where crowd (m,) is true, the intersection is divided by the first box's area alone, as
    COCO does it, because a crowd's box may hold many objects.
    """
    a = boxes.astype(np.float64)[:, None]
    b = others.astype(np.float64)[None]

    # Where two boxes do not overlap, a side of their intersection is negative, and counts as 0.
    upper_left = np.maximum(a[..., :2], b[..., :2])
    lower_right = np.minimum(a[..., 2:], b[..., 2:])
    sides = (lower_right - upper_left).clip(min=0)
    intersection = sides.prod(axis=-1)

    area_a = _compute_area(a)
    area_b = _compute_area(b)
    union = area_a + area_b - intersection
    if crowd is not None:
        union = np.where(crowd[None], area_a, union)

    zeros = np.zeros_like(intersection)
    return np.asarray(np.divide(intersection, union, out=zeros, where=union > 0))


def _compute_area(boxes: Floats) -> Floats:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return np.asarray(sizes.prod(axis=-1))


def measure_fit(boxes: Floats, others: Floats, corner_tolerance: float | None = None) -> Floats:
    """Measure how well every box (n, 4) fits every other one (m, 4): their IoU (n, m).

    With corner_tolerance, in pixels, boxes whose corners are that close fit nearly perfectly,
    whatever their overlap: a box of a few pixels loses it to rounding.
    """
    iou = compute_iou(boxes, others)
    if corner_tolerance is None:
        return iou

    distances = np.abs(boxes[:, None].astype(np.float64) - others[None])
    distance = distances.max(axis=-1)
    # Of several close boxes the closest fits best: a pixel costs a thousandth.
    fit = np.maximum(iou, 1.0 - distance / 1000)
    return np.where(distance <= corner_tolerance, fit, iou)


def assign_greedily(overlap: Floats, iou: float, crowd: Bools | None = None) -> Ints:
    """Give each row the column it overlaps most among those that no earlier row has taken.

    overlap is (n, m) with its rows in descending order of score; the result (n,) holds columns, or
    UNMATCHED where nothing reaches iou. A crowd column can be taken by many rows, but only by those
    that no other column satisfies. This is the rule of pycocotools' evaluateImg; as there, the last
    of several equal overlaps wins.
    """
    columns = overlap.shape[1]
    if crowd is None:
        crowd = np.zeros(columns, dtype=bool)

    assigned = np.full(len(overlap), UNMATCHED, dtype=np.int64)
    is_free = np.ones(columns, dtype=bool)
    for row in np.flatnonzero((overlap >= iou).any(axis=1)):
        best = _find_best_column(overlap[row], is_free & ~crowd, iou)
        if best != UNMATCHED:
            assigned[row] = best
            is_free[best] = False
        else:
            assigned[row] = _find_best_column(overlap[row], crowd, iou)
    return assigned


def _find_best_column(overlap: Floats, is_candidate: Bools, iou: float) -> int:
    """Return the last of the candidates with the largest overlap of at least iou, or UNMATCHED."""
    is_allowed = is_candidate & (overlap >= iou)
    if not is_allowed.any():
        return UNMATCHED
    values = np.where(is_allowed, overlap, -1.0)

    # argmax returns the first maximum, so the values are read from the end.
    from_end = int(values[::-1].argmax())
    return len(values) - 1 - from_end


def assign_maximum(overlap: Floats, iou: float) -> Ints:
    """Give as many rows as possible a column of their own that they overlap by at least iou.

    overlap is (n, m); the result (n,) holds columns, or UNMATCHED. The greedy assignment comes
    first. Then each row without a column takes one if other rows can move to other columns, so that
    the order of rows with equal scores does not decide how many are matched. This is the
    augmenting-path algorithm for maximum bipartite matching (Kuhn's).
    """
    assigned = assign_greedily(overlap, iou)
    is_allowed = overlap >= iou
    for row in np.flatnonzero((assigned == UNMATCHED) & is_allowed.any(axis=1)).tolist():
        _augment(row, is_allowed, assigned)
    return assigned


def _augment(row: int, is_allowed: Bools, assigned: Ints) -> None:
    """Give a row a column by moving other rows to other columns, where that is possible.

    is_allowed (n, m) is true where a row may have a column; assigned (n,) is changed in place.
    """
    columns = is_allowed.shape[1]
    holder_of = np.full(columns, UNMATCHED, dtype=np.int64)
    matched = np.flatnonzero(assigned != UNMATCHED)
    holder_of[assigned[matched]] = matched

    # A search in breadth for the shortest augmenting path, so that the fewest rows move.
    # reached_from holds, for each column that was reached, the row that would take it.
    reached_from = np.full(columns, UNMATCHED, dtype=np.int64)
    queue = deque([row])
    while queue:
        seeker = queue.popleft()
        is_new = is_allowed[seeker] & (reached_from == UNMATCHED)
        for column in np.flatnonzero(is_new).tolist():
            reached_from[column] = seeker
            holder = int(holder_of[column])
            if holder == UNMATCHED:
                _shift_along_path(column, row, reached_from, assigned)
                return
            queue.append(holder)


def _shift_along_path(free: int, row: int, reached_from: Ints, assigned: Ints) -> None:
    """Give a free column to the row that reached it, that row's former column to the next row ...

    The path ends with `row`, which had no column. assigned (n,) is changed in place.
    """
    while True:
        taker = int(reached_from[free])
        former = int(assigned[taker])
        assigned[taker] = free
        if taker == row:
            return
        free = former


def match_detections(
    a: Detections,
    b: Detections,
    iou: float = 0.99,
    score_tolerance: float | None = None,
    corner_tolerance: float | None = None,
) -> Ints:
    """Pair the detections of one model with those of another, one to one and within a class.

    Returns (k, 2) indices into a and b, in descending order of a's score; there are as many pairs
    as there can be. With score_tolerance a pair's scores differ by at most that much;
    corner_tolerance is that of measure_fit. Labels are compared as numbers, so both sides must have
    the same classes in the same order.
    """
    is_allowed = a.labels[:, None] == b.labels[None]
    if score_tolerance is not None:
        differences = np.abs(a.scores[:, None].astype(np.float64) - b.scores[None])
        is_allowed &= differences <= score_tolerance

    fit = measure_fit(a.boxes, b.boxes, corner_tolerance)
    assigned = assign_maximum(np.where(is_allowed, fit, -1.0), iou)

    rows = np.flatnonzero(assigned != UNMATCHED)
    return np.stack([rows, assigned[rows]], axis=1)

"""Which differences between two models' detections are nothing but ties.

Boxes with the same score may come out in another order: rounding decides which of two overlapping
ones NMS keeps, which boxes that one drops in turn, and which box is the last of a full list.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detreg.evaluation.matching import compute_iou, measure_fit
from detreg.inference.detections import Detections

IOU = 0.99
SCORE_TOLERANCE = 0.001
CORNER_TOLERANCE = 0.1
"""Pixels. A box of less than ten pixels can have less than IOU for this rounding alone."""
TIE = 1e-5
"""Scores this close are equal: rounding moves a score by less, and decides which is the higher."""
OVERLAP_ROUNDING = 1e-3
"""How far rounding of boxes may move an overlap across the threshold of the NMS."""

Positions = NDArray[np.int64]
"""Rows of one image's Detections."""


@dataclass(frozen=True)
class Selection:
    """The last step of a detector: which of its candidates become detections.

    Candidates over `score_threshold` enter NMS, which drops what overlaps a better box of its class by
    more than `iou_threshold`; at most `max_detections` of an image are left. The exported model gives only
    the best `max_nms_candidates` to NMS, MMDetection gives all; None where both do the same.
    """

    iou_threshold: float
    max_detections: int
    score_threshold: float = 0.0
    max_nms_candidates: int | None = None


def count_ties(
    a: Detections,
    b: Detections,
    without: tuple[Positions, Positions],
    everything: Detections,
    selection: Selection,
) -> int:
    """Count the unmatched detections that only ties keep out of the other list.

    `a` is the exported model's for one image, `b` the trained network's, `without` the unmatched
    positions in both, `everything` the network's candidates before NMS. Whatever the exported model
    alone has must be one of those candidates. It is missing in the other list where its score is at
    the threshold, where that list was full before it, or where NMS dropped it for a box of the same
    class that is itself such a difference, scores no less, and overlaps it. The best of a chain of
    differences therefore always has an equal.
    """
    only_a = [i for i in without[0].tolist() if _is_among(everything, a, i)]
    only_b = without[1].tolist()
    overlap = compute_iou(a.boxes[only_a], b.boxes[only_b])
    is_close = overlap >= selection.iou_threshold - OVERLAP_ROUNDING
    is_close &= a.labels[only_a][:, None] == b.labels[only_b][None]
    scores_a, scores_b = a.scores[only_a], b.scores[only_b]
    may_drop_a = is_close & (scores_b[None] >= scores_a[:, None] - TIE)
    may_drop_b = is_close & (scores_a[:, None] >= scores_b[None] - TIE)

    least_in_a = max(_last_entrant(everything, selection), selection.score_threshold)
    too_low_for_a = scores_b <= least_in_a + TIE
    too_low_for_b = scores_a <= selection.score_threshold + TIE
    no_room_in_a = _has_no_room(a, scores_b, selection)
    no_room_in_b = _has_no_room(b, scores_a, selection)

    # A difference stands only as long as another one that stands explains it.
    stands_a, stands_b = np.ones(len(only_a), dtype=bool), np.ones(len(only_b), dtype=bool)
    while True:
        dropped_a = (may_drop_a & stands_b[None]).any(axis=1)
        next_a = stands_a & (too_low_for_b | no_room_in_b | dropped_a)
        dropped_b = (may_drop_b & next_a[:, None]).any(axis=0)
        next_b = stands_b & (too_low_for_a | no_room_in_a | dropped_b)
        if (next_a == stands_a).all() and (next_b == stands_b).all():
            break
        stands_a, stands_b = next_a, next_b

    # What the exported model alone has, and wrongly, fills its list in place of what is right.
    wrong = len(without[0]) - len(only_a)
    only_no_room = int((stands_b & ~too_low_for_a & ~dropped_b).sum())
    return int(stands_a.sum() + stands_b.sum()) - min(wrong, only_no_room)


def _has_no_room(
    full: Detections,
    scores: NDArray[np.float32],
    selection: Selection,
) -> NDArray[np.bool_]:
    """Tell which scores come after the last of a full list, or tie with it."""
    if len(full) < selection.max_detections:
        return np.zeros(len(scores), dtype=bool)
    return scores <= full.scores[-1] + TIE


def _last_entrant(everything: Detections, selection: Selection) -> float:
    """The lowest score that the exported NMS knows; below every score where it knows all."""
    if selection.max_nms_candidates is None or len(everything) <= selection.max_nms_candidates:
        return -1.0
    return float(everything.scores[selection.max_nms_candidates - 1])


def _is_among(everything: Detections, found: Detections, position: int) -> bool:
    """Whether candidates hold one with the box, the class and the score of a detection."""
    alike = everything.labels == found.labels[position]
    alike &= np.abs(everything.scores - found.scores[position]) <= SCORE_TOLERANCE
    box = found.boxes[position : position + 1]
    return bool((measure_fit(box, everything.boxes[alike], CORNER_TOLERANCE) >= IOU).any())

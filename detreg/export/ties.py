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


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The last step of a detector: which of its candidates become detections.

    Candidates over `score_threshold` enter NMS, which drops what overlaps a better box of its class
    by more than `iou_threshold`; at most `max_detections` of an image are left. The exported model
    gives only the best `max_nms_candidates` to NMS, MMDetection gives all; None where both do the
    same.
    """

    iou_threshold: float
    max_detections: int
    score_threshold: float = 0.0
    max_nms_candidates: int | None = None


def count_ties(
    exported: Detections,
    trained: Detections,
    unmatched: tuple[Positions, Positions],
    candidates: Detections,
    selection: Selection,
) -> int:
    """Count the unmatched detections of an image that only ties keep out of the other list.

    `unmatched` holds the positions in `exported` and in `trained`, `candidates` what the trained
    network has before NMS. Whatever the exported model alone has must be one of those candidates.
    It is missing in the other list where its score is at the threshold, where that list was full
    before it, or where NMS dropped it for a box of the same class that is itself such a difference,
    scores no less, and overlaps it. The best of a chain of differences therefore always has an
    equal.
    """
    only_exported = []
    for position in unmatched[0].tolist():
        if _is_among(candidates, exported, position):
            only_exported.append(position)
    only_trained = unmatched[1].tolist()
    exported_scores, trained_scores = exported.scores[only_exported], trained.scores[only_trained]

    # Rows are detections that only the exported model has, columns those of the trained network.
    overlap = compute_iou(exported.boxes[only_exported], trained.boxes[only_trained])
    has_same_class = exported.labels[only_exported][:, None] == trained.labels[only_trained]
    is_close = has_same_class & (overlap >= selection.iou_threshold - OVERLAP_ROUNDING)
    can_drop_exported = is_close & (trained_scores >= exported_scores[:, None] - TIE)
    can_drop_trained = is_close & (exported_scores[:, None] >= trained_scores - TIE)

    # What is missing in the other list without any NMS: it scores too low, or finds no room.
    min_exported_score = max(_find_last_nms_score(candidates, selection), selection.score_threshold)
    is_too_low_for_exported = trained_scores <= min_exported_score + TIE
    is_too_low_for_trained = exported_scores <= selection.score_threshold + TIE
    is_exported_missing = is_too_low_for_trained | _has_no_room(trained, exported_scores, selection)
    is_trained_missing = is_too_low_for_exported | _has_no_room(exported, trained_scores, selection)

    explained_exported, explained_trained = _find_explained(
        is_exported_missing, is_trained_missing, can_drop_exported, can_drop_trained
    )

    # A wrong box of the exported model fills its list in place of a right one, which then is
    # missing for lack of room only: that is no tie.
    num_wrong = len(unmatched[0]) - len(only_exported)
    is_dropped = (can_drop_trained & explained_exported[:, None]).any(axis=0)
    lacks_only_room = explained_trained & ~is_too_low_for_exported & ~is_dropped
    num_explained = int(explained_exported.sum() + explained_trained.sum())
    return num_explained - min(num_wrong, int(lacks_only_room.sum()))


def _find_explained(
    is_exported_missing: Flags,
    is_trained_missing: Flags,
    can_drop_exported: Flags,
    can_drop_trained: Flags,
) -> tuple[Flags, Flags]:
    """Return which of the (n,) exported and (m,) trained differences are explained.

    `is_..._missing` says which are missing in the other list without any NMS; `can_drop_...` (n, m)
    which of them a difference of the other side may have dropped in NMS. That explains it only if
    the other one is explained too: start with all, and take away until nothing changes.
    """
    exported = np.ones(len(is_exported_missing), dtype=bool)
    trained = np.ones(len(is_trained_missing), dtype=bool)
    while True:
        is_dropped = (can_drop_exported & trained).any(axis=1)
        next_exported = exported & (is_exported_missing | is_dropped)
        is_dropped = (can_drop_trained & next_exported[:, None]).any(axis=0)
        next_trained = trained & (is_trained_missing | is_dropped)
        if _are_equal(next_exported, exported) and _are_equal(next_trained, trained):
            return exported, trained
        exported, trained = next_exported, next_trained


def _are_equal(a: Flags, b: Flags) -> bool:
    return bool((a == b).all())


def _has_no_room(full: Detections, scores: NDArray[np.float32], selection: Selection) -> Flags:
    """Return which scores come after the last of a full list, or tie with it."""
    if len(full) < selection.max_detections:
        return np.zeros(len(scores), dtype=bool)
    return scores <= full.scores[-1] + TIE


def _find_last_nms_score(candidates: Detections, selection: Selection) -> float:
    """Return the lowest score that enters the exported NMS; -1 where all candidates enter."""
    limit = selection.max_nms_candidates
    if limit is None or len(candidates) <= limit:
        return -1.0
    return float(candidates.scores[limit - 1])


def _is_among(candidates: Detections, detections: Detections, position: int) -> bool:
    """Whether a candidate has the box, the class and the score of a detection."""
    is_alike = candidates.labels == detections.labels[position]
    score_differences = np.abs(candidates.scores - detections.scores[position])
    is_alike &= score_differences <= SCORE_TOLERANCE
    box = detections.boxes[position : position + 1]
    fit = measure_fit(box, candidates.boxes[is_alike], CORNER_TOLERANCE)
    return bool((fit >= IOU).any())

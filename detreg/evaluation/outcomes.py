"""What became of each object and detection of an image: found, confused, missed or false."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.matching import UNMATCHED, assign_greedily, compute_iou
from detreg.inference.detections import Detections

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """An image's detections above a score threshold, compared with its objects.

    found and confused are (k, 2) indices of a detection and of its object, of the same class and of
    another one; false (k,) indexes the detections on no object, missed (k,) the objects under no
    detection. Detections on a crowd are in none of them.
    """

    detections: Detections
    found: Ints
    confused: Ints
    false: Ints
    missed: Ints

    @property
    def errors(self) -> int:
        """Number of errors on the image."""
        return len(self.confused) + len(self.false) + len(self.missed)


def match_split(
    truth: GroundTruth, predictions: Mapping[int, Detections], iou: float, min_score: float
) -> dict[int, Outcome]:
    """Match every image of a split, by image id; without an entry nothing was found on it."""
    aligned = truth.align(predictions)
    nothing = Detections.make_empty(truth.classes)

    outcomes = {}
    for image_id, image in truth.images.items():
        detections = aligned.get(image_id, nothing)
        outcomes[image_id] = match_image(image, detections, iou, min_score)
    return outcomes


def match_image(image: TruthImage, detections: Detections, iou: float, min_score: float) -> Outcome:
    """Match detections with a score of at least min_score with an image's objects.

    First COCO's greedy assignment within each class; then the same over what is left on both sides,
    whatever the class. So an object is confused only if its own class did not find it.
    """
    detections = detections.filter(min_score)
    overlap = compute_iou(detections.boxes, image.boxes, image.crowd)
    objects = np.arange(len(image.boxes))

    # An overlap of -1 rules a pair out.
    is_same_class = detections.labels[:, None] == image.labels[None]
    own_overlap = np.where(is_same_class, overlap, -1.0)
    own = assign_greedily(own_overlap, iou, image.crowd)
    is_unassigned = own == UNMATCHED

    # A crowd is never missed and never confused, so it is not free for the second assignment.
    is_taken = np.isin(objects, own) | image.crowd
    is_free_pair = is_unassigned[:, None] & ~is_taken[None]
    other_overlap = np.where(is_free_pair, overlap, -1.0)
    other = assign_greedily(other_overlap, iou)

    # A detection on a crowd has an object, but is not counted as found.
    is_found = ~is_unassigned
    is_found[is_found] = ~image.crowd[own[is_found]]

    is_confused = other != UNMATCHED
    is_false = is_unassigned & ~is_confused
    is_missed = ~is_taken & ~np.isin(objects, other)
    return Outcome(
        detections=detections,
        found=_make_pairs(is_found, own),
        confused=_make_pairs(is_confused, other),
        false=np.flatnonzero(is_false),
        missed=np.flatnonzero(is_missed),
    )


def count_confusion(truth: GroundTruth, outcomes: Mapping[int, Outcome]) -> Ints:
    """Count objects by their class (rows) and the class that they were taken for (columns).

    The result is (classes + 1, classes + 1). The last row counts false detections, the last column
    missed objects; both stand for the background.
    """
    background = len(truth.classes)
    side = background + 1
    counts = np.zeros((side, side), dtype=np.int64)

    for image_id, outcome in outcomes.items():
        actual = truth.images[image_id].labels
        predicted = outcome.detections.labels

        pairs = np.concatenate([outcome.found, outcome.confused])
        detections, objects = pairs[:, 0], pairs[:, 1]
        # Not `counts[rows, columns] += 1`, which counts a cell once that occurs several times.
        np.add.at(counts, (actual[objects], predicted[detections]), 1)

        missed = actual[outcome.missed]
        counts[:, background] += np.bincount(missed, minlength=side)
        false = predicted[outcome.false]
        counts[background] += np.bincount(false, minlength=side)
    return counts


def _make_pairs(is_row: npt.NDArray[np.bool_], columns: Ints) -> Ints:
    """Return (k, 2) indices of the rows for which is_row (n,) is true, and their columns."""
    rows = np.flatnonzero(is_row)
    return np.stack([rows, columns[rows]], axis=1)

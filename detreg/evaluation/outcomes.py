"""What became of every object and every detection of a picture at one score threshold: found, confused, missed or false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.matching import UNMATCHED, assign, overlaps
from detreg.inference.detections import Detections

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """A picture's detections above the threshold against its objects.

    found and confused are (k, 2) indices of a detection and of its object, of the same class and of another; false indexes the
    detections on no object, missed the objects under no detection. Detections on a crowd are in none of them.
    """

    detections: Detections
    found: Ints
    confused: Ints
    false: Ints
    missed: Ints

    @property
    def errors(self) -> int:
        """How much is wrong with the picture."""
        return len(self.confused) + len(self.false) + len(self.missed)


def outcomes(
    truth: GroundTruth, predictions: Mapping[int, Detections], iou: float, min_score: float
) -> dict[int, Outcome]:
    """Judge every picture of the split, by image id; on one without an entry in predictions nothing was found."""
    aligned = truth.align(predictions)
    nothing = Detections(
        boxes=np.zeros((0, 4), dtype=np.float32),
        scores=np.zeros(0, dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        class_names=truth.classes,
    )
    return {
        image: judge(picture, aligned.get(image, nothing), iou, min_score)
        for image, picture in truth.pictures.items()
    }


def judge(picture: TruthImage, detections: Detections, iou: float, min_score: float) -> Outcome:
    """Match detections with a score of at least min_score to the picture's objects, by COCO's rule within each class first.

    What is left on both sides is then matched whatever the class: an object is confused only if its own class did not find it.
    """
    detections = detections.filter(min_score)
    overlap = overlaps(detections.boxes, picture.boxes, picture.crowd)
    same = detections.labels[:, None] == picture.labels[None]
    own = assign(np.where(same, overlap, -1.0), iou, picture.crowd)
    taken = np.isin(np.arange(len(picture.boxes)), own) | picture.crowd
    open_pairs = (own == UNMATCHED)[:, None] & ~taken[None]
    other = assign(np.where(open_pairs, overlap, -1.0), iou)
    on_object = own != UNMATCHED
    on_object[on_object] = ~picture.crowd[own[on_object]]
    return Outcome(
        detections=detections,
        found=_pairs(on_object, own),
        confused=_pairs(other != UNMATCHED, other),
        false=np.flatnonzero((own == UNMATCHED) & (other == UNMATCHED)),
        missed=np.flatnonzero(~taken & ~np.isin(np.arange(len(picture.boxes)), other)),
    )


def confusion(truth: GroundTruth, judged: Mapping[int, Outcome]) -> Ints:
    """Count objects by their class (rows) and the class they were taken for (columns), (classes + 1, classes + 1).

    The last row counts false detections, the last column missed objects; both stand for the background.
    """
    background = len(truth.classes)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image, outcome in judged.items():
        labels, predicted = truth.pictures[image].labels, outcome.detections.labels
        pairs = np.concatenate([outcome.found, outcome.confused])
        np.add.at(counts, (labels[pairs[:, 1]], predicted[pairs[:, 0]]), 1)
        counts[:, background] += np.bincount(labels[outcome.missed], minlength=background + 1)
        counts[background] += np.bincount(predicted[outcome.false], minlength=background + 1)
    return counts


def _pairs(rows: npt.NDArray[np.bool_], columns: Ints) -> Ints:
    indices = np.flatnonzero(rows)
    return np.stack([indices, columns[indices]], axis=1)

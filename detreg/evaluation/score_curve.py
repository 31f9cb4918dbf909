"""Precision, recall and F1 against the score, of all classes together and of each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detreg.defaults import MAX_DETECTIONS
from detreg.evaluation.coco_matches import match_split
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import ALL, IOU_50
from detreg.inference.detections import Detections

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class JudgedDetections:
    """All detections of a split, best first, each of them right or wrong.

    `scores` is float64 (n,), descending; `labels` int64 (n,) are positions in the split's classes;
    `images` int64 (n,) are positions among its image ids, sorted; `is_right` is bool (n,).
    `num_objects` is int64 (images, classes), without crowds. Detections on a crowd are neither
    right nor wrong, and not among them.
    """

    scores: Floats
    labels: Ints
    images: Ints
    is_right: Bools
    num_objects: Ints

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def objects_per_image(self) -> Ints:
        """The number of objects of each image."""
        return self.num_objects.sum(axis=1)

    def select_class(self, label: int) -> "JudgedDetections":
        """Return the detections of one class, and its objects alone."""
        is_chosen = self.labels == label
        num_objects = np.zeros_like(self.num_objects)
        num_objects[:, label] = self.num_objects[:, label]
        return JudgedDetections(
            scores=self.scores[is_chosen],
            labels=self.labels[is_chosen],
            images=self.images[is_chosen],
            is_right=self.is_right[is_chosen],
            num_objects=num_objects,
        )

    def select_images(self, chosen: Ints) -> "JudgedDetections":
        """Return the detections and objects of some images, which get positions in this order."""
        position_of = np.full(len(self.num_objects), -1)
        position_of[chosen] = np.arange(len(chosen))
        positions = position_of[self.images]
        is_chosen = positions >= 0
        return JudgedDetections(
            scores=self.scores[is_chosen],
            labels=self.labels[is_chosen],
            images=positions[is_chosen],
            is_right=self.is_right[is_chosen],
            num_objects=self.num_objects[chosen],
        )

    def keep_first(self, count: int) -> "JudgedDetections":
        """Return the best `count` detections, with the same objects."""
        return replace(
            self,
            scores=self.scores[:count],
            labels=self.labels[:count],
            images=self.images[:count],
            is_right=self.is_right[:count],
        )


@dataclass(frozen=True)
class ScoreCurve:
    """Precision, recall and F1 where the detections with at least a score are kept.

    All are float64 (k,), for the k different scores in descending order. Recall and F1 are 0 where
    there is no object.
    """

    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    def find_gains(self) -> Ints:
        """Return the positions of the scores that find an object more than the scores above."""
        return np.flatnonzero(np.diff(self.recall, prepend=0.0) > 0)


def judge_detections(truth: GroundTruth, predictions: Mapping[int, Detections]) -> JudgedDetections:
    """Match the detections of each image and class with its objects at IoU 0.5, as COCO does.

    The best detection chooses first, so what a detection finds does not depend on those below it:
    with a lower threshold, no object is lost. As in serving, the best 100 detections of an image
    count. On an image without an entry nothing was found. Raises DataError where predictions and
    split have no class in common.
    """
    served = {}
    for image_id, detections in predictions.items():
        served[image_id] = detections.filter(0.0, MAX_DETECTIONS)

    scores, labels, images, is_right, num_objects = [], [], [], [], []
    for label, matches in enumerate(match_split(truth, served)):
        is_judged = ~matches.is_ignored[ALL, IOU_50]
        scores.append(matches.scores[is_judged])
        labels.append(np.full(int(is_judged.sum()), label, dtype=np.int64))
        images.append(matches.image_positions[is_judged])
        is_right.append(matches.is_true_positive[ALL, IOU_50, is_judged])
        num_objects.append(matches.num_objects[ALL])

    order = np.argsort(-np.concatenate(scores), kind="stable")
    return JudgedDetections(
        scores=np.concatenate(scores)[order],
        labels=np.concatenate(labels)[order],
        images=np.concatenate(images)[order],
        is_right=np.concatenate(is_right)[order],
        num_objects=np.stack(num_objects, axis=1),
    )


def compute_score_curve(judged: JudgedDetections) -> ScoreCurve:
    """Compute precision, recall and F1 at each score of a detection."""
    ends = find_score_ends(judged.scores)
    num_right = np.cumsum(judged.is_right)[ends].astype(np.float64)
    num_kept = ends + 1.0
    num_objects = float(judged.num_objects.sum())

    recall = num_right / num_objects if num_objects else np.zeros_like(num_right)
    return ScoreCurve(
        scores=judged.scores[ends],
        precision=num_right / num_kept,
        recall=recall,
        # The harmonic mean of both, which this form gives without dividing by 0.
        f1=2 * num_right / (num_kept + num_objects),
    )


def find_score_ends(scores: Floats) -> Ints:
    """Return the last position of each different score; scores (n,) descend.

    A threshold keeps all detections of one score or none of them.
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    is_last = np.append(np.diff(scores) < 0, True)
    return np.flatnonzero(is_last)

"""Probable label errors: where a detector that is sure of itself contradicts the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from detreg.evaluation.error_kinds import FOUND, IGNORED, ImageErrors, find_errors
from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.matching import UNMATCHED, compute_iou
from detreg.inference.detections import Detections

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SAME_IOU = 0.5
"""Of two boxes that are about the same object."""
TOUCHING_IOU = 0.05
"""Of a badly placed box with where its object is."""
BESIDE_IOU = 0.3
"""Up to which a box may be another object beside one that is labeled."""
DOUBTED_POWER = 1 / 3
"""Of a detection's sureness, against a label that no detection confirms: there even a detection
with a low score is mostly right."""
MIN_SUSPICION = 0.5
"""Of an entry of the list: below it labels are mostly right, and the detector wrong."""
UNCONFIRMED_WEIGHT = 0.7
"""A box that no detection confirms says less than a detection: there are hard objects. So it is
listed only where at least seven of ten objects of its class are found."""


class LabelErrorKind(StrEnum):
    """What may be wrong with a label."""

    MISSING = "missing box"
    WRONG_CLASS = "wrong class"
    BADLY_PLACED = "badly placed box"
    UNCONFIRMED = "box that is not found"


@dataclass(frozen=True)
class LabelError:
    """A probable label error; `suspicion` is from 0 to 1.

    `target` is the object that is in doubt and `detection` the one that contradicts it, both by
    position on their image; UNMATCHED where there is none.
    """

    kind: LabelErrorKind
    image_id: int
    suspicion: float
    target: int
    detection: int


def find_label_errors(
    truth: GroundTruth, predictions: Mapping[int, Detections]
) -> list[LabelError]:
    """Return the probable label errors of a split, the most suspicious first.

    A score counts as far as it stands out among those of right detections of its class, because
    scores of classes differ. Each object and each detection is in one entry at most. Raises
    DataError where predictions and split have no class in common.
    """
    errors = find_errors(truth, predictions)
    scale = ConfidenceScale.measure(truth, errors)
    found: list[LabelError] = []
    for image_id, of_image in errors.items():
        confidence = scale.rate(of_image.detections)
        candidates = _list_candidates(image_id, truth.images[image_id], of_image, confidence, scale)
        found += _keep_first_of_each(candidates)
    found = [error for error in found if error.suspicion >= MIN_SUSPICION]
    return sorted(found, key=lambda error: (-error.suspicion, error.image_id, error.target))


@dataclass(frozen=True)
class ConfidenceScale:
    """The scores of right detections of each class, ascending, and each class's recall."""

    right_scores: Sequence[Floats]
    recalls: Sequence[float]

    @classmethod
    def measure(cls, truth: GroundTruth, errors: Mapping[int, ImageErrors]) -> "ConfidenceScale":
        """Collect the scores of what is right on a split."""
        scores: list[list[float]] = [[] for _ in truth.classes]
        for of_image in errors.values():
            for place in np.flatnonzero(of_image.kinds == FOUND).tolist():
                label = int(of_image.detections.labels[place])
                scores[label].append(float(of_image.detections.scores[place]))
        counts = truth.count_boxes_per_class().values()
        recalls = [len(found) / max(count, 1) for found, count in zip(scores, counts, strict=True)]
        return cls([np.sort(np.array(found)) for found in scores], recalls)

    def rate(self, detections: Detections) -> Floats:
        """Return for each detection the share of right ones of its class with a lower score.

        A class of which nothing is right has only the scores themselves.
        """
        confidence = detections.scores.astype(np.float64)
        for label, right in enumerate(self.right_scores):
            is_of_class = detections.labels == label
            if len(right) and is_of_class.any():
                ranks = np.searchsorted(right, confidence[is_of_class], side="right")
                confidence[is_of_class] = ranks / len(right)
        return confidence


def _list_candidates(
    image_id: int,
    image: TruthImage,
    errors: ImageErrors,
    confidence: Floats,
    scale: ConfidenceScale,
) -> list[LabelError]:
    """Return all that may be wrong on one image, the most suspicious first."""
    detections = errors.detections
    overlap = compute_iou(detections.boxes, image.boxes)
    overlap[:, image.crowd] = 0.0
    is_same_class = detections.labels[:, None] == image.labels[None]

    # How sure a detection is that confirms an object, 0 without one.
    confirms = (overlap >= SAME_IOU) & is_same_class
    support = np.where(confirms, confidence[:, None], 0.0).max(axis=0, initial=0.0)
    doubt = 1.0 - support

    candidates = []
    for place in np.flatnonzero(~np.isin(errors.kinds, (FOUND, IGNORED))).tolist():
        sure = float(confidence[place])
        for target in np.flatnonzero(overlap[place] >= TOUCHING_IOU).tolist():
            kind = _name_contradiction(bool(is_same_class[place, target]), overlap[place, target])
            if kind is not None:
                # Two things speak against such a label: this detection, and that none confirms it.
                suspicion = sure**DOUBTED_POWER * float(doubt[target])
                candidates.append(LabelError(kind, image_id, suspicion, target, place))
        # A box beside an object that is found is often only a worse box of the same object.
        largest = float(overlap[place].max(initial=0.0))
        is_free = min(max((SAME_IOU - largest) / (SAME_IOU - BESIDE_IOU), 0.0), 1.0)
        missing = LabelError(LabelErrorKind.MISSING, image_id, sure * is_free, UNMATCHED, place)
        candidates.append(missing)

    for target in np.flatnonzero((support == 0) & ~image.crowd).tolist():
        recall = scale.recalls[image.labels[target]]
        suspicion = recall * UNCONFIRMED_WEIGHT
        kind = LabelErrorKind.UNCONFIRMED
        candidates.append(LabelError(kind, image_id, suspicion, target, UNMATCHED))
    return sorted(candidates, key=lambda error: -error.suspicion)


def _name_contradiction(is_same_class: bool, overlap: float) -> LabelErrorKind | None:
    """Return what a detection says against an object that it touches, None for nothing."""
    if overlap >= SAME_IOU:
        return None if is_same_class else LabelErrorKind.WRONG_CLASS
    return LabelErrorKind.BADLY_PLACED if is_same_class else None


def _keep_first_of_each(candidates: Sequence[LabelError]) -> list[LabelError]:
    """Return the candidates whose object and detection are in no earlier one."""
    taken_targets: set[int] = set()
    taken_detections: set[int] = set()
    kept = []
    for error in candidates:
        if error.target in taken_targets or error.detection in taken_detections:
            continue
        kept.append(error)
        if error.target != UNMATCHED:
            taken_targets.add(error.target)
        if error.detection != UNMATCHED:
            taken_detections.add(error.detection)
    return kept

"""Where the mAP is lost: what mending all errors of one kind would bring.

Each kind is mended alone, at IoU 0.5, as in TIDE (https://arxiv.org/abs/2008.08115). The gains do
not add up to what is missing: a detection that is wrong twice counts once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.bootstrap import RECALLS
from detreg.evaluation.error_kinds import FOUND, IGNORED, ErrorKind, ImageErrors
from detreg.evaluation.ground_truth import GroundTruth

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CORRECTED = (ErrorKind.CLASSIFICATION, ErrorKind.LOCALIZATION)
"""Kinds that are mended by a correction; detections of the other kinds are removed."""


@dataclass(frozen=True)
class ErrorCost:
    """How many errors of a kind there are, and the mAP at IoU 0.5 that mending them would bring."""

    kind: ErrorKind
    count: int
    gain: float


@dataclass(frozen=True)
class _Split:
    """All detections of a split in arrays (n,), in the order of images, and the objects (m,).

    `object_labels` is the class that a detection that can be corrected would find.
    """

    scores: Floats
    labels: Ints
    kinds: npt.NDArray[np.str_]
    can_correct: Bools
    object_labels: Ints
    objects_per_class: Ints
    missed_per_class: Ints


def compute_error_costs(
    truth: GroundTruth, errors: Mapping[int, ImageErrors]
) -> tuple[ErrorCost, ...]:
    """Return the count and the gain of each kind, the largest gain first.

    errors are those of all detections, as found by find_errors without a score threshold. Empty
    where the split has no objects.
    """
    split = _join_images(truth, errors)
    if not split.objects_per_class.any():
        return ()

    present = _compute_mean_ap(split, None)
    costs = []
    for kind in ErrorKind:
        count = int((split.kinds == kind).sum())
        if kind is ErrorKind.MISSED:
            count = int(split.missed_per_class.sum())
        # Mending cannot harm; the 101 recalls may say so by a rounding.
        gain = max(_compute_mean_ap(split, kind) - present, 0.0)
        costs.append(ErrorCost(kind, count, gain))
    return tuple(sorted(costs, key=lambda cost: -cost.gain))


def compute_map_50(truth: GroundTruth, errors: Mapping[int, ImageErrors]) -> float | None:
    """Return the mAP at IoU 0.5 that the gains are added to: it is that of scores.score."""
    split = _join_images(truth, errors)
    return _compute_mean_ap(split, None) if split.objects_per_class.any() else None


def _join_images(truth: GroundTruth, errors: Mapping[int, ImageErrors]) -> _Split:
    sides = len(truth.classes)
    objects_per_class = np.zeros(sides, dtype=np.int64)
    missed_per_class = np.zeros(sides, dtype=np.int64)
    columns: list[list[npt.NDArray[np.generic]]] = [[], [], [], [], []]
    for image_id, found in sorted(errors.items()):
        image = truth.images[image_id]
        objects_per_class += np.bincount(image.labels[~image.crowd], minlength=sides)
        missed_per_class += np.bincount(image.labels[found.is_missed], minlength=sides)

        # Where nothing can be corrected the label is never read, so any object's serves.
        padded = np.append(image.labels, 0)
        parts = (
            found.detections.scores.astype(np.float64),
            found.detections.labels,
            found.kinds,
            found.can_correct,
            padded[found.objects],
        )
        for column, part in zip(columns, parts, strict=True):
            column.append(part)

    scores, labels, kinds, can_correct, object_labels = (np.concatenate(part) for part in columns)
    return _Split(
        scores, labels, kinds, can_correct, object_labels, objects_per_class, missed_per_class
    )


def _compute_mean_ap(split: _Split, mended: ErrorKind | None) -> float:
    """Return the mean over classes of the AP with the errors of one kind mended."""
    is_mended = split.kinds == (mended or "")
    is_corrected = is_mended & split.can_correct & (mended in CORRECTED)
    is_right = (split.kinds == FOUND) | is_corrected
    is_kept = (split.kinds != IGNORED) & (~is_mended | is_corrected)
    labels = np.where(is_corrected, split.object_labels, split.labels)
    objects = split.objects_per_class
    if mended is ErrorKind.MISSED:
        objects = objects - split.missed_per_class

    values = []
    for label in np.flatnonzero(split.objects_per_class).tolist():
        is_of_class = is_kept & (labels == label)
        if objects[label] == 0:
            # All objects of the class were missed, and would be found.
            values.append(1.0)
            continue
        ap = _compute_ap(split.scores[is_of_class], is_right[is_of_class], int(objects[label]))
        values.append(ap)
    return float(np.mean(values))


def _compute_ap(scores: Floats, is_right: Bools, objects: int) -> float:
    """Return COCO's average precision of detections (n,) for a number of objects."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_right[order])
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]

    places = np.searchsorted(right / objects, RECALLS, side="left")
    is_reached = places < len(envelope)
    return float(envelope[places[is_reached]].sum() / len(RECALLS))


def describe_costs(costs: Sequence[ErrorCost]) -> dict[str, dict[str, float | int]]:
    """Return the costs for a JSON file, by kind."""
    return {str(cost.kind): {"count": cost.count, "mAP_50_gain": cost.gain} for cost in costs}

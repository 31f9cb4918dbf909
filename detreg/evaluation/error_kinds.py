"""Why each detection is wrong, and which objects no detection comes near: the six kinds of TIDE.

Source: https://arxiv.org/abs/2008.08115
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.matching import UNMATCHED, assign_greedily, compute_iou
from detreg.inference.detections import Detections

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

FOUND_IOU = 0.5
"""Of a detection that has found an object."""
NEAR_IOU = 0.1
"""Of a detection that is meant for an object, though badly placed; below it is background."""
MAX_PER_CLASS = 100
"""The best detections of each class and image that COCO scores."""


class ErrorKind(StrEnum):
    """What is wrong with a detection, or with an object that has none."""

    CLASSIFICATION = "classification"
    LOCALIZATION = "localization"
    BOTH = "both"
    DUPLICATE = "duplicate"
    BACKGROUND = "background"
    MISSED = "missed"


FOUND = "found"
IGNORED = "ignored"
"""On a crowd, or one too many of its class: COCO counts such a detection neither way."""

EXPLANATIONS: Mapping[ErrorKind, str] = {
    ErrorKind.CLASSIFICATION: "well placed on an object of another class",
    ErrorKind.LOCALIZATION: "of the right class, but overlapping its object by less than half",
    ErrorKind.BOTH: "badly placed on an object of another class",
    ErrorKind.DUPLICATE: "a second detection of an object that is found already",
    ErrorKind.BACKGROUND: "on no object",
    ErrorKind.MISSED: "objects without a detection that could be corrected",
}


@dataclass(frozen=True)
class ImageErrors:
    """An image's detections and what is wrong with them.

    `kinds` (n,) holds FOUND, IGNORED or the value of an ErrorKind; `objects` (n,) the object that a
    detection has found or is meant for, UNMATCHED for none. `can_correct` (n,) marks detections
    that would find their object if their class or place was corrected: the best one of each object
    that is not found. `found_by` (m,) is the detection that has found an object, or UNMATCHED;
    `is_missed` (m,) marks objects that are neither found nor could be by a correction.
    """

    detections: Detections
    kinds: npt.NDArray[np.str_]
    objects: Ints
    can_correct: Bools
    found_by: Ints
    is_missed: Bools


def find_errors(
    truth: GroundTruth, predictions: Mapping[int, Detections], min_score: float = 0.0
) -> dict[int, ImageErrors]:
    """Judge every detection of a split with at least a score, by image id in ascending order.

    No detection changes the kind of one with a higher score. Raises DataError where predictions and
    split have no class in common.
    """
    aligned = truth.align(predictions)
    nothing = Detections.make_empty(truth.classes)
    errors = {}
    for image_id in sorted(truth.images):
        detections = aligned.get(image_id, nothing).filter(min_score)
        errors[image_id] = find_image_errors(truth.images[image_id], detections)
    return errors


def find_image_errors(image: TruthImage, detections: Detections) -> ImageErrors:
    """Judge the detections of one image, whose labels are those of its objects."""
    overlap = compute_iou(detections.boxes, image.boxes, image.crowd)
    is_same_class = detections.labels[:, None] == image.labels[None]
    is_scored = _rank_within_class(detections.labels) < MAX_PER_CLASS

    # An overlap of -1 rules a pair out.
    is_allowed = is_same_class & is_scored[:, None]
    assigned = assign_greedily(np.where(is_allowed, overlap, -1.0), FOUND_IOU, image.crowd)
    is_found, is_on_crowd = _split_by_crowd(assigned, image.crowd)

    plain = np.where(image.crowd[None], 0.0, overlap)
    own, own_object = _find_largest(np.where(is_same_class, plain, 0.0))
    other, other_object = _find_largest(np.where(is_same_class, 0.0, plain))
    largest, nearest_object = _find_largest(plain)

    # The first condition that holds decides, in the order of the paper's own program.
    cases: list[tuple[Bools, str, Ints]] = [
        (is_found, FOUND, assigned),
        (is_on_crowd | ~is_scored, IGNORED, np.full(len(assigned), UNMATCHED)),
        ((own >= NEAR_IOU) & (own <= FOUND_IOU), ErrorKind.LOCALIZATION, own_object),
        (other >= FOUND_IOU, ErrorKind.CLASSIFICATION, other_object),
        (own > FOUND_IOU, ErrorKind.DUPLICATE, own_object),
        (largest <= NEAR_IOU, ErrorKind.BACKGROUND, np.full(len(assigned), UNMATCHED)),
        (np.ones(len(assigned), dtype=bool), ErrorKind.BOTH, nearest_object),
    ]
    conditions, names, objects_of_case = zip(*cases, strict=True)
    kinds = np.select(conditions, [np.full(len(assigned), str(name)) for name in names], "")
    objects = np.select(conditions, objects_of_case, UNMATCHED)

    found_by = np.full(len(image.boxes), UNMATCHED, dtype=np.int64)
    found_by[assigned[is_found]] = np.flatnonzero(is_found)
    can_correct = _find_corrections(kinds, objects, found_by)

    is_missed = (found_by == UNMATCHED) & ~image.crowd
    is_missed[objects[can_correct]] = False
    return ImageErrors(detections, kinds, objects, can_correct, found_by, is_missed)


def _rank_within_class(labels: Ints) -> Ints:
    """Return how many earlier detections have the class of each one."""
    ranks = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        ranks[places] = np.arange(len(places))
    return ranks


def _split_by_crowd(assigned: Ints, crowd: Bools) -> tuple[Bools, Bools]:
    """Return which detections have an object, and which lie on a crowd."""
    is_assigned = assigned != UNMATCHED
    is_on_crowd = np.zeros(len(assigned), dtype=bool)
    is_on_crowd[is_assigned] = crowd[assigned[is_assigned]]
    return is_assigned & ~is_on_crowd, is_on_crowd


def _find_largest(overlap: Floats) -> tuple[Floats, Ints]:
    """Return each row's largest overlap and its column, 0 and UNMATCHED without a column."""
    if not overlap.shape[1]:
        return np.zeros(len(overlap)), np.full(len(overlap), UNMATCHED)
    columns = overlap.argmax(axis=1)
    return overlap[np.arange(len(overlap)), columns], columns


def _find_corrections(kinds: npt.NDArray[np.str_], objects: Ints, found_by: Ints) -> Bools:
    """Mark the best detection that could be corrected for each object that is not found.

    Of several, only one would be right: the others would be duplicates.
    """
    can_correct = np.zeros(len(kinds), dtype=bool)
    taken: set[int] = set()
    correctable = np.isin(kinds, (ErrorKind.CLASSIFICATION, ErrorKind.LOCALIZATION))
    for place in np.flatnonzero(correctable).tolist():
        target = int(objects[place])
        if found_by[target] == UNMATCHED and target not in taken:
            can_correct[place] = True
            taken.add(target)
    return can_correct

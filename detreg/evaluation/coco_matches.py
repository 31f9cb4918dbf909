"""COCO's assignment of detections to objects, kept for each image, IoU threshold and area range.

faster-coco-eval does the same inside, but shows its sums only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask

from detreg.evaluation.ground_truth import GroundTruth
from detreg.inference.detections import Detections
from detreg.inference.masks import Masks
from detreg.mask_patches import find_runs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""All, small, medium and large, in pixels squared."""
MAX_DETECTIONS = 100
"""The best detections of each class and image that count."""

Shapes = list[Any]
"""Boxes x, y, width, height in pixels, or masks in COCO's run-length code: what overlaps."""


@dataclass(frozen=True)
class ClassMatches:
    """All detections of one class on a split, best first, and what COCO makes of them.

    `scores` and `image_positions` are (n,); a position counts the images in order of their ids.
    `is_true_positive` and `is_ignored` are (4 area ranges, 10 IoU thresholds, n): what is neither
    is a false positive. `num_objects` is (4 area ranges, images).
    """

    scores: Floats
    image_positions: Ints
    is_true_positive: Bools
    is_ignored: Bools
    num_objects: Ints

    @staticmethod
    def join(parts: Sequence["ClassMatches"], images: int) -> "ClassMatches":
        """Join parts of so many images each, one after the other."""
        scores = np.concatenate([part.scores for part in parts])
        positions = [part.image_positions + images * place for place, part in enumerate(parts)]
        order = np.argsort(-scores, kind="stable")
        return ClassMatches(
            scores=scores[order],
            image_positions=np.concatenate(positions)[order],
            is_true_positive=_join_last_axis([part.is_true_positive for part in parts])[..., order],
            is_ignored=_join_last_axis([part.is_ignored for part in parts])[..., order],
            num_objects=np.concatenate([part.num_objects for part in parts], axis=-1),
        )


@dataclass(frozen=True)
class _Objects:
    """The objects of one class on one image."""

    shapes: Shapes
    is_crowd: Bools
    is_ignored: Bools
    """(4 area ranges, m): a crowd, or outside the range."""


@dataclass(frozen=True)
class _ImageMatches:
    """The detections of one class on one image, best first."""

    scores: Floats
    is_true_positive: Bools
    is_ignored: Bools


def match_split(
    truth: GroundTruth, predictions: Mapping[int, Detections], *, by_masks: bool = False
) -> list[ClassMatches]:
    """Match predictions, by image id, with the objects of a split, for each of its classes.

    `by_masks` compares masks, which both must have then, in place of boxes. Raises DataError where
    predictions and split have no class in common.
    """
    aligned = truth.align(predictions)
    objects_of_images = (truth.coco_of_masks if by_masks else truth.coco).imgToAnns
    image_ids = sorted(truth.images)
    label_of = {category: label for label, category in enumerate(sorted(truth.coco.getCatIds()))}

    matches: list[list[_ImageMatches]] = [[] for _ in truth.classes]
    positions: list[list[int]] = [[] for _ in truth.classes]
    num_objects = np.zeros((len(truth.classes), len(AREA_RANGES), len(image_ids)), dtype=np.int64)
    for position, image_id in enumerate(image_ids):
        annotations: list[list[dict[str, Any]]] = [[] for _ in truth.classes]
        for annotation in objects_of_images.get(image_id, []):
            annotations[label_of[annotation["category_id"]]].append(annotation)

        found = aligned.get(image_id)
        for label, of_class in enumerate(annotations):
            is_of_class = None if found is None else found.labels == label
            if not of_class and (is_of_class is None or not is_of_class.any()):
                continue

            objects = _read_objects(of_class, by_masks=by_masks)
            num_objects[label, :, position] = (~objects.is_ignored).sum(axis=1)
            if found is None or is_of_class is None or not is_of_class.any():
                continue
            # Detections are sorted by score.
            best = np.flatnonzero(is_of_class)[:MAX_DETECTIONS]
            shapes, areas = _read_detections(found, best, by_masks=by_masks)
            matched = _match_image(found.scores[best], shapes, areas, objects)
            matches[label].append(matched)
            positions[label] += [position] * len(matched.scores)

    return [
        _join_images(matches[label], positions[label], num_objects[label])
        for label in range(len(truth.classes))
    ]


def _read_objects(annotations: Sequence[Mapping[str, Any]], *, by_masks: bool) -> _Objects:
    kind = "segmentation" if by_masks else "bbox"
    shapes = [annotation[kind] for annotation in annotations]
    is_crowd = np.array([annotation["iscrowd"] for annotation in annotations], dtype=bool)
    areas = np.array([annotation["area"] for annotation in annotations], dtype=np.float64)
    is_ignored = is_crowd | _is_outside(areas)
    return _Objects(shapes, is_crowd, is_ignored)


def _is_outside(areas: Floats) -> Bools:
    """Return (4 area ranges, n) for areas (n,) in pixels squared."""
    return np.asarray((areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:]))


def _read_detections(found: Detections, best: Ints, *, by_masks: bool) -> tuple[Shapes, Floats]:
    """Return the shapes of detections, and their areas (n,) in pixels squared."""
    if not by_masks:
        boxes = found.boxes[best].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return boxes.tolist(), boxes[:, 2] * boxes[:, 3]

    if found.masks is None:
        raise ValueError("detections must have masks to be compared by them")
    codes = encode_masks(found.masks.select(best))
    return codes, np.array(mask.area(codes), np.float64)


def encode_masks(masks: Masks) -> list[dict[str, object]]:
    """Return the codes of masks as pycocotools has them, with compressed runs as bytes.

    The same as `to_run_lengths` in half of the time: many masks are scored.
    """
    if not len(masks):
        return []
    width, height = masks.size
    codes = []
    for patch in masks.to_patches():
        runs = find_runs(patch, height, width)
        codes.append({"size": [height, width], "counts": runs.tolist()})
    compressed: list[dict[str, object]] = mask.frPyObjects(codes, height, width)
    return compressed


def _match_image(
    scores: npt.NDArray[np.floating], shapes: Shapes, areas: Floats, objects: _Objects
) -> _ImageMatches:
    """Match the detections of one class on one image, best first; areas are (n,).

    In descending order of score, each detection takes the free object that it overlaps most. One
    that is ignored is taken only where no other satisfies; a crowd can be taken by many. This is
    pycocotools' evaluateImg for all area ranges and IoU thresholds at once.
    """
    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), len(shapes))
    is_matched = np.zeros(shape, dtype=bool)
    is_ignored = np.zeros(shape, dtype=bool)
    if objects.shapes:
        crowd = objects.is_crowd.astype(int).tolist()
        overlaps = np.asarray(mask.iou(shapes, objects.shapes, crowd))
        is_taken = np.zeros((*shape[:2], len(objects.shapes)), dtype=bool)
        for row in np.flatnonzero((overlaps >= IOU_THRESHOLDS[0]).any(axis=1)):
            best, has_object = _find_objects(overlaps[row], is_taken, objects)
            is_matched[..., row] = has_object
            ignored = np.take_along_axis(objects.is_ignored, best, axis=1)
            is_ignored[..., row] = has_object & ignored
            ranges, thresholds = np.nonzero(has_object)
            is_taken[ranges, thresholds, best[ranges, thresholds]] = True

    is_ignored |= ~is_matched & _is_outside(areas)[:, None]
    return _ImageMatches(scores.astype(np.float64), is_matched & ~is_ignored, is_ignored)


def _find_objects(overlaps: Floats, is_taken: Bools, objects: _Objects) -> tuple[Ints, Bools]:
    """Return the object (4 area ranges, 10 IoU thresholds) that a detection takes, and where.

    overlaps is (m,), is_taken (4, 10, m). The second result is False where it takes none.
    """
    # pycocotools asks for a little less than 1, for boxes that are equal.
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    is_allowed = (overlaps >= thresholds[:, None]) & (~is_taken | objects.is_crowd)

    # One that is not ignored comes before all that are.
    is_preferred = is_allowed & ~objects.is_ignored[:, None]
    has_preferred = is_preferred.any(axis=-1, keepdims=True)
    values = np.where(np.where(has_preferred, is_preferred, is_allowed), overlaps, -1.0)

    # The last of several equal overlaps wins, and argmax returns the first.
    from_end = values[..., ::-1].argmax(axis=-1)
    best = values.shape[-1] - 1 - from_end
    return best, np.asarray(is_allowed.any(axis=-1))


def _join_images(
    matches: Sequence[_ImageMatches], positions: Sequence[int], num_objects: Ints
) -> ClassMatches:
    empty = np.zeros((len(AREA_RANGES), len(IOU_THRESHOLDS), 0), dtype=bool)
    scores = np.concatenate([np.zeros(0), *(image.scores for image in matches)])
    is_true_positive = _join_last_axis([empty, *(image.is_true_positive for image in matches)])
    is_ignored = _join_last_axis([empty, *(image.is_ignored for image in matches)])

    # Of equal scores the first image comes first, as in pycocotools.
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(
        scores=scores[order],
        image_positions=np.array(positions, dtype=np.int64)[order],
        is_true_positive=is_true_positive[..., order],
        is_ignored=is_ignored[..., order],
        num_objects=num_objects,
    )


def _join_last_axis(parts: Sequence[Bools]) -> Bools:
    return np.concatenate(parts, axis=-1)

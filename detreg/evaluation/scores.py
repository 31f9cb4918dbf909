"""COCO's scores of a split's predictions, equal to pycocotools and ten times as fast.

Boxes are scored, and where the split and the predictions have masks, these, too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from detreg.evaluation.coco_matches import MAX_DETECTIONS, encode_masks
from detreg.evaluation.ground_truth import GroundTruth
from detreg.inference.detections import Detections

Truth = GroundTruth | Path | Mapping[str, object]

# Positions in COCO's ten IoU thresholds 0.50, 0.55 ... 0.95.
IOU_50 = 0
IOU_75 = 5

# Positions in COCO's ranges of area, with limits at 32 and 96 pixels squared.
ALL = 0
SMALL = 1
MEDIUM = 2
LARGE = 3

PRECISION_SHAPE = (10, 101, 4)
"""IoU thresholds, recalls from 0 to 1, ranges of area; the classes come before the last."""

RECALLS = ("AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l")
"""COCO's average recalls: of the best 1, 10 and 100 detections of an image, and by size."""

MEANS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
MASKS_PREFIX = "segm_"
"""Before the names of scores of masks, such as `segm_mAP_50`."""

MAX_NAME_LENGTH = 100


class CocoResult(TypedDict):
    """A row of a COCO result file; bbox is x, y, width, height in pixels.

    It has either a bbox or a segmentation, by which COCO tells what to score.
    """

    image_id: int
    category_id: int
    score: float
    bbox: NotRequired[list[float]]
    segmentation: NotRequired[dict[str, object]]


@dataclass(frozen=True)
class Scores:
    """Mean average precision from 0 to 1, None where the split has no object to score.

    The means are over IoU 0.50 to 0.95, at 0.50, at 0.75, of small, medium and large objects, and
    of each class. `precision`, from which they are computed, is float64 (10 IoU thresholds, 101
    recalls, classes, 4 ranges of area), -1 where a class has no object. `average_recall` holds the
    other six of COCO's twelve numbers, by the names in RECALLS. `prefix` comes before the names of
    the metrics: `segm_` for scores of masks.
    Source: https://cocodataset.org/#detection-eval
    """

    mAP: float | None
    mAP_50: float | None
    mAP_75: float | None
    mAP_s: float | None
    mAP_m: float | None
    mAP_l: float | None
    per_class: Mapping[str, float | None]
    precision: npt.NDArray[np.float64] = field(repr=False, compare=False)
    average_recall: Mapping[str, float | None] = field(default_factory=dict)
    prefix: str = ""

    def __post_init__(self) -> None:
        thresholds, recalls, areas = PRECISION_SHAPE
        expected = (thresholds, recalls, len(self.per_class), areas)
        if self.precision.shape != expected:
            raise ValueError(f"precision must have shape {expected}, got {self.precision.shape}")

    def as_metrics(self, prefix: str = "") -> dict[str, float]:
        """Return the six means under MLflow's metric names, `val/mAP_50` for the prefix `val`.

        What is not defined is left out.
        """
        return _add_prefix(prefix, {self.prefix + name: getattr(self, name) for name in MEANS})

    def as_class_metrics(self, prefix: str = "") -> dict[str, float]:
        """Return each class's average precision under MLflow's metric names, as `val/AP/boat`."""
        metric_names = make_metric_names(self.per_class)
        values = {}
        for class_name, value in self.per_class.items():
            values[f"{self.prefix}AP/{metric_names[class_name]}"] = value
        return _add_prefix(prefix, values)


def score(truth: Truth, predictions: Mapping[int, Detections]) -> Scores:
    """Score predictions, by image id, against a split.

    On an image without an entry nothing was found. As in pycocotools, the 100 best detections of
    each class and image count. A caller that scores a split more than once loads its GroundTruth
    once. Raises DataError where predictions and split have no class in common.
    """
    if not isinstance(truth, GroundTruth):
        truth = GroundTruth.load(truth)
    evaluation = _evaluate(truth.coco, _make_box_results(truth, predictions), "bbox")
    return _make_scores(truth.classes, evaluation)


def score_masks(truth: GroundTruth, predictions: Mapping[int, Detections]) -> Scores:
    """Score the masks of predictions against those of a split, as `score` does with boxes.

    An object without a mask is a region to ignore, of its box. Raises ValueError where the split
    has no masks, DataError where predictions and split have no class in common.
    """
    if not truth.has_masks:
        raise ValueError("the split must have masks to score those of predictions")
    evaluation = _evaluate(truth.coco_of_masks, _make_mask_results(truth, predictions), "segm")
    return _make_scores(truth.classes, evaluation, MASKS_PREFIX)


def score_masks_if_any(truth: GroundTruth, predictions: Mapping[int, Detections]) -> Scores | None:
    """Score masks where both the split and the predictions have some; None where they have not."""
    return score_masks(truth, predictions) if can_score_masks(truth, predictions) else None


def can_score_masks(truth: GroundTruth, predictions: Mapping[int, Detections]) -> bool:
    """Whether both a split and predictions have masks."""
    return truth.has_masks and any(found.masks is not None for found in predictions.values())


def _make_scores(
    classes: Sequence[str],
    evaluation: Mapping[str, npt.NDArray[np.float64]],
    prefix: str = "",
) -> Scores:
    # The last axis is the limit of detections: 1, 10 and 100.
    precision = np.asarray(evaluation["precision"][..., -1])

    per_class = {}
    for label, name in enumerate(classes):
        per_class[name] = _mean(precision[:, :, label, ALL])

    return Scores(
        mAP=_mean(precision[..., ALL]),
        mAP_50=_mean(precision[IOU_50, ..., ALL]),
        mAP_75=_mean(precision[IOU_75, ..., ALL]),
        mAP_s=_mean(precision[..., SMALL]),
        mAP_m=_mean(precision[..., MEDIUM]),
        mAP_l=_mean(precision[..., LARGE]),
        per_class=per_class,
        precision=precision,
        average_recall=_average_recall(np.asarray(evaluation["recall"])),
        prefix=prefix,
    )


def _average_recall(recall: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return the means of recall (IoU thresholds, classes, areas, limits) by their names."""
    parts = (
        recall[..., ALL, 0],
        recall[..., ALL, 1],
        recall[..., ALL, 2],
        recall[..., SMALL, 2],
        recall[..., MEDIUM, 2],
        recall[..., LARGE, 2],
    )
    return {name: _mean(part) for name, part in zip(RECALLS, parts, strict=True)}


def _evaluate(
    truth: COCO, results: list[CocoResult], iou_type: str
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Run COCO's evaluation, and return its `precision` and `recall`, -1 where not defined.

    It takes seconds, so all that is reported comes from one run of it.
    """
    found = truth.loadRes(results)
    evaluation = COCOeval_faster(truth, found, iou_type, print_function=_print_nothing)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated: Mapping[str, npt.NDArray[np.float64]] = evaluation.eval
    return accumulated


def make_metric_names(class_names: Iterable[str]) -> dict[str, str]:
    """Give each class a name that MLflow takes in a metric, and no two classes the same.

    Characters that MLflow does not take become `_`; a name that is taken gets a number.
    """
    names = {name: _clean_name(name) for name in class_names}

    # A class that keeps its name comes first, whatever the order of the classes.
    taken = {name for name, cleaned in names.items() if name == cleaned}
    for name, cleaned in names.items():
        if name == cleaned:
            continue
        unique = cleaned
        number = 1
        while unique in taken:
            number += 1
            unique = f"{cleaned}_{number}"
        names[name] = unique
        taken.add(unique)
    return names


def _clean_name(name: str) -> str:
    cleaned = re.sub(r"[^\w.\- :]", "_", name)[:MAX_NAME_LENGTH]
    # MLflow reads a metric's name as a path, in which . and .. would vanish.
    has_only_dots = not cleaned.strip(".")
    return "_" * len(cleaned) if has_only_dots else cleaned


def _make_box_results(
    truth: GroundTruth, predictions: Mapping[int, Detections]
) -> list[CocoResult]:
    # A label is the position of its category among the sorted ids, as in GroundTruth.load.
    category_ids = sorted(truth.coco.getCatIds())
    results: list[CocoResult] = []
    for image_id, detections in truth.align(predictions).items():
        # Width and height are computed in float64, as the overlaps are: only so do the scores
        # equal pycocotools' to the last digit.
        boxes = detections.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]

        columns = (boxes.tolist(), detections.scores.tolist(), detections.labels.tolist())
        for box, value, label in zip(*columns, strict=True):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "score": value,
                }
            )
    return results


def _make_mask_results(
    truth: GroundTruth, predictions: Mapping[int, Detections]
) -> list[CocoResult]:
    category_ids = sorted(truth.coco.getCatIds())
    results: list[CocoResult] = []
    for image_id, detections in truth.align(predictions).items():
        # Others would not count, and it takes longer to make their codes than to score them.
        best = detections.select(_find_best(detections.labels))
        if best.masks is None:
            raise ValueError(f"the detections of image {image_id} must have masks to be scored")
        columns = (encode_masks(best.masks), best.scores.tolist(), best.labels.tolist())
        for code, value, label in zip(*columns, strict=True):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "segmentation": code,
                    "score": value,
                }
            )
    return results


def _find_best(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions of the first MAX_DETECTIONS of each class, in order."""
    chosen = [np.flatnonzero(labels == label)[:MAX_DETECTIONS] for label in np.unique(labels)]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    is_defined = precision > -1
    if not is_defined.any():
        return None
    return float(precision[is_defined].mean())


def _add_prefix(prefix: str, values: Mapping[str, float | None]) -> dict[str, float]:
    """Put `prefix/` before the names, and leave out what is None."""
    start = f"{prefix}/" if prefix else ""
    metrics = {}
    for name, value in values.items():
        if value is not None:
            metrics[start + name] = value
    return metrics


def _print_nothing(*_: object) -> None:
    """Replace COCOeval's print function, which would write to stdout."""

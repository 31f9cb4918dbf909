"""COCO's box scores of a split's predictions, equal to pycocotools and ten times as fast."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCOeval_faster

from detreg.evaluation.ground_truth import GroundTruth

if TYPE_CHECKING:
    from detreg.inference.detections import Detections

Truth = GroundTruth | Path | Mapping[str, Any]

IOU_50, IOU_75 = 0, 5  # positions in COCO's ten thresholds 0.50, 0.55 ... 0.95
ALL, SMALL, MEDIUM, LARGE = range(
    4
)  # positions in COCO's area ranges, which part at 32 and 96 pixels squared


@dataclass(frozen=True)
class Scores:
    """Mean average precision from 0 to 1: over IoU 0.50 to 0.95, at 0.50, at 0.75, of small, medium and large objects, per class.

    None where the split has no object to score. Source: https://cocodataset.org/#detection-eval
    """

    mAP: float | None
    mAP_50: float | None
    mAP_75: float | None
    mAP_s: float | None
    mAP_m: float | None
    mAP_l: float | None
    per_class: Mapping[str, float | None]

    def as_metrics(self, prefix: str = "") -> dict[str, float]:
        """The six means under MLflow's metric names, as `val/mAP_50` for the prefix `val`; what is not defined is left out."""
        values = {
            name: getattr(self, name)
            for name in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
        }
        return _prefixed(prefix, values)

    def class_metrics(self, prefix: str = "") -> dict[str, float]:
        """The classes' average precisions under MLflow's metric names, as `val/AP/boat` for the prefix `val`."""
        names = metric_names(self.per_class)
        return _prefixed(
            prefix, {f"AP/{names[name]}": value for name, value in self.per_class.items()}
        )


def score(truth: Truth, predictions: Mapping[int, Detections]) -> Scores:
    """Score predictions, by image id, against a split; an image without an entry counts as one on which nothing was found.

    As in pycocotools the hundred best detections of each class and image count. A caller that scores a split more than once
    loads its GroundTruth once. Raises DataError where predictions and split have no class in common.
    """
    truth = truth if isinstance(truth, GroundTruth) else GroundTruth.load(truth)
    precision = coco_precision(truth, predictions)
    return Scores(
        mAP=_mean(precision[..., ALL]),
        mAP_50=_mean(precision[IOU_50, ..., ALL]),
        mAP_75=_mean(precision[IOU_75, ..., ALL]),
        mAP_s=_mean(precision[..., SMALL]),
        mAP_m=_mean(precision[..., MEDIUM]),
        mAP_l=_mean(precision[..., LARGE]),
        per_class={
            name: _mean(precision[:, :, label, ALL]) for label, name in enumerate(truth.classes)
        },
    )


def coco_precision(
    truth: GroundTruth, predictions: Mapping[int, Detections]
) -> npt.NDArray[np.float64]:
    """COCO's precision (10 IoU thresholds, 101 recalls from 0 to 1, classes, 4 areas), -1 where a class has no object."""
    results = truth.coco.loadRes(_coco_results(truth, predictions))
    evaluation = COCOeval_faster(truth.coco, results, "bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][..., -1])


def metric_names(class_names: Iterable[str]) -> dict[str, str]:
    """Give each class a name that MLflow takes in a metric: other characters become `_`, and no two classes share one."""
    cleaned = {name: re.sub(r"[^\w.\- :]", "_", name)[:100] for name in class_names}
    # MLflow reads a metric's name as a path, in which . and .. would vanish.
    names = {
        name: "_" * len(clean) if not clean.strip(".") else clean for name, clean in cleaned.items()
    }
    taken = {name for name, clean in names.items() if name == clean}
    for name, clean in names.items():
        if name != clean:
            candidates = (clean if n == 1 else f"{clean}_{n}" for n in range(1, len(names) + 2))
            names[name] = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(names[name])
    return names


def _coco_results(
    truth: GroundTruth, predictions: Mapping[int, Detections]
) -> list[dict[str, Any]]:
    category_ids = sorted(truth.coco.getCatIds())
    results = []
    for image_id, found in truth.align(predictions).items():
        # Width and height are taken in float64, like the overlaps: the scores then equal pycocotools' to the last digits.
        boxes = found.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for box, value, label in zip(
            boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "score": value,
                }
            )
    return results


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _prefixed(prefix: str, values: Mapping[str, float | None]) -> dict[str, float]:
    start = f"{prefix}/" if prefix else ""
    return {start + name: value for name, value in values.items() if value is not None}


def _silent(*_: object) -> None:
    """Swallow what COCOeval would log."""

"""All numbers of a report: COCO's twelve, intervals, and where the mAP is lost."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from detreg.evaluation.bootstrap import (
    Interval,
    MatchedDetections,
    compute_interval,
    draw_image_counts,
)
from detreg.evaluation.error_costs import ErrorCost, compute_error_costs, describe_costs
from detreg.evaluation.error_kinds import ImageErrors
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import MEANS, Scores
from detreg.files import write_atomically
from detreg.inference.detections import Detections

NUMBERS_FILE = "numbers.json"
"""Of a report."""
MIN_IMAGES = 10
"""Under which resampling the images says nothing about new ones."""

SIZES = {"mAP_s": "small objects (under 32² px)", "mAP_m": "medium objects (32² to 96² px)"}
SIZES |= {"mAP_l": "large objects (over 96² px)"}


@dataclass(frozen=True)
class SplitNumbers:
    """The numbers of one split, from 0 to 1.

    `map_interval` and `class_intervals` hold 95 % of resamples of the images; None for a class
    without objects, and everywhere where there are too few images. `costs` begin with the kind of
    error that costs most. `mask_scores` is None without masks; all else is of boxes.
    """

    scores: Scores
    boxes_per_class: Mapping[str, int]
    map_interval: Interval | None
    class_intervals: Mapping[str, Interval | None]
    costs: tuple[ErrorCost, ...]
    mask_scores: Scores | None = None


def measure_numbers(
    truth: GroundTruth,
    predictions: Mapping[int, Detections],
    scores: Scores,
    errors: Mapping[int, ImageErrors],
) -> SplitNumbers:
    """Measure the numbers of a split; errors are those of all its detections."""
    map_interval = None
    class_intervals: dict[str, Interval | None] = dict.fromkeys(truth.classes)
    if len(truth.images) >= MIN_IMAGES:
        counts = draw_image_counts(len(truth.images))
        resampled = MatchedDetections.match(truth, predictions).score_resamples(counts)
        map_interval = compute_interval(resampled.mean_ap)
        for label, name in enumerate(truth.classes):
            class_intervals[name] = compute_interval(resampled.per_class[:, label])

    return SplitNumbers(
        scores=scores,
        boxes_per_class=truth.count_boxes_per_class(),
        map_interval=map_interval,
        class_intervals=class_intervals,
        costs=compute_error_costs(truth, errors),
    )


def list_sentences(numbers: SplitNumbers) -> list[str]:
    """Return what should be read first: how sure the mAP is, what costs most, what is missing."""
    sentences = []
    interval = numbers.map_interval
    if interval is not None:
        sentences.append(
            f"With other images of the same kind the mAP would lie between {interval.low:.3f} and "
            f"{interval.high:.3f} (95 %, bootstrap over images)."
        )
    if numbers.costs and numbers.costs[0].gain > 0:
        worst = numbers.costs[0]
        sentences.append(
            f"Most is lost by {worst.kind} errors: without them the mAP at IoU 0.5 would be "
            f"{worst.gain:.3f} higher."
        )
    absent = [text for name, text in SIZES.items() if getattr(numbers.scores, name) is None]
    if absent:
        sentences.append(f"This split has no {' and no '.join(absent)}, so they have no mAP.")
    return sentences


def write_numbers(name: str, numbers: SplitNumbers, path: Path) -> Path:
    """Write all numbers of a split as a JSON file, and return its path."""
    scores = numbers.scores
    per_class: dict[str, dict[str, object]] = {}
    for class_name, value in scores.per_class.items():
        interval = numbers.class_intervals[class_name]
        per_class[class_name] = {
            "AP": value,
            "interval": None if interval is None else asdict(interval),
            "boxes": numbers.boxes_per_class[class_name],
        }
        if numbers.mask_scores is not None:
            per_class[class_name]["segm_AP"] = numbers.mask_scores.per_class[class_name]
    means = _list_means(scores)
    if numbers.mask_scores is not None:
        means |= _list_means(numbers.mask_scores)
    content = {
        "split": name,
        "means": means,
        "mAP_interval": None if numbers.map_interval is None else asdict(numbers.map_interval),
        "classes": per_class,
        "errors": describe_costs(numbers.costs),
    }
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=1).encode())
    return path


def _list_means(scores: Scores) -> dict[str, float | None]:
    """Return COCO's twelve numbers by their names, those of masks with their prefix."""
    means = {name: getattr(scores, name) for name in MEANS} | dict(scores.average_recall)
    return {f"{scores.prefix}{name}": value for name, value in means.items()}


def read_map_interval(path: Path) -> Interval | None:
    """Return the interval of the mAP in a file that `write_numbers` has written."""
    interval = json.loads(path.read_text())["mAP_interval"]
    return None if interval is None else Interval(**interval)

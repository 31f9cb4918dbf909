"""The report of one split: the scores, where they come from, and what went right and wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.evaluation.confusion_plot import plot_confusion
from detreg.evaluation.cost_plot import plot_error_costs
from detreg.evaluation.error_kinds import find_errors
from detreg.evaluation.gallery import choose_typical, choose_worst, describe_outcome, draw_outcome
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.outcomes import Outcome, count_confusion, match_split
from detreg.evaluation.plots import plot_per_class, plot_precision_recall, plot_training
from detreg.evaluation.scores import ALL, IOU_50, Scores
from detreg.evaluation.split_numbers import (
    SplitNumbers,
    list_sentences,
    measure_numbers,
    write_numbers,
)
from detreg.inference.detections import Detections
from detreg.report.page import Gallery, Page, write_page
from detreg.report.section import GalleryItem
from detreg.report.theme import CLASS_COLORS, get_class_color

IOU = 0.5
MIN_SCORE = 0.3
"""Of a detection that counts in the confusion matrix and is drawn in the galleries."""
RULE = f"Detections with a score of at least {MIN_SCORE}; found means IoU of at least {IOU}"

RECALL_NAMES = {
    "AR_1": "recall, 1 detection",
    "AR_10": "10 detections",
    "AR_100": "100 detections",
    "AR_s": "small",
    "AR_m": "medium",
    "AR_l": "large",
}
"""COCO's average recalls over IoU 0.50 to 0.95, as the report calls them."""

# More images would make the page too heavy for MLflow's viewer.
NUM_WORST = 6
NUM_TYPICAL = 4


@dataclass(frozen=True)
class SplitEvaluation:
    """A detector's predictions for a split, by image id, with their scores.

    `name` is the split's: train, val or test.
    """

    name: str
    truth: GroundTruth
    predictions: Mapping[int, Detections]
    scores: Scores


def write_report(
    folder: Path,
    title: str,
    evaluation: SplitEvaluation,
    *,
    history: Sequence[Mapping[str, float]] = (),
    facts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write plots, drawn images and index.html, which shows them all, and return the files.

    history holds the metrics of each epoch under the names that are logged (epoch, train/loss,
    train/lr, val/mAP ...); facts are shown as a table. Raises DataError where predictions and split
    have no class in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = evaluation.truth
    outcomes = match_split(truth, evaluation.predictions, IOU, MIN_SCORE)

    errors = find_errors(truth, evaluation.predictions)
    numbers = measure_numbers(truth, evaluation.predictions, evaluation.scores, errors)
    numbers_file = write_numbers(evaluation.name, numbers, folder / "numbers.json")

    plot_files = _write_plots(folder, evaluation, outcomes, history, numbers)
    galleries = _write_galleries(folder, truth, outcomes)
    page = Page(
        title=title,
        subtitle=_describe_split(evaluation.name, truth),
        numbers=_list_means(evaluation.scores),
        lines=list_sentences(numbers),
        facts=facts or {},
        plots=plot_files,
        table=list_recalls(evaluation.scores),
        galleries=galleries,
    )
    index = write_page(page, folder / "index.html")

    image_files = [item.file for gallery in galleries for item in gallery.items]
    return [index, numbers_file, *plot_files, *image_files]


def _describe_split(name: str, truth: GroundTruth) -> str:
    boxes = sum(truth.count_boxes_per_class().values())
    return (
        f"{name} split: {len(truth.images):,} images, {boxes:,} boxes, {len(truth.classes)} classes"
    )


def _list_means(scores: Scores) -> dict[str, float | None]:
    return {
        "mAP (IoU 0.50 to 0.95)": scores.mAP,
        "mAP at IoU 0.50": scores.mAP_50,
        "mAP at IoU 0.75": scores.mAP_75,
        "mAP, small (< 32² px)": scores.mAP_s,
        "mAP, medium": scores.mAP_m,
        "mAP, large (> 96² px)": scores.mAP_l,
    }


def list_recalls(scores: Scores) -> list[dict[str, str]]:
    """Return COCO's six average recalls as the row of a table."""
    row = {}
    for name, text in RECALL_NAMES.items():
        value = scores.average_recall.get(name)
        row[text] = "-" if value is None else f"{value:.3f}"
    return [row]


def _write_plots(
    folder: Path,
    evaluation: SplitEvaluation,
    outcomes: Mapping[int, Outcome],
    history: Sequence[Mapping[str, float]],
    numbers: SplitNumbers,
) -> list[Path]:
    truth, scores = evaluation.truth, evaluation.scores
    boxes = truth.count_boxes_per_class()
    curves = scores.precision[IOU_50, ..., ALL]
    counts = count_confusion(truth, outcomes)

    files = []
    if history:
        files.append(plot_training(history, folder / "training.png"))
    map_50 = scores.mAP_50
    if map_50 is not None:
        files.append(plot_error_costs(numbers.costs, map_50, folder / "error_costs.png"))
    per_class_file = folder / "per_class.png"
    files += [
        plot_per_class(scores.per_class, boxes, per_class_file, numbers.class_intervals),
        plot_precision_recall(truth.classes, curves, boxes, folder / "precision_recall.png"),
        plot_confusion(truth.classes, counts, RULE, folder / "confusion.png"),
    ]
    return files


def _write_galleries(
    folder: Path, truth: GroundTruth, outcomes: Mapping[int, Outcome]
) -> list[Gallery]:
    worst = choose_worst(outcomes, NUM_WORST)
    typical = choose_typical(outcomes, NUM_TYPICAL, exclude=worst)

    # Colors repeat with more classes than there are colors, so a legend would mislead.
    legend = {}
    if len(truth.classes) <= len(CLASS_COLORS):
        legend = {name: get_class_color(label) for label, name in enumerate(truth.classes)}

    return [
        Gallery(
            "Typical images",
            "With about as many errors as half of the images have. Objects are dashed in white, "
            "detections have the color of their class; what is missed or wrong has a thick line.",
            _write_items(folder, "typical", typical, truth, outcomes),
            legend,
        ),
        Gallery(
            "Worst images",
            f"With most objects missed or confused and most false detections. {RULE}.",
            _write_items(folder, "worst", worst, truth, outcomes),
            legend,
        ),
    ]


def _write_items(
    folder: Path,
    kind: str,
    image_ids: Sequence[int],
    truth: GroundTruth,
    outcomes: Mapping[int, Outcome],
) -> list[GalleryItem]:
    items = []
    for place, image_id in enumerate(image_ids, start=1):
        image = truth.images[image_id]
        outcome = outcomes[image_id]
        file = draw_outcome(image, outcome, folder / f"{kind}_{place}.jpg")
        items.append(GalleryItem(file, image.file.name, describe_outcome(outcome)))
    return items

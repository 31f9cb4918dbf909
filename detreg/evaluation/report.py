"""The report of one split: the scores, where they come from, and what went right and wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from detreg.evaluation.error_kinds import find_errors
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.label_error_files import write_label_error_files
from detreg.evaluation.label_errors import find_label_errors
from detreg.evaluation.model_speed import ModelSpeed
from detreg.evaluation.outcomes import match_split
from detreg.evaluation.report_galleries import draw_images, make_galleries, make_label_gallery
from detreg.evaluation.report_plots import (
    NO_TRAINING,
    TrainingCourse,
    show_classes,
    show_costs,
    show_masks,
    show_recalls,
    show_scores,
    show_speed,
    show_training,
)
from detreg.evaluation.score_curve import judge_detections
from detreg.evaluation.scores import Scores
from detreg.evaluation.split_numbers import (
    NUMBERS_FILE,
    list_sentences,
    measure_numbers,
    write_numbers,
)
from detreg.inference.detections import Detections
from detreg.report.page import Page, SceneControls, write_page

IOU = 0.5
MIN_SCORE = 0.3
"""Of a detection that counts, where the model has no operating point."""


@dataclass(frozen=True)
class SplitEvaluation:
    """A detector's predictions for a split, by image id, with their scores.

    `name` is the split's: train, val or test. Confusion and galleries show detections with at least
    `score_threshold`. `mask_scores` is None where the split or the detector has no masks.
    """

    name: str
    truth: GroundTruth
    predictions: Mapping[int, Detections]
    scores: Scores
    score_threshold: float = MIN_SCORE
    mask_scores: Scores | None = None


def write_report(
    folder: Path,
    title: str,
    evaluation: SplitEvaluation,
    *,
    course: TrainingCourse = NO_TRAINING,
    facts: Mapping[str, str] | None = None,
    speed: ModelSpeed | None = None,
) -> list[Path]:
    """Write plots, drawn images and index.html, which shows them all, and return the files.

    facts are shown as a table. Raises DataError where predictions and split
    have no class in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth, predictions = evaluation.truth, evaluation.predictions
    threshold = evaluation.score_threshold
    rule = f"Detections with a score of at least {threshold:g}; found means IoU of at least {IOU}"

    outcomes = match_split(truth, predictions, IOU, threshold)
    errors = find_errors(truth, predictions)
    at_threshold = find_errors(truth, predictions, threshold)
    judged = judge_detections(truth, predictions)
    label_errors = find_label_errors(truth, predictions)
    numbers = measure_numbers(truth, predictions, evaluation.scores, errors)
    numbers = replace(numbers, mask_scores=evaluation.mask_scores)

    sections = [
        show_costs(numbers, folder),
        show_classes(truth, numbers, outcomes, rule, folder),
        show_scores(truth, numbers, judged, threshold, folder),
        show_masks(numbers, folder),
        show_recalls(evaluation.scores, evaluation.mask_scores),
        show_speed(speed),
        show_training(course, folder),
    ]
    page = Page(
        title=title,
        subtitle=_describe_split(evaluation.name, truth),
        numbers=_list_numbers(evaluation),
        lines=list_sentences(numbers),
        facts=facts or {},
        sections=sections,
        galleries=[
            *make_galleries(truth, errors, outcomes, at_threshold),
            make_label_gallery(truth, errors, label_errors),
        ],
        controls=SceneControls(threshold, truth.classes),
    )
    index = write_page(page, folder / "index.html")

    numbers_file = write_numbers(evaluation.name, numbers, folder / NUMBERS_FILE)
    plot_files = [plot for section in sections for plot in section.plots]
    label_files = write_label_error_files(truth, errors, label_errors, folder)
    image_files = draw_images(folder, truth, outcomes)
    training_files = [item.file for item in course.images]
    return [index, numbers_file, *label_files, *plot_files, *training_files, *image_files]


def _describe_split(name: str, truth: GroundTruth) -> str:
    boxes = sum(truth.count_boxes_per_class().values())
    return (
        f"{name} split: {len(truth.images):,} images, {boxes:,} boxes, {len(truth.classes)} classes"
    )


def _list_numbers(evaluation: SplitEvaluation) -> dict[str, float | None]:
    """Return the numbers on top of the page."""
    numbers = _list_means(evaluation.scores)
    masks = evaluation.mask_scores
    if masks is not None:
        numbers["mAP of masks"] = masks.mAP
        numbers["mAP of masks at IoU 0.50"] = masks.mAP_50
        numbers["mAP of masks at IoU 0.75"] = masks.mAP_75
    return numbers


def _list_means(scores: Scores) -> dict[str, float | None]:
    return {
        "mAP (IoU 0.50 to 0.95)": scores.mAP,
        "mAP at IoU 0.50": scores.mAP_50,
        "mAP at IoU 0.75": scores.mAP_75,
        "mAP, small (< 32² px)": scores.mAP_s,
        "mAP, medium": scores.mAP_m,
        "mAP, large (> 96² px)": scores.mAP_l,
    }

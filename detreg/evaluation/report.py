"""The report of one split: what the numbers are, where they come from, and pictures of what went right and wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detreg.evaluation.colors import CLASS_COLORS, class_color
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.outcomes import Outcome, confusion, outcomes
from detreg.evaluation.page import Gallery, GalleryItem, render
from detreg.evaluation.scores import ALL, IOU_50, Scores, coco_precision

if TYPE_CHECKING:
    from detreg.inference.detections import Detections

IOU = 0.5
MIN_SCORE = 0.3  # of a detection that counts in the confusion matrix and is drawn in the pictures
WORST, TYPICAL = 6, 4  # pictures; more would make the page too heavy for MLflow's viewer
RULE = f"Detections with a score of at least {MIN_SCORE}; found means IoU of at least {IOU}"


def write_report(
    folder: Path,
    *,
    title: str,
    split: str,
    truth: GroundTruth,
    predictions: Mapping[int, Detections],
    scores: Scores,
    history: Sequence[Mapping[str, float]] | None = None,
    facts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the plots, the pictures and index.html, which shows them all, into folder, and return the files.

    predictions are by image id; history holds the metrics of each epoch under the names that are logged (epoch, train/loss,
    train/lr, val/mAP ...); facts are shown as a table. Raises DataError where predictions and split have no class in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged = outcomes(truth, predictions, IOU, MIN_SCORE)
    plots = _write_plots(folder, truth, predictions, scores, judged, history or ())
    galleries = _write_galleries(folder, truth, judged)
    boxes = truth.boxes_per_class()
    subtitle = f"{split} split: {len(truth.pictures):,} pictures, {sum(boxes.values()):,} boxes, {len(truth.classes)} classes"
    page = folder / "index.html"
    colors = {name: class_color(label) for label, name in enumerate(truth.classes)}
    legend = colors if len(colors) <= len(CLASS_COLORS) else {}
    page.write_text(
        render(title, subtitle, _headline(scores), facts or {}, plots, galleries, legend),
        encoding="utf-8",
    )
    return [page, *plots, *(shown.file for gallery in galleries for shown in gallery.pictures)]


def _headline(scores: Scores) -> dict[str, float | None]:
    return {
        "mAP (IoU 0.50 to 0.95)": scores.mAP,
        "mAP at IoU 0.50": scores.mAP_50,
        "mAP at IoU 0.75": scores.mAP_75,
        "mAP, small (< 32² px)": scores.mAP_s,
        "mAP, medium": scores.mAP_m,
        "mAP, large (> 96² px)": scores.mAP_l,
    }


def _write_plots(
    folder: Path,
    truth: GroundTruth,
    predictions: Mapping[int, Detections],
    scores: Scores,
    judged: Mapping[int, Outcome],
    history: Sequence[Mapping[str, float]],
) -> list[Path]:
    from detreg.evaluation import (
        plots,  # matplotlib takes half a second, which commands without a report need not wait for
    )

    boxes = truth.boxes_per_class()
    curves = coco_precision(truth, predictions)[IOU_50, ..., ALL]
    return [
        *([plots.training(history, folder / "training.png")] if history else []),
        plots.per_class(scores.per_class, boxes, folder / "per_class.png"),
        plots.precision_recall(truth.classes, curves, boxes, folder / "precision_recall.png"),
        plots.confusion(truth.classes, confusion(truth, judged), RULE, folder / "confusion.png"),
    ]


def _write_galleries(
    folder: Path, truth: GroundTruth, judged: Mapping[int, Outcome]
) -> list[Gallery]:
    from detreg.evaluation import pictures

    def shown(kind: str, images: Sequence[int]) -> list[GalleryItem]:
        files = [folder / f"{kind}_{place}.jpg" for place in range(1, len(images) + 1)]
        return [
            GalleryItem(
                pictures.draw(truth.pictures[image], judged[image], file),
                truth.pictures[image].file.name,
                pictures.caption(judged[image]),
            )
            for image, file in zip(images, files, strict=True)
        ]

    worst = pictures.worst(judged, WORST)
    typical = pictures.typical(judged, TYPICAL, besides=worst)
    key = "Objects are dashed in white, detections have the color of their class; what is missed or wrong has a thick line."
    return [
        Gallery(
            "Typical pictures",
            f"With about as many errors as half of the pictures have. {key}",
            shown("typical", typical),
        ),
        Gallery(
            "Worst pictures",
            f"With most objects missed or confused and most false detections. {RULE}.",
            shown("worst", worst),
        ),
    ]

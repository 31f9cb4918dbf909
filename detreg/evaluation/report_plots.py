"""The report's sections of plots: where the mAP is lost, classes, scores, and the training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.evaluation.confusion_plot import plot_confusion
from detreg.evaluation.cost_plot import plot_error_costs
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.model_speed import TIME_LIMIT, ModelSpeed
from detreg.evaluation.outcomes import Outcome, count_confusion
from detreg.evaluation.plots import plot_per_class, plot_precision_recall, plot_training
from detreg.evaluation.score_curve import JudgedDetections
from detreg.evaluation.score_plot import plot_score_curves
from detreg.evaluation.scores import ALL, IOU_50, Scores
from detreg.evaluation.split_numbers import SplitNumbers
from detreg.report.section import Block, GalleryItem, Section

MEAN_NAMES = {
    "mAP": "mAP",
    "mAP_50": "at IoU 0.50",
    "mAP_75": "at IoU 0.75",
    "mAP_s": "small objects",
    "mAP_m": "medium objects",
    "mAP_l": "large objects",
}
RECALL_NAMES = {
    "AR_1": "1 detection",
    "AR_10": "10 detections",
    "AR_100": "100 detections",
    "AR_s": "small objects",
    "AR_m": "medium objects",
    "AR_l": "large objects",
}
"""COCO's average recalls over IoU 0.50 to 0.95, as the report calls them."""


@dataclass(frozen=True)
class TrainingCourse:
    """How a training went.

    history: the metrics of each epoch under the names that are logged (epoch, train/loss, train/lr,
    val/mAP ...).
    images: some images as the training saw them.
    metric: by which the best epoch was chosen, mAP or segm_mAP.
    """

    history: Sequence[Mapping[str, float]] = ()
    images: Sequence[GalleryItem] = ()
    metric: str = "mAP"


NO_TRAINING = TrainingCourse()


def show_costs(numbers: SplitNumbers, folder: Path) -> Section:
    """Return the section on what mending each kind of error would bring."""
    map_50 = numbers.scores.mAP_50
    if map_50 is None or not numbers.costs:
        return Section("Where the mAP is lost")
    return Section(
        "Where the mAP is lost",
        "What to mend first. The gains do not add up: each kind is mended alone, and every other "
        "error stays. Background errors are often objects that nobody has labeled.",
        plots=[plot_error_costs(numbers.costs, map_50, folder / "error_costs.png")],
    )


def show_classes(
    truth: GroundTruth,
    numbers: SplitNumbers,
    outcomes: Mapping[int, Outcome],
    rule: str,
    folder: Path,
) -> Section:
    """Return the section on each class and on which are taken for which; rule says at what."""
    scores, boxes = numbers.scores, numbers.boxes_per_class
    counts = count_confusion(truth, outcomes)
    intervals = numbers.class_intervals
    return Section(
        "Classes",
        plots=[
            plot_per_class(scores.per_class, boxes, folder / "per_class.png", intervals),
            plot_confusion(truth.classes, counts, rule, folder / "confusion.png"),
        ],
    )


def show_scores(
    truth: GroundTruth,
    numbers: SplitNumbers,
    judged: JudgedDetections,
    threshold: float,
    folder: Path,
) -> Section:
    """Return the section on precision and recall, and on the score threshold between them."""
    scores, boxes = numbers.scores, numbers.boxes_per_class
    curves = scores.precision[IOU_50, ..., ALL]
    recall_file = folder / "precision_recall.png"
    return Section(
        "Precision, recall and the threshold",
        plots=[
            plot_score_curves(judged, truth.classes, threshold, folder / "score_curves.png"),
            plot_precision_recall(truth.classes, curves, boxes, recall_file),
        ],
    )


def show_masks(numbers: SplitNumbers, folder: Path) -> Section:
    """Return the section on how well masks fit beside boxes, empty where there are none."""
    heading = "Masks"
    masks = numbers.mask_scores
    if masks is None:
        return Section(heading)
    rows = []
    for what, scores in (("boxes", numbers.scores), ("masks", masks)):
        values = {text: _format_score(getattr(scores, name)) for name, text in MEAN_NAMES.items()}
        rows.append({"": what, **values})
    plot_file = folder / "per_class_masks.png"
    boxes = numbers.boxes_per_class
    return Section(
        heading,
        "COCO's scores of masks beside those of boxes: an object is found where the pixels of a "
        "detection overlap its own by the IoU. The rest of the page judges boxes.",
        table=rows,
        plots=[plot_per_class(masks.per_class, boxes, plot_file, what="masks of each class")],
    )


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show_recalls(scores: Scores, mask_scores: Scores | None = None) -> Section:
    """Return the section with COCO's six average recalls; the six mAPs are on top of the page."""
    rows = [_list_recalls(scores)]
    if mask_scores is not None:
        rows = [{"": "boxes", **rows[0]}, {"": "masks", **_list_recalls(mask_scores)}]
    return Section(
        "Average recall",
        "COCO's other six numbers: the share of objects that are found, over IoU 0.50 to 0.95, by "
        "the best 1, 10 and 100 detections of an image, and by size.",
        table=rows,
    )


def _list_recalls(scores: Scores) -> dict[str, str]:
    recalls = scores.average_recall
    return {text: _format_score(recalls.get(name)) for name, text in RECALL_NAMES.items()}


def show_speed(speed: ModelSpeed | None) -> Section:
    """Return the section on the speed and size of the model, empty where it was not measured."""
    heading = "Speed and size"
    if speed is None:
        return Section(heading)
    rows = []
    for batch in speed.batches:
        rows.append(
            {
                "images in a batch": str(batch.batch_size),
                "median": f"{batch.median:.1f} ms",
                "99 % within": f"{batch.percentile_99:.1f} ms",
                "images per second": f"{1000 * batch.batch_size / batch.median:.1f}",
                "runs": str(batch.runs),
            }
        )
    size = "" if speed.num_bytes is None else f" The file has {speed.num_bytes / 1e6:.1f} MB."
    return Section(
        heading,
        f"The exported model on this machine ({speed.device}), from decoded images to boxes, in "
        f"about {TIME_LIMIT:g} s for each batch size; other programs on the machine slow it.{size}",
        table=rows,
    )


def show_training(course: TrainingCourse, folder: Path) -> Section:
    """Return the section on the course of the training, empty where there was none."""
    plots = []
    if course.history:
        plots.append(plot_training(course.history, folder / "training.png", course.metric))
    blocks = []
    if course.images:
        title = "The first images of the first epoch, as the training saw them"
        blocks.append(Block(title, items=course.images))
    return Section("Training", plots=plots, blocks=blocks)

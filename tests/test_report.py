"""The report's judgement of each image, and that the page it writes needs nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faster_coco_eval import COCOeval_faster

from detreg.evaluation.confusion_plot import plot_confusion
from detreg.evaluation.gallery import choose_typical, choose_worst, describe_outcome
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.outcomes import count_confusion, match_split
from detreg.evaluation.plots import plot_per_class, plot_precision_recall, plot_training
from detreg.evaluation.report import SplitEvaluation, write_report
from detreg.evaluation.report_plots import TrainingCourse
from detreg.evaluation.scores import score
from detreg.export.parity import measure_parity
from detreg.inference.detections import Detections
from detreg.report.controls import SCRIPT
from detreg.report.section import GalleryItem

Predictions = dict[int, Detections]

CLASSES = ("boat", "<b>&$x_1$", "été")
BOAT, ODD, SUMMER = 0, 1, 2

# Label, bbox (x, y, width, height) and iscrowd of each object by image id.
OBJECTS = {
    1: [
        (BOAT, [0, 0, 40, 40], 0),  # found
        (BOAT, [50, 0, 40, 40], 0),  # confused
        (BOAT, [0, 50, 20, 20], 0),  # missed
        (SUMMER, [50, 50, 50, 50], 1),
    ],
    2: [],
    3: [(ODD, [10, 10, 30, 30], 0)],
}

HISTORY = [
    {"epoch": 1, "train/loss": 3.0, "train/loss_cls": 1.0, "train/lr": 0.01, "val/mAP": 0.1},
    {"epoch": 2, "train/loss": 1.5, "train/loss_cls": 0.5, "train/lr": 0.01, "val/mAP": 0.2},
]


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    annotations: list[dict[str, Any]] = []
    images = []
    for image_id, objects in OBJECTS.items():
        file = tmp_path / f"{image_id}.png"
        cv2.imwrite(str(file), np.full((100, 120, 3), 40 * image_id, np.uint8))
        images.append({"id": image_id, "file_name": str(file), "width": 120, "height": 100})

        for label, bbox, crowd in objects:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": crowd,
            }
            annotations.append(annotation)

    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    return GroundTruth.load(
        {"images": images, "annotations": annotations, "categories": categories}
    )


def make_detections(*rows: tuple[int, float, list[int]]) -> Detections:
    """Make detections of rows of label, score and box (xyxy)."""
    labels = [label for label, _, _ in rows]
    scores = [score for _, score, _ in rows]
    boxes = [box for _, _, box in rows]
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        CLASSES,
    )


@pytest.fixture
def predictions() -> Predictions:
    # The first one is on the boat that its own class finds too: false, not confused.
    on_image_1 = make_detections(
        (ODD, 0.95, [0, 0, 40, 40]),
        (BOAT, 0.9, [1, 0, 41, 40]),
        (ODD, 0.8, [50, 2, 90, 42]),
        (SUMMER, 0.7, [60, 60, 70, 70]),  # in the crowd: neither right nor wrong
        (BOAT, 0.2, [0, 50, 20, 70]),  # below the threshold
    )
    return {1: on_image_1, 2: make_detections((SUMMER, 0.6, [5, 5, 30, 30]))}


def test_every_image_is_matched(truth: GroundTruth, predictions: Predictions) -> None:
    outcomes = match_split(truth, predictions, iou=0.5, min_score=0.3)

    assert list(outcomes) == [1, 2, 3]
    assert outcomes[1].found.tolist() == [[1, 0]]
    assert outcomes[1].confused.tolist() == [[2, 1]]
    assert outcomes[1].false.tolist() == [0]
    assert outcomes[1].missed.tolist() == [2]
    assert [outcome.errors for outcome in outcomes.values()] == [3, 1, 1]
    assert describe_outcome(outcomes[1]) == "1 found, 1 confused, 1 missed, 1 false"
    assert describe_outcome(outcomes[3]) == "0 found, 1 missed"


def test_confusion_has_actual_classes_as_rows_and_predicted_ones_as_columns(
    truth: GroundTruth, predictions: Predictions
) -> None:
    outcomes = match_split(truth, predictions, iou=0.5, min_score=0.3)
    counts = count_confusion(truth, outcomes)
    assert counts.tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]


def test_worst_images_come_first_and_those_without_errors_are_left_out(
    truth: GroundTruth, predictions: Predictions
) -> None:
    predictions[3] = make_detections((ODD, 0.9, [10, 10, 40, 40]))
    outcomes = match_split(truth, predictions, iou=0.5, min_score=0.3)
    assert choose_worst(outcomes, 6) == [1, 2]
    assert choose_worst(outcomes, 1) == [1]
    assert choose_typical(outcomes, 2, exclude=[1, 2]) == [3]


def test_a_report_is_one_page_that_needs_nothing_else(
    truth: GroundTruth, predictions: Predictions, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    augmented = folder / "training_1.jpg"
    cv2.imwrite(str(augmented), np.zeros((120, 120, 3), np.uint8))
    scores = score(truth, predictions)
    files = write_report(
        folder,
        "yolox & boats",
        SplitEvaluation("val", truth, predictions, scores),
        course=TrainingCourse(HISTORY, [GalleryItem(augmented, "64 x 64 px", "1 boat")]),
        facts={"run": "<script>alert(1)</script>"},
    )

    assert sorted(files) == sorted(folder.iterdir())
    plots = {"training.png", "per_class.png", "precision_recall.png", "confusion.png"}
    plots |= {"error_costs.png", "score_curves.png"}
    data = {"numbers.json", "label_errors.json", "label_studio.json", "proposed_labels.json"}
    galleries = {"worst_1.jpg", "worst_2.jpg", "worst_3.jpg", "training_1.jpg"}
    assert {file.name for file in files} == {"index.html"} | data | plots | galleries
    for file in [file for file in files if file.suffix in (".png", ".jpg")]:
        image = cv2.imread(str(file))
        assert image is not None, file
        assert min(image.shape[:2]) > 100, file

    page = files[0].read_text(encoding="utf-8")
    assert "yolox &amp; boats" in page
    assert "&lt;script&gt;" in page
    assert page.count("<script") == page.count(f"<script>{SCRIPT}</script>") == 1
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert f"<b>{scores.mAP:.3f}</b>" in page
    assert files[0].stat().st_size < 3_000_000


def test_a_report_shows_what_reaches_the_score_threshold(
    truth: GroundTruth, predictions: Predictions, tmp_path: Path
) -> None:
    scores = score(truth, predictions)
    evaluation = SplitEvaluation("val", truth, predictions, scores, score_threshold=0.85)
    page = write_report(tmp_path / "report", "title", evaluation)[0].read_text(encoding="utf-8")
    assert 'value="0.85' in page
    assert f"<b>{scores.mAP:.3f}</b>" in page


def test_a_split_is_scored_twice_for_parity_and_not_again_for_the_report(
    truth: GroundTruth,
    predictions: Predictions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorings: list[object] = []
    original = COCOeval_faster.evaluate

    def count_and_evaluate(evaluation: object) -> object:
        scorings.append(evaluation)
        return original(evaluation)

    monkeypatch.setattr(COCOeval_faster, "evaluate", count_and_evaluate)
    everywhere = {image_id: predictions.get(image_id, make_detections()) for image_id in OBJECTS}

    parity = measure_parity(truth, everywhere, everywhere)
    assert len(scorings) == 2
    evaluation = SplitEvaluation("val", truth, everywhere, parity.exported)
    write_report(tmp_path / "report", "title", evaluation, course=TrainingCourse(HISTORY))
    assert len(scorings) == 2


def test_a_report_can_show_no_detections_and_unreadable_images(
    truth: GroundTruth, tmp_path: Path
) -> None:
    for image in truth.images.values():
        image.file.unlink()
    evaluation = SplitEvaluation("val", truth, {}, score(truth, {}))
    files = write_report(tmp_path / "report", "title", evaluation)

    names = {file.name for file in files}
    assert names >= {"index.html", "worst_1.jpg", "typical_1.jpg"}
    assert "training.png" not in names


def test_of_many_classes_the_plots_show_a_choice(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(40)]
    rng = np.random.default_rng(0)
    curves = rng.random((101, 40))
    curves[:, 3] = -1
    precision = dict(zip(names, [None, *rng.random(39).tolist()], strict=True))
    boxes = dict.fromkeys(names, 3)
    counts = rng.integers(0, 9, (41, 41))

    files = [
        plot_per_class(precision, boxes, tmp_path / "per_class.png"),
        plot_precision_recall(names, curves, boxes, tmp_path / "precision_recall.png"),
        plot_confusion(names, counts, "note", tmp_path / "confusion.png"),
        plot_training([{"epoch": 1, "train/loss": 1.0}], tmp_path / "training.png"),
    ]
    for file in files:
        image = cv2.imread(str(file))
        assert image is not None, file
        assert max(image.shape[:2]) < 1400, file


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scores", {"matplotlib", "torch", "mlflow", "mmdet"}),
        ("report", {"torch", "mlflow", "mmdet"}),
    ],
)
def test_scores_and_report_import_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, detreg.evaluation.{module}; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

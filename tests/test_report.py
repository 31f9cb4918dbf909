"""The report's judgement of each picture, and that the page it writes needs nothing else."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from detreg.evaluation.confusion_plot import plot_confusion
from detreg.evaluation.gallery import choose_typical, choose_worst, describe_outcome
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.outcomes import count_confusion, match_split
from detreg.evaluation.plots import plot_per_class, plot_precision_recall, plot_training
from detreg.evaluation.report import SplitEvaluation, write_report
from detreg.evaluation.scores import score
from detreg.inference.detections import Detections

CLASSES = ("boat", "<b>&$x_1$", "été")
# Image 1: a boat found, a boat taken for class 1, a missed boat under no detection, a crowd. Image 2: empty.
OBJECTS = {
    1: [
        (0, [0, 0, 40, 40], 0),
        (0, [50, 0, 40, 40], 0),
        (0, [0, 50, 20, 20], 0),
        (2, [50, 50, 50, 50], 1),
    ],
    2: [],
    3: [(1, [10, 10, 30, 30], 0)],
}


@pytest.fixture
def truth(tmp_path):
    rows = [(image, *row) for image, objects in OBJECTS.items() for row in objects]
    annotations = [
        {
            "id": place,
            "image_id": image,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowd,
        }
        for place, (image, label, box, crowd) in enumerate(rows, 1)
    ]
    images = []
    for image in OBJECTS:
        file = tmp_path / f"{image}.png"
        cv2.imwrite(str(file), np.full((100, 120, 3), 40 * image, np.uint8))
        images.append({"id": image, "file_name": str(file), "width": 120, "height": 100})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    return GroundTruth.load(
        {"images": images, "annotations": annotations, "categories": categories}
    )


def found(*rows):
    boxes = np.array([row[2] for row in rows], dtype=np.float32).reshape(-1, 4)
    return Detections(
        boxes,
        np.array([r[1] for r in rows], np.float32),
        np.array([r[0] for r in rows], np.int64),
        CLASSES,
    )


@pytest.fixture
def predictions():
    return {
        1: found(
            (
                1,
                0.95,
                [0, 0, 40, 40],
            ),  # on the boat that its own class finds too: false, not confused
            (0, 0.9, [1, 0, 41, 40]),
            (1, 0.8, [50, 2, 90, 42]),
            (2, 0.7, [60, 60, 70, 70]),  # in the crowd: neither right nor wrong
            (0, 0.2, [0, 50, 20, 70]),  # below the threshold
        ),
        2: found((2, 0.6, [5, 5, 30, 30])),
    }


def test_outcomes_judge_every_picture(truth, predictions):
    judged = match_split(truth, predictions, iou=0.5, min_score=0.3)
    assert list(judged) == [1, 2, 3]
    assert judged[1].found.tolist() == [[1, 0]]
    assert judged[1].confused.tolist() == [[2, 1]]
    assert judged[1].false.tolist() == [0]
    assert judged[1].missed.tolist() == [2]
    assert [judged[image].errors for image in judged] == [3, 1, 1]
    assert describe_outcome(judged[1]) == "1 found, 1 confused, 1 missed, 1 false"
    assert describe_outcome(judged[3]) == "0 found, 1 missed"


def test_confusion_counts_objects_by_row_and_what_they_were_taken_for_by_column(truth, predictions):
    counts = count_confusion(truth, match_split(truth, predictions, iou=0.5, min_score=0.3))
    assert counts.tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]


def test_the_worst_pictures_come_first_and_flawless_ones_are_not_among_them(truth, predictions):
    perfect = {**predictions, 3: found((1, 0.9, [10, 10, 40, 40]))}
    judged = match_split(truth, perfect, iou=0.5, min_score=0.3)
    assert choose_worst(judged, 6) == [1, 2]
    assert choose_worst(judged, 1) == [1]
    assert choose_typical(judged, 2, exclude=[1, 2]) == [3]


HISTORY = [
    {
        "epoch": e,
        "train/loss": 3.0 / e,
        "train/loss_cls": 1.0 / e,
        "train/lr": 0.01,
        "val/mAP": 0.1 * e,
    }
    for e in (1, 2)
]


def test_write_report_makes_one_page_that_needs_nothing_else(truth, predictions, tmp_path):
    folder = tmp_path / "report"
    scores = score(truth, predictions)
    facts = {"run": "<script>alert(1)</script>"}
    files = write_report(
        folder,
        "yolox & boats",
        SplitEvaluation("val", truth, predictions, scores),
        history=HISTORY,
        facts=facts,
    )
    assert sorted(files) == sorted(folder.iterdir())
    assert {file.name for file in files} == {
        *("index.html", "training.png", "per_class.png", "precision_recall.png", "confusion.png"),
        *("worst_1.jpg", "worst_2.jpg", "worst_3.jpg"),
    }
    for file in files[1:]:
        assert min(cv2.imread(str(file)).shape[:2]) > 100, file
    page = files[0].read_text(encoding="utf-8")
    assert "yolox &amp; boats" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert f"<b>{scores.mAP:.3f}</b>" in page
    assert files[0].stat().st_size < 3_000_000


def test_a_report_of_nothing_and_of_unreadable_pictures(truth, tmp_path):
    for picture in truth.images.values():
        picture.file.unlink()
    files = write_report(
        tmp_path / "report",
        "t",
        SplitEvaluation("val", truth, {}, score(truth, {})),
    )
    assert {file.name for file in files} >= {"index.html", "worst_1.jpg", "typical_1.jpg"}
    assert not (tmp_path / "report" / "training.png").exists()


def test_of_many_classes_the_plots_show_a_choice(tmp_path):
    names = [f"class {n}" for n in range(40)]
    rng = np.random.default_rng(0)
    curves = rng.random((101, 40))
    curves[:, 3] = -1
    precision = dict(zip(names, [None, *rng.random(39).tolist()], strict=True))
    boxes = dict.fromkeys(names, 3)
    files = [
        plot_per_class(precision, boxes, tmp_path / "per_class.png"),
        plot_precision_recall(names, curves, boxes, tmp_path / "precision_recall.png"),
        plot_confusion(names, rng.integers(0, 9, (41, 41)), "note", tmp_path / "confusion.png"),
        plot_training([{"epoch": 1, "train/loss": 1.0}], tmp_path / "training.png"),
    ]
    for file in files:
        assert max(cv2.imread(str(file)).shape[:2]) < 1400


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scores", {"matplotlib", "torch", "mlflow", "mmdet"}),
        ("report", {"torch", "mlflow", "mmdet"}),
    ],
)
def test_scores_and_report_import_nothing_heavy(module, heavy):
    code = f"import sys, detreg.evaluation.{module}; print({heavy} & sys.modules.keys())"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )

"""Scores against pycocotools, the matching against brute force."""

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detreg.errors import DataError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.matching import (
    UNMATCHED,
    assign_greedily,
    assign_maximum,
    compute_iou,
    match_detections,
)
from detreg.evaluation.scores import MEANS, RECALLS, Scores, make_metric_names, score
from detreg.inference.detections import Detections

Floats = npt.NDArray[np.float64]

CLASSES = ("boat", "buoy", "crane", "dock")


def make_boxes(rng: np.random.Generator, count: int) -> Floats:
    corners = rng.uniform(0, 120, (count, 2))
    sizes = np.exp(rng.uniform(1.5, 5.2, (count, 2)))
    return np.concatenate([corners, corners + sizes], axis=1)


def make_detections(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: tuple[str, ...] = CLASSES,
) -> Detections:
    """Make detections in descending order of score."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.asarray(scores, dtype=np.float32)
    labels = np.asarray(labels, dtype=np.int64)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order], class_names)


NOTHING = make_detections([], [], [])


def make_split(seed: int, images: int = 12, crowds: float = 0.2) -> dict[str, Any]:
    """Return the content of a COCO file.

    Class `dock` never occurs, every fourth image is empty, and a share of the boxes are crowds.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        count = 0 if image_id % 4 == 0 else int(rng.integers(1, 7))
        for x1, y1, x2, y2 in make_boxes(rng, count):
            width, height = x2 - x1, y2 - y1
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(rng.integers(1, 4)),
                "bbox": [x1, y1, width, height],
                "area": width * height * 0.9,
                "iscrowd": int(rng.random() < crowds),
            }
            annotations.append(annotation)
    return {
        "images": [
            {"id": image_id, "file_name": f"/none/{image_id}.jpg", "width": 300, "height": 300}
            for image_id in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }


def make_predictions(content: dict[str, Any], seed: int) -> dict[int, Detections]:
    """Return jittered objects without some of them, double detections, and inventions.

    Scores lie on a coarse grid, so that many are equal. Every fifth image has no entry.
    """
    rng = np.random.default_rng(seed)
    predictions = {}
    for image_id, image in GroundTruth.load(content).images.items():
        if image_id % 5 == 0:
            continue
        count = len(image.boxes)
        chosen = np.flatnonzero(rng.random(2 * count) < 0.6) % max(count, 1)
        sizes = np.tile(image.boxes[chosen, 2:] - image.boxes[chosen, :2], 2)
        jittered = image.boxes[chosen] + rng.normal(0, 0.06, (len(chosen), 4)) * sizes
        has_right_class = rng.random(len(chosen)) < 0.85
        other_labels = rng.integers(0, 4, len(chosen))
        labels = np.where(has_right_class, image.labels[chosen], other_labels)

        boxes = np.concatenate([jittered, make_boxes(rng, 3)])
        labels = np.concatenate([labels, rng.integers(0, 4, 3)])
        scores = rng.integers(1, 20, len(boxes)) / 20
        predictions[image_id] = make_detections(boxes, scores, labels)
    return predictions


def score_with_pycocotools(
    content: dict[str, Any], predictions: dict[int, Detections]
) -> list[float]:
    """Return COCO's twelve numbers and the AP of each class, -1 where one is not defined."""
    rows = []
    for image_id, detections in predictions.items():
        columns = (detections.boxes.astype(float), detections.scores, detections.labels)
        for (x1, y1, x2, y2), value, label in zip(*columns, strict=True):
            row = {
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(value),
            }
            rows.append(row)

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()

    precision = evaluation.eval["precision"][..., 0, -1]
    per_class = []
    for label in range(len(CLASSES)):
        values = precision[..., label]
        defined = values[values > -1]
        per_class.append(defined.mean() if defined.size else -1)
    return [*evaluation.stats, *per_class]


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_pycocotools(seed: int) -> None:
    content = make_split(seed)
    predictions = make_predictions(content, seed + 100)

    scores = score(content, predictions)

    means = [getattr(scores, name) for name in MEANS]
    recalls = [scores.average_recall[name] for name in RECALLS]
    found = [*means, *recalls, *scores.per_class.values()]
    values = [-1 if value is None else value for value in found]
    expected = score_with_pycocotools(content, predictions)
    assert values == pytest.approx(expected, abs=1e-9, rel=0)
    assert scores.mAP is not None
    assert 0 < scores.mAP < 1
    assert scores.per_class["dock"] is None


def test_perfect_predictions_score_one() -> None:
    content = make_split(3, crowds=0)
    exact = {}
    for image_id, image in GroundTruth.load(content).images.items():
        exact[image_id] = make_detections(image.boxes, np.ones(len(image.boxes)), image.labels)
    assert score(content, exact).mAP == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("predictions", [{}, {1: NOTHING}])
def test_no_predictions_score_zero(predictions: dict[int, Detections]) -> None:
    scores = score(make_split(0), predictions)
    assert (scores.mAP, scores.mAP_50, scores.per_class["boat"]) == (0.0, 0.0, 0.0)


def test_a_split_without_boxes_has_no_score() -> None:
    predictions = make_predictions(make_split(0), 0)
    scores = score({**make_split(0), "annotations": []}, predictions)
    assert scores.mAP is None
    assert scores.as_metrics("val") == {}


def test_precision_must_fit_the_number_of_classes() -> None:
    with pytest.raises(
        ValueError, match=r"must have shape \(10, 101, 1, 4\), got \(10, 101, 2, 4\)"
    ):
        Scores(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, {"boat": 0.5}, np.zeros((10, 101, 2, 4)))


def test_a_ground_truth_loaded_once_scores_the_same_every_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = make_split(1)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    predictions = make_predictions(content, 1)

    truth = GroundTruth.load(path)
    first = score(truth, predictions)
    score(truth, make_predictions(content, 2))

    assert score(truth, predictions) == first
    assert score(path, predictions) == first
    assert capfd.readouterr() == ("", "")


def test_the_content_that_is_scored_stays_as_it_is() -> None:
    content = make_split(2)
    before = json.dumps(content)
    score(content, make_predictions(content, 2))
    assert json.dumps(content) == before


def test_classes_are_matched_by_name() -> None:
    content = make_split(4)
    predictions = make_predictions(content, 4)

    # The detector has the same classes in reverse order, after one that the data does not have.
    names = ("whale", "dock", "crane", "buoy", "boat")
    renamed = {5: make_detections([[0, 0, 9, 9]], [0.9], [0], names)}
    for image_id, detections in predictions.items():
        labels = 4 - detections.labels
        renamed[image_id] = make_detections(detections.boxes, detections.scores, labels, names)

    assert score(content, renamed) == score(content, predictions)


def test_a_detector_of_other_classes_is_refused() -> None:
    other = make_detections([[0, 0, 9, 9]], [0.9], [0], ("cat", "dog"))
    problem = "no class in common: the detector knows cat, dog, the data boat, buoy, crane, dock"
    with pytest.raises(DataError, match=problem):
        score(make_split(0), {1: other})


def test_predictions_of_unknown_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[99\]"):
        score(make_split(0), {99: NOTHING})


def test_metrics_have_names_that_mlflow_takes() -> None:
    per_class = {"a b": 0.5, "a+b": 0.25, "a/b": 1.0, "..": 0.125, "none": None}
    scores = Scores(0.5, 0.75, None, None, 0.25, 1.0, per_class, np.zeros((10, 101, 5, 4)))
    assert scores.as_metrics("val") == {
        "val/mAP": 0.5,
        "val/mAP_50": 0.75,
        "val/mAP_m": 0.25,
        "val/mAP_l": 1.0,
    }
    assert scores.as_metrics()["mAP"] == 0.5
    assert scores.as_class_metrics("val") == {
        "val/AP/a b": 0.5,
        "val/AP/a_b": 0.25,
        "val/AP/a_b_2": 1.0,
        "val/AP/__": 0.125,
    }


def test_metric_names_keep_what_is_allowed_and_are_unique() -> None:
    names = make_metric_names(["a*b", "a_b", "a_b_2", "a?b", "x" * 300, "x" * 301, "été"])
    assert (names["a_b"], names["a_b_2"], names["été"]) == ("a_b", "a_b_2", "été")
    assert len(set(names.values())) == len(names)
    assert max(map(len, names.values())) <= 102


def compute_iou_of_two(a: Floats, b: Floats) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return float(intersection / (area_a + area_b - intersection))


def match_by_brute_force(
    a: Detections, b: Detections, iou: float, tolerance: float | None
) -> list[list[int]]:
    """Give each detection of `a`, best first, the one of `b` that it overlaps most."""
    pairs: list[list[int]] = []
    taken: set[int] = set()
    for i in range(len(a)):
        best_iou, best_column = iou, None
        for j in range(len(b)):
            if j in taken or a.labels[i] != b.labels[j]:
                continue
            if tolerance is not None and abs(float(a.scores[i]) - float(b.scores[j])) > tolerance:
                continue
            overlap = compute_iou_of_two(a.boxes[i].astype(float), b.boxes[j].astype(float))
            if overlap >= best_iou:
                best_iou, best_column = overlap, j
        if best_column is not None:
            taken.add(best_column)
            pairs.append([i, best_column])
    return pairs


@pytest.mark.parametrize("tolerance", [None, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_matching_equals_brute_force(seed: int, tolerance: float | None) -> None:
    rng = np.random.default_rng(seed)
    boxes = make_boxes(rng, 25)
    labels = rng.integers(0, 2, 25)
    a = make_detections(boxes, rng.random(25), labels)

    # Two jittered copies of each box.
    jittered = np.repeat(boxes, 2, axis=0) + rng.normal(0, 4, (50, 4))
    jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
    b = make_detections(jittered, rng.random(50), np.repeat(labels, 2))

    pairs = match_detections(a, b, iou=0.5, score_tolerance=tolerance)
    assert pairs.tolist() == match_by_brute_force(a, b, 0.5, tolerance)
    assert len(pairs) > 3


@pytest.mark.parametrize("seed", range(20))
def test_as_many_rows_are_assigned_as_possible_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlap = np.where(rng.random((6, 5)) < 0.35, rng.uniform(0.5, 1.0, (6, 5)), 0.0)
    is_allowed = overlap >= 0.5
    most = 0
    for rows in itertools.permutations(range(6), 5):
        most = max(most, int(is_allowed[list(rows), range(5)].sum()))

    for _ in range(4):
        order = rng.permutation(6)
        assigned = assign_maximum(overlap[order], 0.5)
        matched = np.flatnonzero(assigned != UNMATCHED)
        assert len(matched) == most
        assert len(set(assigned[matched].tolist())) == most, "no two rows share a column"
        assert is_allowed[order][matched, assigned[matched]].all()


def test_a_row_moves_so_that_another_one_gets_a_column() -> None:
    """Greedily, the first row takes the only column that the second one overlaps."""
    overlap = np.array([[0.999, 0.995], [0.992, 0.0]])
    assert assign_greedily(overlap, 0.99).tolist() == [0, UNMATCHED]
    assert assign_maximum(overlap, 0.99).tolist() == [1, 0]


def test_tiny_boxes_of_equal_score_are_all_matched() -> None:
    # All corners are less than 0.1 pixels apart.
    a = make_detections([[50, 50, 50.5, 50.5], [50.08, 50, 50.58, 50.5]], [0.5, 0.5], [0, 0])
    b = make_detections([[50.05, 50, 50.55, 50.5], [49.95, 50, 50.45, 50.5]], [0.5, 0.5], [0, 0])
    for first, second in ((a, b), (b, a)):
        pairs = match_detections(
            first, second, iou=0.99, score_tolerance=0.001, corner_tolerance=0.1
        )
        assert len(pairs) == 2


def test_nothing_matches_nothing() -> None:
    one = make_detections([[0, 0, 9, 9]], [0.5], [1])
    assert match_detections(NOTHING, one).shape == (0, 2)
    assert match_detections(one, NOTHING).shape == (0, 2)
    assert match_detections(NOTHING, NOTHING).shape == (0, 2)
    assert match_detections(one, one).tolist() == [[0, 0]]


def test_a_crowd_takes_many_rows_but_only_those_that_no_object_takes() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [60, 60, 70, 70.0]])
    objects = np.array([[0, 0, 10, 10], [0, 0, 50, 50.0]])
    crowd = np.array([False, True])
    overlap = compute_iou(boxes, objects, crowd)
    assert overlap[:, 1].tolist() == [1, 1, 0]
    assert assign_greedily(overlap, 0.5, crowd).tolist() == [0, 1, UNMATCHED]


def test_boxes_without_area_overlap_nothing() -> None:
    point = np.array([[5, 5, 5, 5.0]])
    assert compute_iou(point, point).tolist() == [[0.0]]
    assert compute_iou(point, point, np.array([True])).tolist() == [[0.0]]

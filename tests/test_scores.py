"""Scores against pycocotools, the matching against brute force."""

import contextlib
import io
import itertools
import json

import numpy as np
import pytest

from detreg.errors import DataError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.matching import (
    UNMATCHED,
    assign_greedily,
    assign_maximum,
    compute_iou,
    match_detections,
)
from detreg.evaluation.scores import Scores, make_metric_names, score
from detreg.inference.detections import Detections

CLASSES = ("boat", "buoy", "crane", "dock")
MEANS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def boxes_of(rng, count):
    corners = rng.uniform(0, 120, (count, 2))
    return np.concatenate([corners, corners + np.exp(rng.uniform(1.5, 5.2, (count, 2)))], axis=1)


def detections(boxes, scores, labels, class_names=CLASSES):
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    return Detections(
        np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order],
        np.asarray(scores, dtype=np.float32)[order],
        np.asarray(labels, dtype=np.int64)[order],
        class_names,
    )


def random_split(seed, pictures=12, crowds=0.2):
    """Content of a COCO file in which class `dock` never occurs, every fourth picture is empty and some boxes are crowds."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, pictures + 1):
        for x1, y1, x2, y2 in boxes_of(rng, 0 if image % 4 == 0 else rng.integers(1, 7)):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(rng.integers(1, 4)),
                "bbox": box,
            }
            annotations.append(
                {**annotation, "area": box[2] * box[3] * 0.9, "iscrowd": int(rng.random() < crowds)}
            )
    return {
        "images": [
            {"id": image, "file_name": f"/none/{image}.jpg", "width": 300, "height": 300}
            for image in range(1, pictures + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }


def random_predictions(content, seed):
    """Jittered and dropped objects, double detections, inventions; scores on a coarse grid, so that many are equal."""
    rng = np.random.default_rng(seed)
    predictions = {}
    for image, picture in GroundTruth.load(content).images.items():
        if image % 5 == 0:
            continue
        kept = np.flatnonzero(rng.random(2 * len(picture.boxes)) < 0.6) % max(len(picture.boxes), 1)
        sizes = np.tile(picture.boxes[kept, 2:] - picture.boxes[kept, :2], 2)
        near = picture.boxes[kept] + rng.normal(0, 0.06, (len(kept), 4)) * sizes
        labels = np.where(
            rng.random(len(kept)) < 0.85, picture.labels[kept], rng.integers(0, 4, len(kept))
        )
        boxes = np.concatenate([near, boxes_of(rng, 3)])
        labels = np.concatenate([labels, rng.integers(0, 4, 3)])
        predictions[image] = detections(boxes, rng.integers(1, 20, len(boxes)) / 20, labels)
    return predictions


def pycocotools_scores(content, predictions):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = []
    for image, found in predictions.items():
        for box, value, label in zip(
            found.boxes.astype(float), found.scores, found.labels, strict=True
        ):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            rows.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": bbox,
                    "score": float(value),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class = [
        values[values > -1].mean() if (values > -1).any() else -1
        for values in evaluation.eval["precision"][..., 0, -1].transpose(2, 0, 1)
    ]
    return [*evaluation.stats[:6], *per_class]


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_pycocotools(seed):
    content = random_split(seed)
    predictions = random_predictions(content, seed + 100)
    ours = score(content, predictions)
    theirs = pycocotools_scores(content, predictions)
    values = [*(getattr(ours, name) for name in MEANS), *ours.per_class.values()]
    assert [-1 if value is None else value for value in values] == pytest.approx(
        theirs, abs=1e-9, rel=0
    )
    assert 0 < ours.mAP < 1
    assert ours.per_class["dock"] is None


def test_perfect_predictions_score_one():
    content = random_split(3, crowds=0)
    pictures = GroundTruth.load(content).images
    exact = {
        image: detections(p.boxes, np.ones(len(p.boxes)), p.labels) for image, p in pictures.items()
    }
    assert score(content, exact).mAP == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("predictions", [{}, {1: detections([], [], [])}])
def test_no_predictions_score_zero(predictions):
    scores = score(random_split(0), predictions)
    assert (scores.mAP, scores.mAP_50, scores.per_class["boat"]) == (0.0, 0.0, 0.0)


def test_a_split_without_boxes_has_no_score():
    content = {**random_split(0), "annotations": []}
    scores = score(content, random_predictions(random_split(0), 0))
    assert scores.mAP is None
    assert scores.as_metrics("val") == {}


def test_a_ground_truth_is_loaded_once_and_scores_the_same_every_time(tmp_path, capfd):
    content = random_split(1)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    truth = GroundTruth.load(path)
    first = score(truth, random_predictions(content, 1))
    score(truth, random_predictions(content, 2))
    assert (
        score(truth, random_predictions(content, 1))
        == first
        == score(path, random_predictions(content, 1))
    )
    assert capfd.readouterr() == ("", "")


def test_the_callers_content_stays_as_it_is():
    content = random_split(2)
    before = json.dumps(content)
    score(content, random_predictions(content, 2))
    assert json.dumps(content) == before


def test_classes_are_matched_by_name():
    content = random_split(4)
    predictions = random_predictions(content, 4)
    names = ("whale", "dock", "crane", "buoy", "boat")
    renamed = {
        image: detections(f.boxes, f.scores, 4 - f.labels, names)
        for image, f in predictions.items()
    }
    whale = detections([[0, 0, 9, 9]], [0.9], [0], names)
    assert score(content, {5: whale, **renamed}) == score(content, predictions)


def test_a_detector_of_other_classes_is_refused():
    with pytest.raises(
        DataError,
        match=r"no class in common: the detector knows cat, dog, the data boat, buoy, crane, dock",
    ):
        score(random_split(0), {1: detections([[0, 0, 9, 9]], [0.9], [0], ("cat", "dog"))})


def test_predictions_of_unknown_images_are_refused():
    with pytest.raises(ValueError, match=r"\[99\]"):
        score(random_split(0), {99: detections([], [], [])})


def test_metrics_have_names_that_mlflow_takes():
    scores = Scores(
        0.5,
        0.75,
        None,
        None,
        0.25,
        1.0,
        {"a b": 0.5, "a+b": 0.25, "a/b": 1.0, "..": 0.125, "none": None},
        np.zeros((10, 101, 5, 4)),
    )
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


def test_metric_names_keep_what_is_allowed_and_are_unique():
    names = make_metric_names(["a*b", "a_b", "a_b_2", "a?b", "x" * 300, "x" * 301, "été"])
    assert (names["a_b"], names["a_b_2"], names["été"]) == ("a_b", "a_b_2", "été")
    assert len(set(names.values())) == len(names)
    assert max(map(len, names.values())) <= 102


def brute_overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def brute_match(a, b, iou, tolerance):
    pairs, taken = [], set()
    for i in range(len(a)):
        best, chosen = iou, None
        for j in range(len(b)):
            near = tolerance is None or abs(float(a.scores[i]) - float(b.scores[j])) <= tolerance
            overlap = brute_overlap(a.boxes[i].astype(float), b.boxes[j].astype(float))
            if j not in taken and a.labels[i] == b.labels[j] and near and overlap >= best:
                best, chosen = overlap, j
        if chosen is not None:
            taken.add(chosen)
            pairs.append([i, chosen])
    return pairs


@pytest.mark.parametrize("tolerance", [None, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_match_equals_brute_force(seed, tolerance):
    rng = np.random.default_rng(seed)
    boxes, labels = boxes_of(rng, 25), rng.integers(0, 2, 25)
    a = detections(boxes, rng.random(25), labels)
    jittered = np.repeat(boxes, 2, axis=0) + rng.normal(0, 4, (50, 4))
    jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
    b = detections(jittered, rng.random(50), np.repeat(labels, 2))
    pairs = match_detections(a, b, iou=0.5, score_tolerance=tolerance)
    assert pairs.tolist() == brute_match(a, b, 0.5, tolerance)
    assert len(pairs) > 3


@pytest.mark.parametrize("seed", range(20))
def test_as_many_are_assigned_as_can_be_in_any_order(seed):
    rng = np.random.default_rng(seed)
    overlap = np.where(rng.random((6, 5)) < 0.35, rng.uniform(0.5, 1.0, (6, 5)), 0.0)
    fits = overlap >= 0.5
    most = max(sum(fits[list(rows), range(5)]) for rows in itertools.permutations(range(6), 5))
    for order in (rng.permutation(6) for _ in range(4)):
        assigned = assign_maximum(overlap[order], 0.5)
        rows = np.flatnonzero(assigned != UNMATCHED)
        assert len(rows) == len(set(assigned[rows].tolist())) == most
        assert fits[order][rows, assigned[rows]].all()


def test_a_row_makes_room_for_another_of_equal_score():
    """Greedily, the first row takes the only column that the second one overlaps."""
    overlap = np.array([[0.999, 0.995], [0.992, 0.0]])
    assert assign_greedily(overlap, 0.99).tolist() == [0, UNMATCHED]
    assert assign_maximum(overlap, 0.99).tolist() == [1, 0]

    one, two = [50, 50, 50.5, 50.5], [50.08, 50, 50.58, 50.5]  # tiny, and less than 0.1 px apart
    between, beside = [50.05, 50, 50.55, 50.5], [49.95, 50, 50.45, 50.5]
    a = detections([one, two], [0.5, 0.5], [0, 0])
    b = detections([between, beside], [0.5, 0.5], [0, 0])
    for first, second in ((a, b), (b, a)):
        pairs = match_detections(
            first, second, iou=0.99, score_tolerance=0.001, corner_tolerance=0.1
        )
        assert len(pairs) == 2


def test_match_of_nothing():
    nothing, one = detections([], [], []), detections([[0, 0, 9, 9]], [0.5], [1])
    assert (
        match_detections(nothing, one).shape
        == match_detections(one, nothing).shape
        == match_detections(nothing, nothing).shape
        == (0, 2)
    )
    assert match_detections(one, one).tolist() == [[0, 0]]


def test_a_crowd_takes_many_but_only_what_no_object_takes():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [60, 60, 70, 70.0]])
    objects = np.array([[0, 0, 10, 10], [0, 0, 50, 50.0]])
    crowd = np.array([False, True])
    overlap = compute_iou(boxes, objects, crowd)
    assert overlap[:, 1].tolist() == [1, 1, 0]
    assert assign_greedily(overlap, 0.5, crowd).tolist() == [0, 1, UNMATCHED]


def test_boxes_without_area_overlap_nothing():
    point = np.array([[5, 5, 5, 5.0]])
    assert (
        compute_iou(point, point, np.array([True])).tolist()
        == compute_iou(point, point).tolist()
        == [[0.0]]
    )

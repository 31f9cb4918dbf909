"""Why detections are wrong, and what mending each kind of error would bring."""

import contextlib
import io
from typing import Any

import hotcoco
import numpy as np
import pytest

from detreg.evaluation.error_costs import compute_error_costs, compute_map_50
from detreg.evaluation.error_kinds import MAX_PER_CLASS, ErrorKind, find_errors
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import score
from detreg.inference.detections import Detections

Predictions = dict[int, Detections]
CLASSES = ("boat", "buoy", "crane", "dock")
NAMES_IN_HOTCOCO = {
    ErrorKind.CLASSIFICATION: "Cls",
    ErrorKind.LOCALIZATION: "Loc",
    ErrorKind.BOTH: "Both",
    ErrorKind.DUPLICATE: "Dupe",
    ErrorKind.BACKGROUND: "Bkg",
    ErrorKind.MISSED: "Miss",
}


def make_detections(*rows: tuple[int, float, list[float]]) -> Detections:
    """Make detections of rows of label, score and box (xyxy), in descending order of score."""
    ordered = sorted(rows, key=lambda row: -row[1])
    return Detections(
        np.array([box for _, _, box in ordered], dtype=np.float32).reshape(-1, 4),
        np.array([value for _, value, _ in ordered], dtype=np.float32),
        np.array([label for label, _, _ in ordered], dtype=np.int64),
        CLASSES,
    )


def make_truth(objects: dict[int, list[tuple[int, list[float], int]]]) -> GroundTruth:
    """Make a split of objects by image: label, x, y, width and height, and iscrowd."""
    annotations: list[dict[str, Any]] = []
    for image_id, rows in objects.items():
        for label, bbox, crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": crowd,
                }
            )
    images = [
        {"id": image_id, "file_name": f"/none/{image_id}.jpg", "width": 400, "height": 400}
        for image_id in objects
    ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    return GroundTruth.load(
        {"images": images, "annotations": annotations, "categories": categories}
    )


def draw_split(seed: int, crowds: float, is_tied: bool) -> tuple[GroundTruth, Predictions]:
    """Draw 25 images with objects, jittered and confused detections of them, and inventions."""
    rng = np.random.default_rng(seed)
    objects: dict[int, list[tuple[int, list[float], int]]] = {}
    predictions = {}
    for image_id in range(1, 26):
        rows: list[tuple[int, list[float], int]] = []
        detections = []
        for _ in range(rng.integers(0, 8)):
            left, top, width, height = [*rng.uniform(0, 250, 2), *rng.uniform(10, 140, 2)]
            label = int(rng.integers(0, 3))
            rows.append((label, [left, top, width, height], int(rng.random() < crowds)))
            for _ in range(rng.integers(0, 4)):
                moved = rng.normal(0, 0.14, 4) * [width, height, width, height]
                box = np.array([left, top, left + width, top + height]) + moved
                box[2:] = np.maximum(box[2:], box[:2] + 1)
                guessed = label if rng.random() < 0.8 else int(rng.integers(0, 4))
                detections.append((guessed, float(rng.random()), box.tolist()))
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.uniform(0, 250, 2), rng.uniform(10, 140, 2)
            box = np.concatenate([corner, corner + size])
            detections.append((int(rng.integers(0, 4)), float(rng.random() * 0.6), box.tolist()))
        if is_tied:
            detections = [(label, round(value, 1), box) for label, value, box in detections]
        objects[image_id] = rows
        predictions[image_id] = make_detections(*detections)
    return make_truth(objects), predictions


def score_with_hotcoco(truth: GroundTruth, predictions: Predictions) -> dict[str, Any]:
    rows = []
    for image_id, detections in predictions.items():
        for row in detections.to_coco(image_id):
            label = row["category_id"]
            assert isinstance(label, int)
            rows.append({**row, "category_id": label + 1})
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = hotcoco.COCO(truth.coco.dataset)
        evaluation = hotcoco.COCOeval(annotated, annotated.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.tide_errors()


@pytest.mark.parametrize("seed", range(6))
def test_counts_and_gains_equal_those_of_hotcoco(seed: int) -> None:
    truth, predictions = draw_split(seed, crowds=0, is_tied=False)
    costs = compute_error_costs(truth, find_errors(truth, predictions))
    expected = score_with_hotcoco(truth, predictions)

    assert len(costs) == len(ErrorKind)
    assert [cost.gain for cost in costs] == sorted((cost.gain for cost in costs), reverse=True)
    for cost in costs:
        name = NAMES_IN_HOTCOCO[cost.kind]
        assert cost.count == expected["counts"].get(name, 0), name
        assert cost.gain == pytest.approx(expected["delta_ap"][name], abs=1e-9), name


@pytest.mark.parametrize("seed", range(4))
def test_gains_start_from_the_map_that_is_reported(seed: int) -> None:
    # With crowds and equal scores, too, where hotcoco and TIDE's own program count otherwise.
    truth, predictions = draw_split(seed, crowds=0.2, is_tied=True)
    found = compute_map_50(truth, find_errors(truth, predictions))
    assert found == pytest.approx(score(truth, predictions).mAP_50, abs=1e-9)


def test_each_kind_is_told_apart() -> None:
    truth = make_truth(
        {
            1: [
                (0, [0, 0, 40, 40], 0),
                (0, [100, 0, 40, 40], 0),
                (1, [200, 0, 40, 40], 0),
                (1, [300, 0, 40, 40], 0),
                (2, [0, 200, 100, 100], 1),
            ]
        }
    )
    predictions = {
        1: make_detections(
            (0, 0.95, [0, 0, 40, 40]),
            (0, 0.90, [1, 0, 41, 40]),
            (0, 0.85, [120, 0, 160, 40]),
            (0, 0.80, [200, 0, 240, 40]),
            (2, 0.75, [220, 0, 260, 40]),
            (2, 0.70, [10, 210, 30, 230]),
            (0, 0.65, [0, 320, 40, 360]),
            (2, 0.60, [200, 0, 240, 40]),
        )
    }
    errors = find_errors(truth, predictions)[1]
    assert errors.kinds.tolist() == [
        "found",
        "duplicate",
        "localization",
        "classification",
        "both",
        "ignored",
        "background",
        "classification",
    ]
    assert errors.objects.tolist() == [0, 0, 1, 2, 2, -1, -1, 2]
    # Of two that could be corrected to the same object, the better one would be.
    assert np.flatnonzero(errors.can_correct).tolist() == [2, 3]
    assert errors.found_by.tolist() == [0, -1, -1, -1, -1]
    assert np.flatnonzero(errors.is_missed).tolist() == [3]


def test_a_class_that_is_missed_altogether_could_be_found() -> None:
    truth = make_truth({1: [(0, [0, 0, 40, 40], 0), (1, [100, 0, 40, 40], 0)]})
    predictions = {1: make_detections((0, 0.9, [0, 0, 40, 40]))}
    costs = compute_error_costs(truth, find_errors(truth, predictions))
    assert (costs[0].kind, costs[0].count, costs[0].gain) == (ErrorKind.MISSED, 1, 0.5)
    assert sum(cost.gain for cost in costs[1:]) == 0


def test_what_coco_does_not_score_is_no_error() -> None:
    rows = [(0, 0.9 - place / 1000, [0.0, 200, 40, 240]) for place in range(MAX_PER_CLASS + 5)]
    truth = make_truth({1: [(0, [0, 0, 40, 40], 0)], 2: []})
    errors = find_errors(truth, {1: make_detections(*rows)})
    assert (errors[1].kinds == "background").sum() == MAX_PER_CLASS
    assert (errors[1].kinds == "ignored").sum() == 5
    assert len(errors[2].kinds) == 0


def test_a_split_without_objects_loses_nothing() -> None:
    truth = make_truth({1: []})
    errors = find_errors(truth, {1: make_detections((0, 0.9, [0, 0, 9, 9]))})
    assert compute_error_costs(truth, errors) == ()
    assert compute_map_50(truth, errors) is None

"""Precision, recall and F1 against the score, on detections whose judgement is known."""

from typing import Any

import numpy as np
import pytest
from test_scores import NOTHING, make_detections, make_predictions, make_split

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.score_curve import (
    JudgedDetections,
    compute_score_curve,
    judge_detections,
)
from detreg.inference.detections import Detections

BOXES = [[0, 0, 50, 50], [100, 0, 150, 50], [0, 100, 50, 150]]
"""Three objects apart from one another."""
ELSEWHERE = [200, 200, 250, 250]


def make_image(labels: list[int], crowd: list[int]) -> dict[str, Any]:
    """Return a split of one image with an object for each label, in the places of BOXES."""
    content = make_split(0, images=1)
    annotations = []
    for place, (label, is_crowd) in enumerate(zip(labels, crowd, strict=True)):
        x1, y1, x2, y2 = BOXES[place]
        annotation = {
            "id": place + 1,
            "image_id": 1,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": 2500,
            "iscrowd": is_crowd,
        }
        annotations.append(annotation)
    return {**content, "annotations": annotations}


def judge(content: dict[str, Any], predictions: dict[int, Detections]) -> JudgedDetections:
    return judge_detections(GroundTruth.load(content), predictions)


def test_a_detection_is_right_that_finds_an_object_first() -> None:
    content = make_image(labels=[0, 0, 1], crowd=[0, 0, 1])
    found = make_detections(
        boxes=[BOXES[0], BOXES[0], BOXES[1], ELSEWHERE, BOXES[2]],
        scores=[0.9, 0.8, 0.7, 0.6, 0.5],
        labels=[0, 0, 1, 0, 1],
    )
    judged = judge(content, {1: found})

    # The second is a duplicate, the third of another class; the last is on a crowd.
    assert judged.scores == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert judged.is_right.tolist() == [True, False, False, False]
    assert judged.num_objects.tolist() == [[2, 0, 0, 0]]

    curve = compute_score_curve(judged)
    assert curve.precision == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert curve.recall == pytest.approx([1 / 2] * 4)
    assert curve.f1 == pytest.approx([2 / 3, 2 / 4, 2 / 5, 2 / 6])
    assert curve.find_gains().tolist() == [0]

    assert judged.select_class(1).num_objects.sum() == 0
    assert judged.select_class(1).scores == pytest.approx([0.7])


def test_equal_scores_are_kept_or_dropped_together() -> None:
    content = make_image(labels=[0, 0, 0], crowd=[0, 0, 0])
    found = make_detections([*BOXES[:2], ELSEWHERE], [0.5, 0.5, 0.5], [0, 0, 0])
    curve = compute_score_curve(judge(content, {1: found}))
    assert curve.scores == pytest.approx([0.5])
    assert curve.precision == pytest.approx([2 / 3])
    assert curve.recall == pytest.approx([2 / 3])


def test_as_many_detections_of_an_image_count_as_are_served() -> None:
    content = make_image(labels=[0], crowd=[0])
    boxes = [*[ELSEWHERE] * 100, BOXES[0]]
    # COCO's limit of 100 is for each class; this one is for all of them.
    found = make_detections(boxes, np.linspace(0.9, 0.1, 101), [1] * 100 + [0])
    judged = judge(content, {1: found})
    assert len(judged) == 100
    assert not judged.is_right.any()


@pytest.mark.parametrize("predictions", [{}, {1: NOTHING}])
def test_nothing_found_has_empty_curves(predictions: dict[int, Detections]) -> None:
    judged = judge(make_split(0), predictions)
    curve = compute_score_curve(judged)
    assert len(curve.scores) == len(curve.f1) == len(curve.find_gains()) == 0
    assert judged.num_objects.sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_lower_threshold_never_loses_an_object(seed: int) -> None:
    """The promise of a recall needs it. Judged anew over a threshold, the same is right."""
    content = make_split(seed)
    truth = GroundTruth.load(content)
    predictions = make_predictions(content, seed + 100)
    judged = judge_detections(truth, predictions)

    missed = []
    for threshold in np.linspace(1, 0, 11):
        kept = {image: found.filter(float(threshold)) for image, found in predictions.items()}
        anew = judge_detections(truth, kept)
        is_kept = judged.scores >= np.float32(threshold)
        assert anew.is_right.tolist() == judged.is_right[is_kept].tolist()
        found_in_image = np.bincount(anew.images[anew.is_right], minlength=len(anew.num_objects))
        missed.append(anew.objects_per_image - found_in_image)
    assert (np.diff(missed, axis=0) <= 0).all()

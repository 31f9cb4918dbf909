"""MMDetection's predictions become detections, which are scored after each epoch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detreg.training.metrics import CocoScores, convert_predictions

CLASSES = ("boat", "house")


def make_sample(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Any]:
    """Return predictions for an image of 60x40 px, as MMDetection hands them to an evaluator."""
    instances = {
        "bboxes": torch.tensor(boxes),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
    }
    return {"img_id": 1, "ori_shape": (40, 60), "pred_instances": instances}


def test_detections_are_clipped_and_best_first() -> None:
    sample = make_sample([[0, 0, 10, 10], [-5, -5, 99, 99]], [0.2, 0.9], [0, 1])
    detections = convert_predictions(sample, CLASSES)
    assert detections.boxes.tolist() == [[0, 0, 60, 40], [0, 0, 10, 10]]
    assert detections.scores.tolist() == pytest.approx([0.9, 0.2])
    assert detections.labels.tolist() == [1, 0]
    assert detections.class_names == CLASSES


def test_equal_scores_keep_their_order_up_to_the_limit() -> None:
    boxes = [[0.0, 0.0, 10.0 + number, 10.0] for number in range(4)]
    sample = make_sample(boxes, [0.5] * 4, [0] * 4)
    assert convert_predictions(sample, CLASSES, limit=2).boxes[:, 2].tolist() == [10, 11]
    assert len(convert_predictions(sample, CLASSES, limit=None)) == 4


def test_masks_go_with_their_boxes() -> None:
    sample = make_sample([[0, 0, 10, 10], [-5, -5, 99, 99]], [0.2, 0.9], [0, 1])
    sample["pred_instances"]["masks"] = torch.stack([torch.zeros(28, 28), torch.ones(28, 28)])
    masks = convert_predictions(sample, CLASSES).masks
    assert masks is not None
    assert masks.boxes.tolist() == [[-5, -5, 99, 99], [0, 0, 10, 10]]
    assert masks.to_arrays().all(axis=(1, 2)).tolist() == [True, False]


def make_metric(folder: Path, **of_annotation: object) -> CocoScores:
    """Return the scores of a split with one object, a house."""
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [5, 5, 20, 30],
        "area": 600,
        "iscrowd": 0,
        **of_annotation,
    }
    content = {
        "images": [{"id": 1, "file_name": "/x.jpg", "width": 60, "height": 40}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "boat"}, {"id": 2, "name": "house"}],
    }
    annotations = folder / "val.json"
    annotations.write_text(json.dumps(content))

    metric = CocoScores(str(annotations))
    metric.dataset_meta = {"classes": CLASSES}
    return metric


@pytest.mark.parametrize(("label", "expected"), [(1, 1.0), (0, 0.0)])
def test_scores_compare_with_the_annotations(tmp_path: Path, label: int, expected: float) -> None:
    metric = make_metric(tmp_path)
    metric.process(None, [make_sample([[5, 5, 25, 35]], [0.8], [label])])
    scores = metric.evaluate(1)
    assert scores["val/mAP"] == pytest.approx(expected)
    assert not [name for name in scores if "segm" in name]


def test_masks_are_scored_beside_boxes(tmp_path: Path) -> None:
    """The box is right. Its mask is the upper half of what the object's is, so its IoU is 0.5."""
    metric = make_metric(tmp_path, segmentation=[[5, 5, 25, 5, 25, 35, 5, 35]])
    sample = make_sample([[5, 5, 25, 35]], [0.8], [1])
    mask = torch.zeros(1, 28, 28)
    mask[:, :14] = 1
    sample["pred_instances"]["masks"] = mask
    metric.process(None, [sample])
    scores = metric.evaluate(1)
    assert scores["val/mAP"] == pytest.approx(1.0)
    assert scores["val/segm_mAP_50"] == pytest.approx(1.0)
    assert scores["val/segm_mAP"] == pytest.approx(0.1)

"""Scores of masks against pycocotools."""

import contextlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detreg.evaluation.bootstrap import MatchedDetections
from detreg.evaluation.coco_matches import encode_masks
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import (
    ALL,
    MEANS,
    MEDIUM,
    RECALLS,
    SMALL,
    score,
    score_masks,
    score_masks_if_any,
)
from detreg.inference.detections import Detections

CLASSES = ("date", "fig", "hazelnut")
WIDTH, HEIGHT = 160, 120
IMAGES = 8


def draw_polygon(rng: np.random.Generator) -> list[float]:
    """Return a polygon somewhere in the image."""
    center = rng.uniform(30, (WIDTH - 30, HEIGHT - 30))
    angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
    radii = rng.uniform(6, 29, 14)
    points = center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return np.round(points, 2).reshape(-1).tolist()


def make_annotation(rng: np.random.Generator, number: int, image_id: int) -> dict[str, Any]:
    """Return an object of one polygon or two, a crowd of a run-length code, or one without mask."""
    polygons = [draw_polygon(rng) for _ in range(rng.integers(1, 3))]
    points = np.reshape(np.concatenate(polygons), (-1, 2))
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    annotation = {
        "id": number,
        "image_id": image_id,
        "category_id": int(rng.integers(1, 4)),
        "bbox": [left, top, right - left, bottom - top],
        "area": float((right - left) * (bottom - top)) * 0.7,
        "iscrowd": 0,
        "segmentation": polygons,
    }
    if number % 7 == 0:
        code = reference.merge(reference.frPyObjects(polygons, HEIGHT, WIDTH))
        annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
        annotation["iscrowd"] = 1
    elif number % 5 == 0:
        del annotation["segmentation"]
    return annotation


def make_split(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, IMAGES):  # nothing is on the last
        for _ in range(rng.integers(2, 7)):
            annotations.append(make_annotation(rng, len(annotations) + 1, image_id))
    images = [
        {"id": number, "file_name": f"/{number}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in range(1, IMAGES + 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detect(image_boxes: Any, labels: Any, rng: np.random.Generator) -> Detections:
    """Return detections near some boxes, with round masks; some of their boxes leave the image."""
    chosen = rng.integers(0, len(image_boxes), 9) if len(image_boxes) else np.zeros(0, np.int64)
    boxes = (image_boxes[chosen] + rng.normal(0, 4, (len(chosen), 4))).astype(np.float32)
    rows, columns = np.indices((28, 28)) - 13.5
    radii = rng.uniform(9, 16, len(chosen))[:, None, None]
    probabilities = 1 / (1 + np.exp(np.hypot(rows, columns) - radii))
    scores = np.sort(rng.integers(1, 9, len(chosen)) / 10)[::-1].astype(np.float32)
    return Detections.clip_to_image(
        boxes, scores, labels[chosen], CLASSES, (WIDTH, HEIGHT), probabilities
    )


def make_predictions(truth: GroundTruth, seed: int) -> dict[int, Detections]:
    rng = np.random.default_rng(seed)
    return {
        image_id: detect(image.boxes, image.labels, rng) for image_id, image in truth.images.items()
    }


def score_with_pycocotools(
    content: dict[str, Any], predictions: dict[int, Detections]
) -> list[float]:
    """Return COCO's twelve numbers; an object without a mask is a crowd in its box."""
    for annotation in content["annotations"]:
        if "segmentation" not in annotation:
            x, y, width, height = annotation["bbox"]
            right, bottom = x + width, y + height
            annotation["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
            annotation["iscrowd"] = 1

    rows = []
    for image_id, found in predictions.items():
        assert found.masks is not None
        arrays = found.masks.to_arrays().transpose(1, 2, 0)
        codes = reference.encode(np.asfortranarray(arrays.astype(np.uint8)))
        for code, value, label in zip(codes, found.scores, found.labels, strict=True):
            row = {"image_id": image_id, "category_id": int(label) + 1, "score": float(value)}
            rows.append({**row, "segmentation": code})

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_masks_equal_pycocotools(seed: int) -> None:
    content = make_split(seed)
    before = json.dumps(content)
    truth = GroundTruth.load(content)
    predictions = make_predictions(truth, seed + 100)
    of_boxes = score(truth, predictions)

    scores = score_masks(truth, predictions)
    means = [getattr(scores, name) for name in MEANS]
    recalls = [scores.average_recall[name] for name in RECALLS]
    found = [-1 if value is None else value for value in [*means, *recalls]]
    assert json.dumps(content) == before
    expected = score_with_pycocotools(content, predictions)
    assert found == pytest.approx(expected, abs=1e-9, rel=0)
    assert 0 < means[0] < 1

    assert score_masks(truth, predictions) == scores
    assert score(truth, predictions) == of_boxes
    assert of_boxes.mAP != scores.mAP


def test_metrics_of_masks_have_names_of_their_own() -> None:
    truth = GroundTruth.load(make_split(0))
    scores = score_masks(truth, make_predictions(truth, 0))
    assert scores.as_metrics("val")["val/segm_mAP_50"] == scores.mAP_50
    assert scores.as_class_metrics("val")["val/segm_AP/fig"] == scores.per_class["fig"]


def test_masks_are_scored_where_split_and_predictions_have_some() -> None:
    content = make_split(0)
    truth = GroundTruth.load(content)
    predictions = make_predictions(truth, 0)
    assert truth.has_masks
    assert truth.images[1].masks is not None
    assert score_masks_if_any(truth, predictions) == score_masks(truth, predictions)

    boxes_only = {number: replace(found, masks=None) for number, found in predictions.items()}
    assert score_masks_if_any(truth, boxes_only) is None
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    without = GroundTruth.load(content)
    assert without.images[1].masks is None
    assert score_masks_if_any(without, predictions) is None
    with pytest.raises(ValueError, match="must have masks"):
        score_masks(without, predictions)


@pytest.mark.parametrize("seed", range(4))
def test_matched_masks_score_the_same(seed: int) -> None:
    truth = GroundTruth.load(make_split(seed))
    predictions = make_predictions(truth, seed + 100)
    expected = score_masks(truth, predictions)
    matched = MatchedDetections.match(truth, predictions, by_masks=True)
    for area, name in ((ALL, "mAP"), (SMALL, "mAP_s"), (MEDIUM, "mAP_m")):
        value = getattr(expected, name)
        wanted = np.nan if value is None else value
        assert matched.score_split(area).mean_ap == pytest.approx([wanted], abs=1e-9, nan_ok=True)


def test_codes_are_those_of_the_masks() -> None:
    truth = GroundTruth.load(make_split(1))
    for found in make_predictions(truth, 1).values():
        assert found.masks is not None
        codes = encode_masks(found.masks)
        for code, mask in zip(codes, found.masks.to_run_lengths(), strict=True):
            assert code == {"size": [HEIGHT, WIDTH], "counts": str(mask.counts).encode()}

"""Masks in a report: their scores beside those of boxes, and where they are drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detreg.data.dataset import load_dataset
from detreg.data.sample import write_sample
from detreg.evaluation.error_kinds import find_errors
from detreg.evaluation.gallery import draw_outcome
from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.outcomes import match_image
from detreg.evaluation.report import SplitEvaluation, write_report
from detreg.evaluation.report_plots import show_masks
from detreg.evaluation.scenes import make_image_scene
from detreg.evaluation.scores import score, score_masks
from detreg.evaluation.split_numbers import measure_numbers, write_numbers
from detreg.inference.detections import Detections
from detreg.inference.masks import Masks
from detreg.mask_patches import cut_patch

Predictions = dict[int, Detections]
SIZE = (192, 160)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    """Return the val split of a small drawn sample with masks."""
    folder = tmp_path_factory.mktemp("report") / "data"
    write_sample(folder, images=12, size=SIZE, masks=True)
    return GroundTruth.load(load_dataset(folder, masks=True).splits["val"].annotations)


def find_objects(image: TruthImage, classes: tuple[str, ...]) -> Detections:
    """Return detections of the objects of an image but the last one, with their masks."""
    assert image.masks is not None
    count = max(len(image.boxes) - 1, 0)
    grids = np.zeros((count, 28, 28), np.float32)
    for grid, mask in zip(grids, image.masks, strict=False):
        assert mask is not None
        patch = cut_patch(mask)
        resized = cv2.resize(patch.pixels.astype(np.float32), (28, 28))
        grid[:] = resized
    scores = np.linspace(0.9, 0.6, count).astype(np.float32)
    boxes = image.boxes[:count].astype(np.float32)
    size = (image.width, image.height)
    return Detections.clip_to_image(boxes, scores, image.labels[:count], classes, size, grids)


@pytest.fixture(scope="module")
def predictions(truth: GroundTruth) -> Predictions:
    return {key: find_objects(image, truth.classes) for key, image in truth.images.items()}


def test_masks_are_scored_and_drawn_beside_boxes(
    truth: GroundTruth, predictions: Predictions, tmp_path: Path
) -> None:
    scores = score(truth, predictions)
    of_masks = score_masks(truth, predictions)
    assert of_masks.mAP is not None and of_masks.mAP > 0.4
    evaluation = SplitEvaluation("val", truth, predictions, scores, mask_scores=of_masks)
    files = write_report(tmp_path / "report", "title", evaluation)
    page = files[0].read_text(encoding="utf-8")
    assert "<h2>Masks</h2>" in page and f"<b>{of_masks.mAP:.3f}</b>" in page
    assert "per_class_masks.png" in {file.name for file in files}

    # Every object of the whole images has a mask, and so has every detection.
    boxes = re.findall(r'<g class="box[a-z ]*" data-(?:score|found)[^>]*>.*?</g>', page)
    aside = [box for box in boxes if "aside" in box]
    meant = [box for box in boxes if "aside" not in box]
    assert meant and all('<path class="mask" d="M' in box for box in meant)
    assert not any("<path" in box for box in aside)

    numbers = json.loads((tmp_path / "report/numbers.json").read_bytes())
    assert numbers["means"]["segm_mAP"] == of_masks.mAP
    assert numbers["means"]["mAP"] == scores.mAP
    for name, figures in numbers["classes"].items():
        assert figures["segm_AP"] == of_masks.per_class[name]


def test_a_report_of_boxes_says_nothing_of_masks(
    truth: GroundTruth, predictions: Predictions, tmp_path: Path
) -> None:
    boxes = {key: replace(found, masks=None) for key, found in predictions.items()}
    errors = find_errors(truth, boxes)
    numbers = measure_numbers(truth, boxes, score(truth, boxes), errors)
    assert show_masks(numbers, tmp_path).is_empty
    assert "segm" not in write_numbers("val", numbers, tmp_path / "numbers.json").read_text()

    image_id, image = next(iter(truth.images.items()))
    scene = make_image_scene(replace(image, masks=None), errors[image_id], truth.classes)
    assert scene.objects and scene.detections
    assert not any(item.mask for item in scene.objects)
    assert not any(box.mask for box in scene.detections)


def test_masks_are_tinted_in_images_to_be_passed_on(
    truth: GroundTruth, predictions: Predictions, tmp_path: Path
) -> None:
    image_id = max(truth.images, key=lambda key: len(truth.images[key].boxes))
    image, found = truth.images[image_id], predictions[image_id]
    outcome = match_image(image, found, 0.5, 0.3)
    assert len(outcome.missed) == 1 and image.masks is not None

    without = replace(outcome, detections=replace(found, masks=None))
    drawn = []
    for name, each in (("with", outcome), ("without", without)):
        file = draw_outcome(image, each, tmp_path / f"{name}.jpg")
        pixels = cv2.imread(str(file))
        assert pixels is not None
        drawn.append(pixels.astype(int))
    plain = draw_outcome(replace(image, masks=None), without, tmp_path / "plain.jpg")
    drawn.append(cv2.imread(str(plain)).astype(int))  # type: ignore[union-attr]

    # The pages scale images: places in the middle of a mask.
    scale = drawn[0].shape[1] / image.width
    first_found, missed = image.masks[0], image.masks[int(outcome.missed[0])]
    for mask, one, other in ((first_found, 0, 1), (missed, 1, 2)):
        assert mask is not None
        patch = cut_patch(mask)
        ys, xs = np.nonzero(patch.pixels)
        y, x = ((ys + patch.top) * scale).astype(int), ((xs + patch.left) * scale).astype(int)
        change = np.abs(drawn[one][y, x] - drawn[other][y, x]).sum(axis=1)
        assert np.median(change) > 20


def test_a_mask_of_noise_takes_little_room_on_a_page(
    truth: GroundTruth, predictions: Predictions
) -> None:
    image_id = max(truth.images, key=lambda key: len(truth.images[key].boxes))
    image, found = truth.images[image_id], predictions[image_id].filter(max_detections=1)
    grids = np.random.default_rng(0).random((1, 28, 28)).astype(np.float16)
    boxes = np.array([[0, 0, *SIZE]], np.float32)
    noisy = replace(found, boxes=boxes, masks=Masks(grids, boxes, SIZE))
    assert noisy.masks is not None
    (exact,) = noisy.masks.to_polygons()

    errors = find_errors(truth, {image_id: noisy})
    (detection,) = make_image_scene(image, errors[image_id], truth.classes).detections
    numbers = [number for polygon in detection.mask for number in polygon]
    assert 0 < len(numbers) < 1500 < sum(map(len, exact))
    assert min(numbers) >= 0 and max(numbers[::2]) <= SIZE[0] and max(numbers[1::2]) <= SIZE[1]

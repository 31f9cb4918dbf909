"""Scores of resamples: the split itself, resamples made of copies, swapped models."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_scores import CLASSES, make_predictions, make_split

from detreg.evaluation.bootstrap import (
    MatchedDetections,
    compute_interval,
    draw_image_counts,
    join_matches,
)
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import ALL, LARGE, MEDIUM, SMALL, score
from detreg.inference.detections import Detections


def match(content: dict[str, Any], predictions: dict[int, Detections]) -> MatchedDetections:
    return MatchedDetections.match(GroundTruth.load(content), predictions)


@pytest.mark.parametrize("seed", range(12))
def test_the_split_itself_scores_as_by_coco(seed: int) -> None:
    content = make_split(seed, images=30)
    predictions = make_predictions(content, seed + 100)

    expected = score(content, predictions)
    matched = match(content, predictions)

    scores = matched.score_split()
    assert scores.mean_ap == pytest.approx([expected.mAP], abs=1e-9)
    assert scores.mean_ap_50 == pytest.approx([expected.mAP_50], abs=1e-9)
    of_classes = [np.nan if value is None else value for value in expected.per_class.values()]
    assert scores.per_class[0] == pytest.approx(of_classes, abs=1e-9, nan_ok=True)
    sizes = {SMALL: expected.mAP_s, MEDIUM: expected.mAP_m, LARGE: expected.mAP_l}
    for area, value in sizes.items():
        assert matched.score_split(area).mean_ap == pytest.approx([value], abs=1e-9)


def copy_images(
    content: dict[str, Any], predictions: dict[int, Detections], counts: list[int]
) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Return a split with each image as often as `counts` says, in the same order."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    copied = {}
    for image, count in zip(content["images"], counts, strict=True):
        for _ in range(count):
            image_id = len(images) + 1
            images.append({**image, "id": image_id})
            if image["id"] in predictions:
                copied[image_id] = predictions[image["id"]]
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    new_id = len(annotations) + 1
                    annotations.append({**annotation, "id": new_id, "image_id": image_id})
    return {**content, "images": images, "annotations": annotations}, copied


def break_ties(predictions: dict[int, Detections]) -> dict[int, Detections]:
    """Return the detections with scores that are all different, in nearly the same order."""
    changed = {}
    for image_id, found in predictions.items():
        places = np.arange(len(found.scores))
        scores = found.scores - 1e-4 * places - 2e-6 * image_id
        changed[image_id] = replace(found, scores=scores.astype(np.float32))
    return changed


@pytest.mark.parametrize("area", [ALL, SMALL, MEDIUM, LARGE])
def test_a_resample_scores_as_a_split_of_copies(area: int) -> None:
    content = make_split(5, images=12)
    # Where detections of one image have equal scores, the order of its copies is arbitrary.
    predictions = break_ties(make_predictions(content, 6))
    counts = draw_image_counts(12, 6, seed=1)

    scores = match(content, predictions).score_resamples(counts, area)

    for row, ap in zip(counts.tolist(), scores.ap, strict=True):
        expected = score(*copy_images(content, predictions, row)).precision[..., area]
        by_class = np.where(expected > -1, expected, np.nan).mean(axis=1)
        assert ap == pytest.approx(by_class, abs=1e-9, nan_ok=True)


def test_counts_add_up_to_the_number_of_images() -> None:
    counts = draw_image_counts(40, 200, seed=3)
    assert counts.shape == (200, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert np.array_equal(counts, draw_image_counts(40, 200, seed=3))
    assert not np.array_equal(counts, draw_image_counts(40, 200, seed=4))


def test_many_resamples_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_split(2, images=20)
    matched = match(content, make_predictions(content, 3))
    counts = draw_image_counts(20, 9)
    at_once = matched.score_resamples(counts).ap

    monkeypatch.setattr("detreg.evaluation.bootstrap.MAX_WEIGHTS", 1)
    in_parts = matched.score_resamples(counts).ap
    assert in_parts == pytest.approx(at_once, abs=1e-12, nan_ok=True)


def test_a_split_of_which_each_image_has_its_own_model() -> None:
    content = make_split(7, images=10)
    first = break_ties(make_predictions(content, 1))
    second = break_ties(make_predictions(content, 2))
    joined = join_matches([match(content, first), match(content, second)])

    takes_second = np.arange(10) % 3 == 0
    counts = np.concatenate([~takes_second, takes_second])[None]
    mixed = {image_id: found for image_id, found in first.items() if (image_id - 1) % 3}
    mixed |= {image_id: found for image_id, found in second.items() if (image_id - 1) % 3 == 0}

    expected = score(content, mixed).mAP
    assert joined.score_resamples(counts).mean_ap == pytest.approx([expected], abs=1e-9)


def test_nothing_found_scores_zero_and_nothing_to_find_has_no_score() -> None:
    content = make_split(0)
    assert match(content, {}).score_split().mean_ap.tolist() == [0.0]

    without_objects = {**content, "annotations": []}
    scores = match(without_objects, make_predictions(content, 0)).score_split()
    assert np.isnan(scores.mean_ap).all()
    assert compute_interval(scores.mean_ap) is None
    assert scores.per_class.shape == (1, len(CLASSES))


def test_counts_must_fit_the_split() -> None:
    matched = match(make_split(0), {})
    with pytest.raises(ValueError, match=r"counts must have shape \(2, 12\), got \(2, 11\)"):
        matched.score_resamples(np.ones((2, 11)))


def test_an_interval_holds_the_middle_of_the_values() -> None:
    interval = compute_interval(np.array([*range(101), np.nan]), confidence=0.9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((5, 95))

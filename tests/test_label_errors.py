"""The list of probable label errors, and the files that annotation tools import."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_error_kinds import make_detections, make_truth

from detreg.evaluation.error_kinds import find_errors
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.label_error_files import write_label_error_files
from detreg.evaluation.label_errors import LabelErrorKind, find_label_errors
from detreg.inference.detections import Detections

Predictions = dict[int, Detections]
Split = tuple[GroundTruth, Predictions]
WRONG_IMAGE = 9


@pytest.fixture
def split() -> Split:
    """Return eight images with a boat that is found, and one with an error of each kind."""
    objects = {image_id: [(0, [10.0, 10, 60, 60], 0)] for image_id in range(1, 9)}
    predictions = {
        image_id: make_detections((0, 0.5 + image_id / 100, [10, 10, 70, 70]))
        for image_id in range(1, 9)
    }
    objects[WRONG_IMAGE] = [
        (1, [100.0, 0, 60, 60], 0),  # a boat by its looks
        (0, [0.0, 100, 60, 60], 0),  # 30 pixels off
        (0, [200.0, 200, 60, 60], 0),  # nothing there
        (2, [300.0, 300, 90, 90], 1),
    ]
    predictions[WRONG_IMAGE] = make_detections(
        (0, 0.58, [100, 0, 160, 60]),
        (0, 0.57, [30, 130, 90, 190]),
        (0, 0.90, [300, 0, 360, 60]),  # not labeled
        (0, 0.89, [310, 310, 340, 340]),  # in a crowd of another class: unlabeled, too
        (0, 0.30, [200, 300, 260, 360]),  # not sure
    )
    return make_truth(objects), predictions


def test_each_kind_is_found_the_surest_first(split: Split) -> None:
    found = find_label_errors(*split)
    assert all(error.image_id == WRONG_IMAGE for error in found)
    assert [error.suspicion for error in found] == sorted(
        (error.suspicion for error in found), reverse=True
    )
    by_target = {(error.kind, error.target) for error in found}
    assert by_target == {
        (LabelErrorKind.MISSING, -1),
        (LabelErrorKind.WRONG_CLASS, 0),
        (LabelErrorKind.BADLY_PLACED, 1),
        (LabelErrorKind.UNCONFIRMED, 2),
    }


def test_a_box_is_in_doubt_only_where_most_of_its_class_are_found() -> None:
    objects = {image_id: [(0, [10.0, 10, 60, 60], 0)] for image_id in range(1, 41)}
    found_on = {image_id: make_detections((0, 0.8, [10, 10, 70, 70])) for image_id in range(1, 40)}
    errors = find_label_errors(make_truth(objects), found_on)
    assert [(error.kind, error.image_id) for error in errors] == [(LabelErrorKind.UNCONFIRMED, 40)]

    half = {image_id: found_on[image_id] for image_id in range(1, 21)}
    assert find_label_errors(make_truth(objects), half) == []


def test_right_labels_are_not_in_doubt(split: Split) -> None:
    _, predictions = split
    truth = make_truth({1: [(0, [10.0, 10, 60, 60], 0)]})
    assert find_label_errors(truth, {1: predictions[1]}) == []
    assert find_label_errors(make_truth({1: []}), {}) == []


def test_the_list_says_what_is_labeled_and_what_is_proposed(split: Split, tmp_path: Path) -> None:
    entries = write_files(split, tmp_path)["label_errors.json"]
    by_kind = {entry["kind"]: entry for entry in entries}
    wrong = by_kind["wrong class"]
    assert wrong["file"] == f"/none/{WRONG_IMAGE}.jpg"
    assert wrong["labeled"] == {"class": "buoy", "box": [100, 0, 160, 60]}
    assert wrong["proposed"]["class"] == "boat"
    assert wrong["proposed"]["score"] == pytest.approx(0.58)
    assert by_kind["missing box"]["labeled"] is None


def test_label_studio_gets_labels_and_proposals_in_percent(split: Split, tmp_path: Path) -> None:
    tasks = write_files(split, tmp_path)["label_studio.json"]
    assert len(tasks) == 1
    task = tasks[0]
    assert task["data"]["image"] == f"/data/local-files/?d=none/{WRONG_IMAGE}.jpg"
    assert len(task["annotations"][0]["result"]) == 4

    proposals = task["predictions"][0]["result"]
    assert len({region["id"] for region in proposals}) == len(proposals) == 4
    boat = next(region for region in proposals if region["value"]["x"] == 25)
    assert boat["value"] == {
        "x": 25,
        "y": 0,
        "width": 15,
        "height": 15,
        "rotation": 0,
        "rectanglelabels": ["boat"],
    }


def test_proposed_labels_are_a_dataset_that_can_be_read(split: Split, tmp_path: Path) -> None:
    content = write_files(split, tmp_path)["proposed_labels.json"]
    truth = GroundTruth.load(content)
    image = truth.images[WRONG_IMAGE]
    assert image.labels.tolist() == [0, 0, 0, 2, 0, 0]
    assert image.crowd.tolist() == [False, False, False, True, False, False]
    assert image.boxes[0].tolist() == [100, 0, 160, 60]
    assert image.boxes[1].tolist() == [30, 130, 90, 190]


def write_files(split: Split, folder: Path) -> dict[str, Any]:
    truth, predictions = split
    errors = find_errors(truth, predictions)
    found = find_label_errors(truth, predictions)
    files = write_label_error_files(truth, errors, found, folder)
    return {file.name: json.loads(file.read_bytes()) for file in files}

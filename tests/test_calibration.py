"""A promise of recall is refused, before a training, where nothing can be calibrated."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detreg.data.calibration import check_calibration
from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.pipeline import parse_settings, train_template
from detreg.templates import find_template


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return load_dataset(tiny)


def with_test_images(dataset: Dataset, num_objects: list[int], folder: Path) -> Dataset:
    """Return the dataset with a test split of images with so many objects; -1 is a crowd."""
    annotations = []
    for place, count in enumerate(num_objects):
        for _ in range(abs(count)):
            annotations.append(
                {
                    "image_id": place + 1,
                    "category_id": 1,
                    "bbox": [0, 0, 9, 9],
                    "area": 81,
                    "iscrowd": int(count < 0),
                }
            )
    images = [
        {"id": place + 1, "file_name": f"/{place}.jpg", "width": 64, "height": 64}
        for place in range(len(num_objects))
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "boat"}],
    }
    path = folder / "test.json"
    path.write_text(json.dumps(content))
    split = replace(dataset.splits["test"], annotations=path)
    return replace(dataset, splits={**dataset.splits, "test": split})


def without_test_split(dataset: Dataset) -> Dataset:
    splits = {name: split for name, split in dataset.splits.items() if name != "test"}
    return replace(dataset, splits=splits)


@pytest.mark.parametrize(
    ("share", "num_objects"),
    [
        ("0.95", [1] * 19),
        ("0.95", [3, 1] * 10 + [0] * 5),
        ("0.5", [1]),
    ],
)
def test_enough_images_with_objects_are_accepted(
    share: str, num_objects: list[int], dataset: Dataset, tmp_path: Path
) -> None:
    options = RunOptions(operating_point=f"recall:{share}")
    check_calibration(with_test_images(dataset, num_objects, tmp_path), options)


def test_images_without_objects_do_not_count(dataset: Dataset, tmp_path: Path) -> None:
    few = with_test_images(dataset, [1] * 18 + [0, -1, -2], tmp_path)
    with pytest.raises(UsageError, match=r"at least 19 images with objects, .* it has 18"):
        check_calibration(few, RunOptions(operating_point="recall:0.95"))


def test_a_dataset_without_a_test_split_is_told_what_else_there_is(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"needs a test split: .* use operating_point=f1"):
        check_calibration(without_test_split(dataset), RunOptions(operating_point="recall:0.9"))


@pytest.mark.parametrize(
    "options",
    [
        {"operating_point": "f1"},
        {"operating_point": "precision:0.9"},
        {"operating_point": "recall:0.95", "score_threshold": 0.4},
    ],
)
def test_no_other_rule_needs_a_test_split(options: Mapping[str, Any], dataset: Dataset) -> None:
    check_calibration(without_test_split(dataset), RunOptions(**options))


def test_a_training_is_refused_before_it_starts(tiny: Path) -> None:
    template = find_template("yolox")
    values = {"data": str(tiny), "operating_point": "recall:0.999"}
    with pytest.raises(UsageError, match="at least 999 images with objects"):
        train_template(template, *parse_settings(template, values))

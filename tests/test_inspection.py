"""What is measured of a dataset, and the advice that follows."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detreg.data.boxes import Box, Corners
from detreg.data.images import DatasetImage
from detreg.errors import UsageError
from detreg.inspection.anchors import choose_ratios, cluster_shapes, measure_ratio_fit
from detreg.inspection.measurements import Measurements, measure_splits
from detreg.inspection.outliers import find_outlying_boxes
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.statistics import measure_statistics
from detreg.inspection.table import make_table
from detreg.inspection.training_advice import advise_on_training
from detreg.inspection.training_size import measure_at_training_size
from detreg.params import build
from detreg.templates import find_template

Splits = dict[str, list[DatasetImage]]


def make_plan(template: str, **values: object) -> TrainingPlan:
    found = find_template(template)
    return TrainingPlan(found, build(found.params, values))


def make_image(
    name: str, boxes: Sequence[tuple[str, Corners]], size: tuple[int, int] = (640, 480)
) -> DatasetImage:
    """Return an image of which no file exists: nothing here looks at pixels."""
    width, height = size
    found = tuple(Box(corners, label) for label, corners in boxes)
    return DatasetImage(Path("/data") / name, width, height, name, found)


def make_boxes(count: int, width: float, height: float, label: str = "cat") -> list[DatasetImage]:
    """Return images with one box each, all of one size."""
    corners = (10.0, 20.0, 10.0 + width, 20.0 + height)
    return [
        make_image(f"{label}{width}x{height}-{n}.png", [(label, corners)]) for n in range(count)
    ]


def measure(splits: Splits, classes: Sequence[str], plan: TrainingPlan | None) -> Measurements:
    return measure_splits(splits, classes, Path("/data"), plan)


def list_advice(images: list[DatasetImage], plan: TrainingPlan) -> list[str]:
    table = make_table({"train": images}, ("cat",))
    return [str(advice) for advice in advise_on_training(table, plan)]


def test_classes_images_and_boxes_are_counted() -> None:
    splits = {
        "train": [
            make_image("a.png", [("cat", (0, 0, 10, 20)), ("cat", (5, 5, 45, 45))], (64, 48)),
            make_image("b.png", [("dog", (0, 0, 30, 30))], (64, 48)),
            make_image("c.png", [], (100, 50)),
        ],
        "val": [make_image("d.png", [("cat", (0, 0, 10, 10))], (64, 48))],
    }
    crowd = Box((0, 0, 9, 9), "cat", crowd=True)
    splits["val"].append(replace(make_image("e.png", [], (64, 48)), boxes=(crowd,)))

    statistics = measure_statistics(make_table(splits, ("cat", "dog", "owl")))
    cat, dog, owl = statistics.classes
    assert (cat.boxes, cat.images, cat.share) == (3, 2, 0.75)
    assert cat.boxes_per_split == {"train": 2, "val": 1}
    assert (dog.boxes, owl.boxes, owl.share) == (1, 0, 0.0)
    assert statistics.imbalance is None
    assert statistics.images.count == 5
    assert statistics.images.empty_per_split == {"train": 1, "val": 1}
    assert [(size.width, size.images) for size in statistics.images.sizes] == [(64, 4), (100, 1)]
    assert statistics.boxes.count == 4
    assert statistics.boxes.shorter_side.maximum == 40
    assert sum(map(sum, statistics.boxes.positions)) == 4


def test_the_position_of_a_box_is_a_cell_of_its_own_image() -> None:
    wide = make_image("a.png", [("cat", (580, 10, 640, 20))], (640, 160))
    (rows,) = [measure_statistics(make_table({"train": [wide]}, ("cat",))).boxes.positions]
    assert rows[1][15] == 1


@pytest.mark.parametrize(
    ("plan", "shorter_side"),
    [
        # The longer side, 640, is resized to 320.
        (make_plan("yolox", image_size=320), 8),
        # The shorter side, 480, is resized to 320.
        (make_plan("yolox", image_size=320, max_aspect_ratio=1.5), 16 * 320 / 480),
        # Both sides to 320: the height of 24 shrinks less than the width of 16.
        (make_plan("ssd", image_size=320), 8),
        (make_plan("ssd", image_size="640,480"), 16),
    ],
)
def test_boxes_are_measured_as_the_template_resizes(
    plan: TrainingPlan, shorter_side: float
) -> None:
    table = make_table({"train": make_boxes(3, 16, 24)}, ("cat",))
    measured = measure_at_training_size(table, plan)
    assert measured.shorter_side.median == pytest.approx(shorter_side, rel=2e-3)
    assert measured.small_share == 0


def test_a_larger_image_size_is_advised_with_both_shares() -> None:
    # 6 px at 640, 7.5 px at 800, 9 px at 960.
    images = make_boxes(38, 6, 9) + make_boxes(62, 60, 90)
    (advice,) = list_advice(images, make_plan("yolox", image_size=640))
    assert advice == (
        "38 % of the boxes are under 8 px at image_size=640, 0 % at image_size=960: "
        "try --image_size 960"
    )
    assert list_advice(images, make_plan("yolox", image_size=960)) == []


def test_no_size_is_advised_that_the_template_refuses() -> None:
    images = make_boxes(10, 4, 4)
    assert list_advice(images, make_plan("yolox", image_size=2048)) == []
    (advice,) = list_advice(images, make_plan("ssd", image_size="640,480"))
    assert advice.endswith("--image_size 1280,960")

    (advice,) = list_advice(make_boxes(10, 0.5, 0.5) + make_boxes(9, 5, 5), make_plan("yolox"))
    assert advice.startswith("100 % of the boxes are under 8 px at image_size=640, 53 % at")
    with pytest.raises(UsageError):
        make_plan("yolox", image_size=2560)


def test_anchor_ratios_are_advised_where_they_fit_more_boxes() -> None:
    images = make_boxes(50, 200, 200) + make_boxes(40, 30, 150) + make_boxes(10, 160, 40)
    (advice,) = list_advice(images, make_plan("inception_v4"))
    assert advice == (
        "anchor_ratios=0.2,1,4 would fit 50 % more boxes than 0.5,1,2 (100 % in place of 50 %): "
        "try --anchor_ratios 0.2,1,4"
    )
    assert list_advice(images, make_plan("inception_v4", anchor_ratios="0.2,1,4")) == []
    assert list_advice(images, make_plan("yolox")) == []


def test_long_images_are_advised_a_larger_max_aspect_ratio() -> None:
    images = [make_image("long.png", [("cat", (0, 0, 300, 300))], (3200, 800))]
    (advice,) = list_advice(images, make_plan("inception_v4", image_size=512))
    assert "at most 192 px on their shorter side in place of 512" in advice
    assert advice.endswith("at 4 it is 512 px: try --max_aspect_ratio 4")
    assert list_advice(images, make_plan("inception_v4", max_aspect_ratio=4.0)) == []
    assert list_advice(images, make_plan("yolox")) == []


def test_rare_classes_and_empty_images_are_told() -> None:
    images = make_boxes(25, 30, 30) + make_boxes(2, 30, 30, "dog")
    measured = measure({"train": images}, ("cat", "dog"), None)
    (advice,) = measured.advice
    assert advice.message == "under 20 boxes to learn from in 1 of 2 classes: label more of dog (2)"
    assert advice.flags == ""

    empty = [make_image(f"empty{number}.png", []) for number in range(75)]
    measured = measure({"train": make_boxes(25, 30, 30) + empty}, ("cat",), None)
    assert [advice.message for advice in measured.advice] == [
        "75 % of the images show no object (75 of 100): see that none of them lacks its labels"
    ]


def test_outlying_boxes_are_found_with_the_most_extreme_first() -> None:
    image = make_image(
        "a.png",
        [
            ("cat", (0, 0, 3, 30)),
            ("cat", (0, 0, 2, 30)),
            ("dog", (0, 0, 600, 30)),
            ("cat", (0, 0, 640, 480)),
            ("cat", (100, 100, 200, 200)),
            ("dog", (101, 100, 200, 201)),
            ("cat", (300, 100, 310, 200)),
            ("dog", (300, 100, 330, 200)),
        ],
    )
    table = make_table({"train": [image]}, ("cat", "dog"))
    groups = {group.reason: group.boxes.tolist() for group in find_outlying_boxes(table)}
    assert groups == {
        "under 4 px": [1, 0],
        "over 20:1": [2],
        "as large as the image": [3],
        "two classes on one box": [4],
    }


def test_numbers_do_not_depend_on_the_order_of_images() -> None:
    rng = random.Random(0)
    images = []
    for number in range(60):
        width, height = rng.uniform(2, 300), rng.uniform(2, 300)
        images.append(make_image(f"{number}.png", [("cat", (1, 1, 1 + width, 1 + height))]))
    plan = make_plan("inception_v4")
    first = measure({"train": images}, ("cat",), plan).to_json()
    shuffled = rng.sample(images, len(images))
    assert measure({"train": shuffled}, ("cat",), plan).to_json() == first
    json.dumps(first, allow_nan=False)


@pytest.mark.parametrize("splits", [{}, {"train": [make_image("a.png", [])]}])
@pytest.mark.parametrize("template", ["yolox", "inception_v4"])
def test_a_dataset_without_boxes_has_numbers(splits: Splits, template: str) -> None:
    measured = measure(splits, (), make_plan(template))
    assert measured.statistics.boxes.count == 0
    json.dumps(measured.to_json(), allow_nan=False)


def test_clusters_lie_where_the_shapes_are() -> None:
    shapes = np.array([[10, 10], [11, 10], [100, 50], [104, 50], [102, 50]], np.float64)
    centers = cluster_shapes(shapes, 2)
    assert centers.tolist() == [[10.5, 10.0], [102.0, 50.0]]
    assert len(cluster_shapes(np.ones((7, 2)), 3)) == 1


def test_a_ratio_fits_to_a_factor_of_about_one_and_a_half() -> None:
    assert measure_ratio_fit(np.array([1.4, 1.5]), [1.0]) == 0.5
    assert measure_ratio_fit(np.array([0.70, 0.66]), [1.0]) == 0.5
    assert choose_ratios(np.array([0.01, 100.0]), 2) == (0.1, 10.0)

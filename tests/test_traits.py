"""What datasets are like, and how far they are from one another."""

from pathlib import Path

import pytest

from detreg.data.boxes import Box
from detreg.data.images import DatasetImage
from detreg.data.traits import MAX_MEASURED_IMAGES, DatasetTraits, measure_traits

TRAITS = DatasetTraits(images=200, classes=3, boxes_per_image=4.0, box_side=0.1)


def make_image(*boxes: Box) -> DatasetImage:
    return DatasetImage(Path("a.png"), 100, 50, "", boxes)


def test_boxes_are_measured_by_their_share_of_the_image() -> None:
    large = Box((0, 0, 100, 50), "cat")
    small = Box((0, 0, 10, 5), "cat")
    crowd = Box((0, 0, 1, 1), "cat", crowd=True)
    traits = measure_traits([make_image(large, small, small, crowd), make_image()], 2)
    assert traits == DatasetTraits(images=2, classes=2, boxes_per_image=1.5, box_side=0.1)


def test_a_split_without_boxes_and_a_large_one_are_measured() -> None:
    assert measure_traits([make_image()], 1).box_side == 0.0
    box = Box((0, 0, 20, 10), "cat")
    many = [make_image(box)] * (2 * MAX_MEASURED_IMAGES + 1)
    assert measure_traits(many, 1) == DatasetTraits(len(many), 1, 1.0, 0.2)


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (TRAITS, 0.0),
        (DatasetTraits(200, 3, 4.0, 0.2), 1.0),
        (DatasetTraits(200, 3, 4.0, 0.05), 1.0),
        (DatasetTraits(200, 3, 2.0, 0.1), 0.5),
        (DatasetTraits(800, 6, 4.0, 0.1), 0.75),
    ],
)
def test_distance_counts_doublings(other: DatasetTraits, distance: float) -> None:
    assert TRAITS.compute_distance(other) == pytest.approx(distance)
    assert other.compute_distance(TRAITS) == pytest.approx(distance)


def test_traits_are_read_as_they_are_written() -> None:
    assert DatasetTraits.from_json(TRAITS.to_json()) == TRAITS
    with pytest.raises(KeyError):
        DatasetTraits.from_json({"images": 3})

"""What a dataset is like, in a few numbers by which datasets can be compared."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from detreg.data.boxes import compute_area
from detreg.data.images import DatasetImage

MAX_MEASURED_IMAGES = 2_000
"""A larger split is measured on images that lie evenly in it."""

_WEIGHTS = {"images": 0.25, "classes": 0.25, "boxes_per_image": 0.5, "box_side": 1.0}
"""How much a doubling of each number counts: what a network sees counts more than how often."""


@dataclass(frozen=True)
class DatasetTraits:
    """What the train split of a dataset is like.

    boxes_per_image: the mean, without crowd regions.
    box_side: the median of the square root of a box's share of its image, from 0 to 1.
    """

    images: int
    classes: int
    boxes_per_image: float
    box_side: float

    def to_json(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)

    @staticmethod
    def from_json(numbers: Mapping[str, float]) -> "DatasetTraits":
        """Read the numbers. Raises KeyError, TypeError or ValueError where they are no traits."""
        return DatasetTraits(
            images=int(numbers["images"]),
            classes=int(numbers["classes"]),
            boxes_per_image=float(numbers["boxes_per_image"]),
            box_side=float(numbers["box_side"]),
        )

    def compute_distance(self, other: "DatasetTraits") -> float:
        """Return how different two datasets are: 0 for equal numbers, 1 for boxes twice as long."""
        distance = 0.0
        others = other.to_json()
        for name, value in self.to_json().items():
            distance += _WEIGHTS[name] * count_doublings(value, others[name])
        return distance


def measure_traits(images: Sequence[DatasetImage], num_classes: int) -> DatasetTraits:
    """Measure a train split."""
    measured = images[:: math.ceil(len(images) / MAX_MEASURED_IMAGES) or 1]
    sides = []
    for image in measured:
        pixels = image.width * image.height
        for box in image.boxes:
            if not box.crowd:
                sides.append(math.sqrt(compute_area(box.corners) / pixels))

    return DatasetTraits(
        images=len(images),
        classes=num_classes,
        boxes_per_image=round(len(sides) / max(len(measured), 1), 3),
        box_side=round(statistics.median(sides), 4) if sides else 0.0,
    )


def count_doublings(first: float, second: float) -> float:
    """Return how often the smaller number has to be doubled to become the larger one."""
    smallest = 1e-3  # what is nearly nothing is not infinitely different from nothing
    return abs(math.log2(max(first, smallest) / max(second, smallest)))

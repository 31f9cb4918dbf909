"""The images and boxes of a dataset as arrays, from which its statistics are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from detreg.data.images import DatasetImage

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BoxTable:
    """The images of a dataset and their boxes, without crowd regions.

    images: all images, split by split.
    splits: the name of the split of each image.
    sizes: (images, 2), width and height in pixels.
    image_of_box: (boxes,), the index of each box's image.
    labels: (boxes,), the index of each box's class.
    corners: (boxes, 4), x1 y1 x2 y2 in pixels.
    """

    classes: tuple[str, ...]
    images: tuple[DatasetImage, ...]
    splits: tuple[str, ...]
    sizes: Floats
    image_of_box: Integers
    labels: Integers
    corners: Floats

    @property
    def box_sizes(self) -> Floats:
        """(boxes, 2), the width and height of each box in pixels."""
        return self.corners[:, 2:] - self.corners[:, :2]

    @property
    def boxes_per_image(self) -> Integers:
        """(images,), how many boxes each image has."""
        return np.bincount(self.image_of_box, minlength=len(self.images))


def make_table(splits: Mapping[str, Sequence[DatasetImage]], classes: Sequence[str]) -> BoxTable:
    """Return the images of all splits, and their boxes, as arrays."""
    images = [image for members in splits.values() for image in members]
    names = [name for name, members in splits.items() for _ in members]
    boxes = list(chain.from_iterable(image.boxes for image in images))
    image_of_box = np.repeat(np.arange(len(images)), [len(image.boxes) for image in images])

    label_of_class = {name: label for label, name in enumerate(classes)}
    labels = np.fromiter((label_of_class.get(box.label, -1) for box in boxes), np.int64)
    is_crowd = np.fromiter((box.crowd for box in boxes), np.bool_)
    numbers = chain.from_iterable(box.corners for box in boxes)
    corners = np.fromiter(numbers, np.float64, 4 * len(boxes)).reshape(-1, 4)
    is_counted = ~is_crowd & (labels >= 0)

    sizes = [(image.width, image.height) for image in images]
    return BoxTable(
        classes=tuple(classes),
        images=tuple(images),
        splits=tuple(names),
        sizes=np.array(sizes, np.float64).reshape(-1, 2),
        image_of_box=image_of_box[is_counted],
        labels=labels[is_counted],
        corners=corners[is_counted],
    )

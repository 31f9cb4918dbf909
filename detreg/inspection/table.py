"""The images and boxes of a dataset as arrays, from which its statistics are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    label_of_class = {name: label for label, name in enumerate(classes)}
    images: list[DatasetImage] = []
    names: list[str] = []
    image_of_box: list[int] = []
    labels: list[int] = []
    corners: list[tuple[float, float, float, float]] = []

    for split, members in splits.items():
        for image in members:
            for box in image.boxes:
                if not box.crowd and box.label in label_of_class:
                    image_of_box.append(len(images))
                    labels.append(label_of_class[box.label])
                    corners.append(box.corners)
            images.append(image)
            names.append(split)

    sizes = [(image.width, image.height) for image in images]
    return BoxTable(
        classes=tuple(classes),
        images=tuple(images),
        splits=tuple(names),
        sizes=np.array(sizes, np.float64).reshape(-1, 2),
        image_of_box=np.array(image_of_box, np.int64),
        labels=np.array(labels, np.int64),
        corners=np.array(corners, np.float64).reshape(-1, 4),
    )

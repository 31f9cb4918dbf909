"""The numbers of a dataset: its classes, images and boxes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detreg.inspection.anchors import cluster_shapes
from detreg.inspection.table import BoxTable, Floats

NUM_ANCHORS = 9
MAP_CELLS = 16
_MAX_SIZES = 10


@dataclass(frozen=True)
class Spread:
    """How a quantity is distributed: its smallest and largest value, and three in between."""

    minimum: float
    low: float
    """Of which 5 % are smaller."""
    median: float
    high: float
    """Of which 5 % are larger."""
    maximum: float


@dataclass(frozen=True)
class ClassStatistics:
    """How often a class occurs; `share` is that of all boxes, from 0 to 1."""

    name: str
    boxes: int
    images: int
    share: float
    boxes_per_split: dict[str, int]


@dataclass(frozen=True)
class SizeCount:
    """How many images have a size in pixels."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class ImageStatistics:
    """The images of a dataset; `empty` counts those without objects, by split too."""

    count: int
    empty: int
    empty_per_split: dict[str, int]
    width: Spread
    height: Spread
    sizes: tuple[SizeCount, ...]
    """The most frequent ones."""
    num_sizes: int
    boxes_per_image: Spread


@dataclass(frozen=True)
class Anchor:
    """A shape in pixels that k-means found, and the share of boxes that are nearest to it."""

    width: float
    height: float
    share: float


@dataclass(frozen=True)
class BoxStatistics:
    """The boxes of a dataset, in pixels of the images as they are.

    aspect_ratio: width over height.
    positions: how many boxes have their center in each cell of a grid over the image, row by row.
    """

    count: int
    width: Spread
    height: Spread
    shorter_side: Spread
    aspect_ratio: Spread
    anchors: tuple[Anchor, ...]
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DatasetStatistics:
    """The numbers of a dataset.

    imbalance: the most frequent class's boxes over the rarest's, None where a class has no box.
    """

    classes: tuple[ClassStatistics, ...]
    imbalance: float | None
    images: ImageStatistics
    boxes: BoxStatistics


def measure_statistics(table: BoxTable) -> DatasetStatistics:
    """Return the numbers of a dataset; without images or boxes they are 0."""
    classes = measure_classes(table)
    imbalance = compute_imbalance(classes)
    return DatasetStatistics(classes, imbalance, measure_images(table), measure_boxes(table))


def compute_imbalance(classes: Sequence[ClassStatistics]) -> float | None:
    """Return the boxes of the most frequent class over those of the rarest, if all have some."""
    counts = [entry.boxes for entry in classes]
    if not counts or not min(counts):
        return None
    return max(counts) / min(counts)


def measure_spread(values: Floats) -> Spread:
    """Return the spread of values, zeros where there are none."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0, 0.0, 0.0)
    minimum, low, median, high, maximum = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    return Spread(_round(minimum), _round(low), _round(median), _round(high), _round(maximum))


def make_anchors(shapes: Floats, centers: Floats) -> tuple[Anchor, ...]:
    """Return each center of a cluster with the share of the shapes that are nearest to it."""
    if not len(shapes):
        return ()
    # As many steps as there are centers, so that memory does not grow with both.
    best_overlap = np.zeros(len(shapes))
    nearest = np.zeros(len(shapes), np.int64)
    for place, center in enumerate(centers):
        intersection = np.minimum(shapes, center).prod(axis=1)
        overlap = intersection / (shapes.prod(axis=1) + center.prod() - intersection)
        is_better = overlap > best_overlap
        best_overlap[is_better] = overlap[is_better]
        nearest[is_better] = place

    counts = np.bincount(nearest, minlength=len(centers))
    anchors = []
    for (width, height), count in zip(centers.tolist(), counts.tolist(), strict=True):
        anchors.append(Anchor(_round(width), _round(height), _round(count / len(shapes))))
    return tuple(anchors)


def measure_classes(table: BoxTable) -> tuple[ClassStatistics, ...]:
    """Return how often each class occurs, in the order of the classes."""
    num_classes = len(table.classes)
    total = np.bincount(table.labels, minlength=num_classes)
    # A class counts once for each image that shows it.
    num_images = max(len(table.images), 1)
    pairs = np.sort(table.labels * num_images + table.image_of_box)
    # Not `np.unique`, which takes longer to import than this on ten thousand images.
    is_first = np.diff(pairs, prepend=-1) > 0
    images = np.bincount(pairs[is_first] // num_images, minlength=num_classes)

    split_names = list(dict.fromkeys(table.splits))
    split_of_image = np.array([split_names.index(name) for name in table.splits], np.int64)
    per_split = {}
    for place, name in enumerate(split_names):
        is_in_split = split_of_image[table.image_of_box] == place
        per_split[name] = np.bincount(table.labels[is_in_split], minlength=num_classes)

    measured = []
    for label, name in enumerate(table.classes):
        boxes = int(total[label])
        share = boxes / len(table.labels) if boxes else 0.0
        in_splits = {split: int(counts[label]) for split, counts in per_split.items()}
        measured.append(ClassStatistics(name, boxes, int(images[label]), _round(share), in_splits))
    return tuple(measured)


def measure_images(table: BoxTable) -> ImageStatistics:
    """Return the numbers of the images."""
    per_image = table.boxes_per_image
    empty_per_split = dict.fromkeys(table.splits, 0)
    for split, count in zip(table.splits, per_image.tolist(), strict=True):
        empty_per_split[split] += count == 0

    counts = Counter((image.width, image.height) for image in table.images)
    # Equally frequent sizes are in the order of their pixels, not of the files.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    sizes = [SizeCount(width, height, count) for (width, height), count in ranked[:_MAX_SIZES]]
    return ImageStatistics(
        count=len(table.images),
        empty=int((per_image == 0).sum()),
        empty_per_split=empty_per_split,
        width=measure_spread(table.sizes[:, 0]),
        height=measure_spread(table.sizes[:, 1]),
        sizes=tuple(sizes),
        num_sizes=len(counts),
        boxes_per_image=measure_spread(per_image.astype(np.float64)),
    )


def measure_boxes(table: BoxTable) -> BoxStatistics:
    """Return the numbers of the boxes."""
    shapes = table.box_sizes
    return BoxStatistics(
        count=len(shapes),
        width=measure_spread(shapes[:, 0]),
        height=measure_spread(shapes[:, 1]),
        shorter_side=measure_spread(shapes.min(axis=1)),
        aspect_ratio=measure_spread(shapes[:, 0] / shapes[:, 1]),
        anchors=make_anchors(shapes, cluster_shapes(shapes, NUM_ANCHORS)),
        positions=_count_positions(table),
    )


def _count_positions(table: BoxTable) -> tuple[tuple[int, ...], ...]:
    """Return how many boxes have their center in each cell of the image, row by row."""
    centers = (table.corners[:, :2] + table.corners[:, 2:]) / 2
    positions = centers / table.sizes[table.image_of_box]
    edges = np.linspace(0, 1, MAP_CELLS + 1)
    counts, _, _ = np.histogram2d(positions[:, 1], positions[:, 0], bins=(edges, edges))
    return tuple(tuple(row) for row in counts.astype(int).tolist())


def _round(value: float) -> float:
    """Return a number with four significant digits at least, as JSON shows it."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(float(value), 1)

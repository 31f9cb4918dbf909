"""Anchors that fit a dataset: shapes and ratios found by k-means, and how many boxes they fit.

The clusters depend on the boxes alone, not on their order: there is nothing random in them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detreg.inspection.table import Floats

MIN_IOU = 0.7
"""Of an anchor with a box that it fits, with equal areas: their ratios differ by 1.47 at most."""

_MAX_SHAPES = 2000
_MAX_ROUNDS = 50


def cluster_shapes(shapes: Floats, count: int) -> Floats:
    """Return the (width, height) of at most `count` anchors that overlap shapes most, by area.

    shapes: (n, 2), widths and heights above 0. Of very many, an evenly spread part is looked at.
    """
    if not len(shapes):
        return np.empty((0, 2))
    areas = shapes.prod(axis=1)
    by_area = shapes[np.lexsort((shapes[:, 0], areas))]
    spread = np.linspace(0, len(by_area) - 1, min(len(by_area), _MAX_SHAPES)).round().astype(int)
    sample = by_area[spread]

    # One of these starts is good for even data, the other for few shapes that are far from the
    # rest. Where they end equally well, the first is taken.
    parts = (np.arange(count) + 0.5) / count * len(sample)
    starts = [sample[parts.astype(int)], _choose_distant(sample, count)]
    ends = [_move_centers(sample, np.unique(start, axis=0)) for start in starts]
    centers = max(
        ends, key=lambda end: float(_compute_centered_iou(sample, end).max(axis=1).mean())
    )
    return centers[np.argsort(centers.prod(axis=1), kind="stable")]


def _choose_distant(shapes: Floats, count: int) -> Floats:
    """Return the shape in the middle, and then each time the one that the chosen overlap least."""
    chosen = [len(shapes) // 2]
    overlap = np.zeros(len(shapes))
    for _ in range(count - 1):
        newest = shapes[chosen[-1]][None]
        overlap = np.maximum(overlap, _compute_centered_iou(shapes, newest)[:, 0])
        chosen.append(int(overlap.argmin()))
    return shapes[chosen]


def _move_centers(shapes: Floats, centers: Floats) -> Floats:
    """Move each center to the mean of the shapes that it overlaps most, until none moves."""
    nearest = np.full(len(shapes), -1)
    for _ in range(_MAX_ROUNDS):
        chosen = _compute_centered_iou(shapes, centers).argmax(axis=1)
        if np.array_equal(chosen, nearest):
            break
        _, nearest = np.unique(chosen, return_inverse=True)
        counts = np.bincount(nearest)
        sums = [np.bincount(nearest, weights=shapes[:, side]) for side in (0, 1)]
        centers = np.stack(sums, axis=1) / counts[:, None]
    return centers


def choose_ratios(box_ratios: Floats, count: int) -> tuple[float, ...]:
    """Return at most `count` width-to-height ratios around which those of the boxes lie."""
    centers = cluster_shapes(_make_unit_shapes(box_ratios), count)
    ratios = centers[:, 0] / centers[:, 1]
    # Two digits are finer than what the overlap of 0.7 tells apart.
    rounded = {float(f"{ratio:.2g}") for ratio in ratios.clip(0.1, 10)}
    return tuple(sorted(rounded))


def measure_ratio_fit(box_ratios: Floats, anchor_ratios: Sequence[float]) -> float:
    """Return the share of boxes that an anchor of one of the ratios fits, if its size is right."""
    if not len(box_ratios):
        return 0.0
    anchors = _make_unit_shapes(np.array(anchor_ratios, np.float64))
    best = np.zeros(len(box_ratios))
    shapes = _make_unit_shapes(box_ratios)
    for anchor in anchors:
        best = np.maximum(best, _compute_centered_iou(shapes, anchor[None])[:, 0])
    return float((best >= MIN_IOU).mean())


def _make_unit_shapes(ratios: Floats) -> Floats:
    """Return the width and height of boxes with these ratios and an area of 1."""
    roots = np.sqrt(ratios)
    return np.stack([roots, 1 / roots], axis=1)


def _compute_centered_iou(shapes: Floats, anchors: Floats) -> npt.NDArray[np.float64]:
    """Return the (shapes, anchors) overlaps of boxes that have one center."""
    smaller = np.minimum(shapes[:, None], anchors[None])
    intersection = smaller.prod(axis=2)
    areas = shapes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None]
    return intersection / (areas - intersection)

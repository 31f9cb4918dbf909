"""Whether two models find the same pixels for the detections that both of them have."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detreg.inference.detections import Detections
from detreg.mask_patches import MaskPatch

MIN_IOU = 0.98
PIXEL_TOLERANCE = 1
"""Pixels. A mask of fewer than 50 has less than MIN_IOU for one pixel whose value is rounded."""


@dataclass(frozen=True)
class MaskMatches:
    """Of `total` pairs of masks, `matched` have the same pixels, but for rounding."""

    matched: int
    total: int

    def __add__(self, other: "MaskMatches") -> "MaskMatches":
        return MaskMatches(self.matched + other.matched, self.total + other.total)

    @property
    def matched_share(self) -> float:
        """The part that has the same pixels, from 0 to 1; 1 where there is nothing to compare."""
        return self.matched / self.total if self.total else 1.0

    @property
    def summary(self) -> str:
        """The figures in words."""
        return f"{self.matched} of the {self.total} masks of partners agree (IoU {MIN_IOU})"


def compare_masks(a: Detections, b: Detections, pairs: NDArray[np.int64]) -> MaskMatches:
    """Compare the masks of one image's detections `a` and `b` at the positions `pairs` (k, 2).

    Where a side has no masks, none of them match.
    """
    if a.masks is None or b.masks is None:
        return MaskMatches(0, len(pairs))
    patches_a = a.masks.select(pairs[:, 0]).to_patches()
    patches_b = b.masks.select(pairs[:, 1]).to_patches()
    are_equal = [_have_same_pixels(*pair) for pair in zip(patches_a, patches_b, strict=True)]
    return MaskMatches(sum(are_equal), len(pairs))


def _have_same_pixels(a: MaskPatch, b: MaskPatch) -> bool:
    left, top = max(a.left, b.left), max(a.top, b.top)
    cut_a, cut_b = _cut(a, left, top), _cut(b, left, top)
    rows, columns = np.minimum(cut_a.shape, cut_b.shape)
    common = int((cut_a[:rows, :columns] & cut_b[:rows, :columns]).sum())

    union = int(a.pixels.sum()) + int(b.pixels.sum()) - common
    return union - common <= PIXEL_TOLERANCE or common >= MIN_IOU * union


def _cut(patch: MaskPatch, left: int, top: int) -> NDArray[np.bool_]:
    """Return the pixels of a patch right of and below a point of its image."""
    return patch.pixels[max(top - patch.top, 0) :, max(left - patch.left, 0) :]

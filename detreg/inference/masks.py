"""The masks of one image's detections: a grid of probabilities over each box, pasted on demand."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, UsageError, quote
from detreg.inference.outputs import MASK_SIDE
from detreg.mask_patches import MaskPatch, find_runs, trace_polygon, trace_polygons
from detreg.run_lengths import RunLengthMask, compress_runs

Positions = NDArray[np.integer] | NDArray[np.bool_]
"""Which detections: their positions, or whether each is meant."""

MaskForm = Literal["polygons", "rle", "none"]
"""How the masks of detections are written: COCO's polygons, its run-length code, or not at all."""
MASK_FORMS: tuple[MaskForm, ...] = get_args(MaskForm)

IN_MASK = 0.5
"""A pixel belongs to an object from this probability on."""


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of the detections of one image, valid once made.

    A grid of 28 x 28 cells lies over each box. A pixel belongs to the mask where the bilinear
    value of the grid at the pixel's center is 0.5 or more; beside the grid it is 0. This is what
    MMDetection's `_do_paste_mask` does.

    probabilities: (n, 28, 28), in half precision, so that a split of thousands of images fits into
        memory.
    boxes: (n, 4), where the grids lie: x1 y1 x2 y2 in the image's own pixels, also outside of it.
    size: width and height of the image.

    Raises DataError for anything else.
    """

    probabilities: NDArray[np.float16]
    boxes: NDArray[np.float32]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        problems = []
        for name, dtype, shape in (
            ("probabilities", np.float16, (count, MASK_SIDE, MASK_SIDE)),
            ("boxes", np.float32, (count, 4)),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                problems.append(
                    f"{name} of masks must be {np.dtype(dtype)} {shape}, "
                    f"but got {array.dtype} {array.shape}"
                )
            elif not np.isfinite(array).all():
                problems.append(f"{name} of masks must be finite numbers")
        if problems:
            raise DataError(problems)

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, positions: Positions) -> "Masks":
        """Return the masks at these positions."""
        return Masks(self.probabilities[positions], self.boxes[positions], self.size)

    def to_arrays(self) -> NDArray[np.bool_]:
        """Return the pixels of the masks, (n, height, width)."""
        width, height = self.size
        arrays = np.zeros((len(self), height, width), np.bool_)
        for array, patch in zip(arrays, self.to_patches(), strict=True):
            rows, columns = patch.pixels.shape
            array[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.pixels
        return arrays

    def to_run_lengths(self) -> list[RunLengthMask]:
        """Return the masks in COCO's run-length code, the same as pycocotools makes of arrays."""
        width, height = self.size
        masks = []
        for patch in self.to_patches():
            runs = find_runs(patch, height, width)
            masks.append(RunLengthMask(height, width, compress_runs(runs)))
        return masks

    def to_polygons(self) -> list[list[list[float]]]:
        """Return the polygons x1, y1, x2, y2, ... of each mask: one for each of its parts.

        A part with holes is one polygon, whose lines to the holes are gone forth and back. Polygons
        lie at most a pixel beside the mask's border. A mask without a pixel has none.
        """
        return [trace_polygons(patch) for patch in self.to_patches()]

    def to_single_polygons(self) -> list[list[float]]:
        """Return one polygon for each mask, whose parts are joined as holes are; [] for no pixel.

        It is for formats in which an object has one polygon.
        """
        return [trace_polygon(patch) for patch in self.to_patches()]

    def scale(self, factor: int) -> "Masks":
        """Return the masks of an image that is enlarged by a factor."""
        width, height = self.size
        boxes = self.boxes * np.float32(factor)
        return Masks(self.probabilities, boxes, (width * factor, height * factor))

    def to_patches(self) -> list[MaskPatch]:
        """Return the part of each mask that lies inside its box and the image."""
        width, height = self.size
        patches = []
        for probabilities, box in zip(self.probabilities, self.boxes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            left, columns = _interpolate(x1, x2, width)
            top, rows = _interpolate(y1, y2, height)
            # Two products of matrices, since the weights of rows and columns are independent. The
            # pixels of a column are neighbors in memory, as run-length code needs them.
            values = columns @ (probabilities.T.astype(np.float32) @ rows.T)
            patches.append(MaskPatch(left, top, (values >= IN_MASK).T))
        return patches


def choose_mask_form(asked: object, has_masks: bool) -> MaskForm:
    """Return the form in which a model's masks are written: polygons, where it has some.

    asked: a form, or None for the usual one. Raises UsageError for any other value, and for the
    masks of a model that has none.
    """
    if asked is None:
        return "polygons" if has_masks else "none"
    for form in MASK_FORMS:
        if form == asked and (has_masks or form == "none"):
            return form
    if asked in MASK_FORMS:
        raise UsageError(f"masks must be none, got {asked}: the model has no masks")
    raise UsageError(f"masks must be one of {', '.join(MASK_FORMS)}, got {quote(asked)}")


def _interpolate(low: float, high: float, size: int) -> tuple[int, NDArray[np.float32]]:
    """Return the first pixel of an axis whose center is in a grid, and weights (pixels, cells).

    low, high: where the grid lies; size: of the image, both in pixels.
    The weights of the cells are those of linear interpolation between the cells' centers.
    """
    first = min(max(math.ceil(low - 0.5), 0), size)
    end = min(max(math.floor(high - 0.5) + 1, first), size)
    if end == first or high <= low:
        return first, np.zeros((0, MASK_SIDE), np.float32)
    centers = np.arange(first, end) + 0.5
    places = (centers - low) * (MASK_SIDE / (high - low)) - 0.5
    distances = np.abs(places[:, None] - np.arange(MASK_SIDE))
    return first, np.maximum(1 - distances, 0).astype(np.float32)

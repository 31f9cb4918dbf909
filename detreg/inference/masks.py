"""The masks of one image's detections: a grid of probabilities over each box, pasted on demand."""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, UsageError, quote
from detreg.inference.outputs import MASK_SIDE
from detreg.loops import Points, join_loops
from detreg.run_lengths import RunLengthMask, Runs, compress_runs, join_spans

Positions = NDArray[np.integer] | NDArray[np.bool_]
"""Which detections: their positions, or whether each is meant."""

MaskForm = Literal["polygons", "rle", "none"]
"""How the masks of detections are written: COCO's polygons, its run-length code, or not at all."""
MASK_FORMS: tuple[MaskForm, ...] = get_args(MaskForm)

IN_MASK = 0.5
"""A pixel belongs to an object from this probability on."""

_FINENESS = 2
"""Points of a polygon lie between those of a grid this many times finer than the pixels."""
_MAX_SHIFT = 0.75
"""Points of that grid that a simpler polygon may lie beside the exact one."""


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
            runs = _find_runs(patch, height, width)
            masks.append(RunLengthMask(height, width, compress_runs(runs)))
        return masks

    def to_polygons(self) -> list[list[list[float]]]:
        """Return the polygons x1, y1, x2, y2, ... of each mask: one for each of its parts.

        A part with holes is one polygon, whose lines to the holes are gone forth and back. They lie
        at most a pixel beside the mask's border. A mask without a pixel has none.
        """
        return [_trace_polygons(patch) for patch in self.to_patches()]

    def to_patches(self) -> list["Patch"]:
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
            patches.append(Patch(left, top, (values >= IN_MASK).T))
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


@dataclass(frozen=True, eq=False)
class Patch:
    """The pixels (rows, columns) of a part of an image, whose first one is at `left`, `top`."""

    left: int
    top: int
    pixels: NDArray[np.bool_]


def _interpolate(low: float, high: float, size: int) -> tuple[int, NDArray[np.float32]]:
    """Return the first pixel of an axis whose center is in a grid, and weights (pixels, cells).

    low, high: where the grid lies; size: of the image, both in pixels.
    The weights of the cells are those of linear interpolation between the cells' centers.
    """
    first = int(np.clip(np.ceil(low - 0.5), 0, size))
    end = int(np.clip(np.floor(high - 0.5) + 1, first, size))
    if end == first:
        return first, np.zeros((0, MASK_SIDE), np.float32)
    centers = np.arange(first, end) + 0.5
    places = (centers - low) * (MASK_SIDE / (high - low)) - 0.5
    distances = np.abs(places[:, None] - np.arange(MASK_SIDE))
    return first, np.maximum(1 - distances, 0).astype(np.float32)


def _find_runs(patch: Patch, height: int, width: int) -> Runs:
    """Return the runs of a mask in an image of a height and width, without unfolding it."""
    # Down the columns, as the code goes; a zero above and below each ends the spans in it.
    columns = np.pad(patch.pixels.T, ((0, 0), (1, 1)))
    pixels = columns.reshape(-1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    edge_columns, edge_rows = np.divmod(edges, columns.shape[1])
    places = (patch.left + edge_columns) * height + patch.top + edge_rows
    starts, ends = places[::2], places[1::2]

    # A span that reaches the bottom goes on where the next column's begins at the top.
    span_starts = np.setdiff1d(starts, ends, assume_unique=True)
    span_ends = np.setdiff1d(ends, starts, assume_unique=True)
    return join_spans(span_starts, span_ends, height * width)


def _trace_polygons(patch: Patch) -> list[list[float]]:
    """Return the polygons of the parts of a mask, in pixels of the image."""
    # OpenCV's contours run through the centers of pixels. Those of the finer grid lie a quarter of
    # a pixel inside the border and around every center, so a line of single pixels has an area.
    fine = np.repeat(np.repeat(patch.pixels.view(np.uint8), _FINENESS, 0), _FINENESS, 1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops_by_part: dict[int, list[Points]] = {}
    for number, contour in enumerate(contours):
        # A hole names its part; parts come before and after their holes.
        parent = int(hierarchy[0, number, 3])
        loop = _simplify(contour)
        part = loops_by_part.setdefault(number if parent < 0 else parent, [])
        part.insert(0 if parent < 0 else len(part), loop)

    polygons = []
    for _, loops in sorted(loops_by_part.items()):
        points = (join_loops(loops) + 0.5) / _FINENESS + (patch.left, patch.top)
        polygons.append(points.reshape(-1).tolist())
    return polygons


def _simplify(contour: NDArray[np.int32]) -> Points:
    """Return a contour with fewer points, unless nothing would be left of its area."""
    simple = cv2.approxPolyDP(contour, _MAX_SHIFT, closed=True)
    chosen = simple if cv2.contourArea(simple) > 0 else contour
    return chosen.reshape(-1, 2).astype(np.int64)

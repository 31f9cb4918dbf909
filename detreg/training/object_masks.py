"""Masks of a training image's objects: outlines in the original image, and what has moved them.

Nothing is drawn at the size of the image. Polygons and run-length codes stay as they were read,
with one affine matrix each, and are drawn where the network asks for them: in a small grid over a
box. pycocotools' rule holds there: a cell belongs to a mask where its center does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from faster_coco_eval.core import mask as rasterizer
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from torch import Tensor

from detreg.data.outlines import Outline, Polygon
from detreg.run_lengths import RunLengthMask, parse_runs

Matrix = NDArray[np.float64]
"""An affine matrix (2, 3), from x, y and 1 before to x and y after, in pixels."""

Cells = NDArray[np.bool_]
"""Which cells (height, width) of a grid belong to a mask."""

Index = int | slice | Sequence[int] | NDArray[np.int64] | NDArray[np.bool_] | Tensor
"""What MMDetection selects objects by."""

MIN_SIDE = 0.1
"""Pixels: a box that is thinner is not enlarged any further."""


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """The masks of an image's objects, in the order of its boxes.

    It has those methods of MMDetection's BaseInstanceMasks that training calls.

    outlines: of the objects, in pixels of the original image; None for one without a mask.
    matrices: float64 (n, 2, 3), from the original image to the training image.
    height, width: of the original image in pixels; once it is padded, of the training image.
    """

    outlines: tuple[Outline | None, ...]
    matrices: NDArray[np.float64]
    height: int
    width: int

    @property
    def has_mask(self) -> NDArray[np.bool_]:
        """Return which objects (n,) have a mask."""
        return np.array([outline is not None for outline in self.outlines], np.bool_)

    def __len__(self) -> int:
        return len(self.outlines)

    def __getitem__(self, index: Index) -> "ObjectMasks":
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        places = np.atleast_1d(np.arange(len(self))[index])
        outlines = tuple(self.outlines[place] for place in places)
        return replace(self, outlines=outlines, matrices=self.matrices[places])

    @classmethod
    def make(cls, outlines: Sequence[Outline | None], height: int, width: int) -> "ObjectMasks":
        """Return the masks of an image as it was read."""
        matrices = np.tile(make_matrix(), (len(outlines), 1, 1))
        return cls(tuple(outlines), matrices, height, width)

    @classmethod
    def cat(cls, masks: "Sequence[ObjectMasks]") -> "ObjectMasks":
        """Return the masks of one image that were selected one by one."""
        outlines = tuple(outline for part in masks for outline in part.outlines)
        matrices = np.concatenate([part.matrices for part in masks])
        return replace(masks[0], outlines=outlines, matrices=matrices)

    def transform(self, matrix: Matrix) -> "ObjectMasks":
        """Move all masks as the pixels of their image are moved."""
        return replace(self, matrices=_combine(matrix, self.matrices))

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> "ObjectMasks":  # noqa: ARG002
        """Return the masks on a canvas, height and width, which is wider or higher."""
        height, width = out_shape
        return replace(self, height=height, width=width)

    def crop_and_resize(
        self,
        bboxes: NDArray[np.float32] | Tensor,
        out_shape: tuple[int, int],
        inds: NDArray[np.int64] | Tensor,
        device: object = "cpu",  # noqa: ARG002
        interpolation: str = "bilinear",  # noqa: ARG002
        binarize: bool = True,
    ) -> BitmapMasks:
        """Draw one mask each in a grid over a box: uint8 (boxes, *out_shape), 0 or 1.

        bboxes: (boxes, 4) in pixels of the training image.
        inds: the places (boxes,) of the objects, which must have a mask.
        """
        if not binarize:
            raise ValueError("binarize must be true: cells are inside a mask or outside")
        places = np.asarray(inds.cpu() if isinstance(inds, Tensor) else inds)
        boxes = np.asarray(bboxes.cpu() if isinstance(bboxes, Tensor) else bboxes, np.float64)

        grids = np.zeros((len(places), *out_shape), np.uint8)
        for grid, place, box in zip(grids, places.tolist(), boxes, strict=True):
            outline = self.outlines[place]
            if outline is None:
                raise ValueError(f"object {place} must have a mask, got one that has none")
            matrix = _combine(_make_grid_matrix(box, out_shape), self.matrices[place])
            grid[:] = _draw(outline, matrix, out_shape)
        return BitmapMasks(grids, *out_shape)


def make_matrix(
    factor_x: float = 1.0, factor_y: float = 1.0, right: float = 0.0, down: float = 0.0
) -> Matrix:
    """Return the matrix that scales about the top left corner, then moves by pixels."""
    return np.array([[factor_x, 0.0, right], [0.0, factor_y, down]])


def _make_grid_matrix(box: NDArray[np.float64], shape: tuple[int, int]) -> Matrix:
    """Return the matrix from the training image to the cells of a grid over a box."""
    left, top, right, bottom = box.tolist()
    factor_x = shape[1] / max(right - left, MIN_SIDE)
    factor_y = shape[0] / max(bottom - top, MIN_SIDE)
    return make_matrix(factor_x, factor_y, -left * factor_x, -top * factor_y)


def _combine(second: Matrix, first: Matrix) -> Matrix:
    """Return the matrix, or the matrices, of what `first` does and then `second`."""
    combined = second[:, :2] @ first
    combined[..., 2] += second[:, 2]
    return combined


def _draw(outline: Outline, matrix: Matrix, shape: tuple[int, int]) -> Cells:
    """Return a moved outline in a grid (height, width)."""
    if outline.mask is None:
        return _fill_polygons(outline.polygons, matrix, shape)
    return _look_up(outline.mask, matrix, shape)


def _fill_polygons(polygons: Sequence[Polygon], matrix: Matrix, shape: tuple[int, int]) -> Cells:
    moved = []
    for polygon in polygons:
        points = np.asarray(polygon).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
        moved.append(points.reshape(-1).tolist())
    code = rasterizer.merge(rasterizer.frPyObjects(moved, *shape))
    cells: Cells = rasterizer.decode(code).view(np.bool_)
    return cells


@lru_cache(maxsize=1000)
def _find_ends(mask: RunLengthMask) -> NDArray[np.int64]:
    """Return the first pixel behind each run of a mask, which many boxes of an object ask for."""
    runs = parse_runs(mask)
    if runs is None:
        raise ValueError("the runs of a mask of a canonical file must be those of its image")
    return np.cumsum(runs)


def _look_up(mask: RunLengthMask, matrix: Matrix, shape: tuple[int, int]) -> Cells:
    """Return the cells whose center lies in a pixel of the mask."""
    rows, columns = np.indices(shape)
    centers = np.stack([columns, rows], axis=-1) + 0.5
    pixels = (centers - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    x, y = np.moveaxis(np.floor(pixels).astype(np.int64), -1, 0)
    is_inside = (x >= 0) & (x < mask.width) & (y >= 0) & (y < mask.height)

    # Pixels are numbered down the columns. Runs of zeros and of ones take turns, zeros first.
    numbers = np.where(is_inside, x * mask.height + y, 0)
    run_of_pixel = np.searchsorted(_find_ends(mask), numbers, side="right")
    is_one: Cells = is_inside & (run_of_pixel % 2 == 1)
    return is_one

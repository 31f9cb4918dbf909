"""Images that are made of several: Mosaic with its warp, and MixUp (YOLOX, arXiv:2107.08430).

They draw the random numbers of MMDetection 3.3's Mosaic, RandomAffine and MixUp in the same order
and give the same boxes and pixels (MixUp's within a level) in a fraction of the time: no image is
copied before it is drawn, pixels stay uint8 and boxes are arrays.

Images that are mixed in may be read-only, and are never changed.
"""

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import MultiImageMixDataset
from mmdet.registry import DATASETS, TRANSFORMS

from detreg.training.image_cache import Pixels
from detreg.training.objects import (
    Objects,
    Part,
    clip_objects,
    get_objects,
    join_objects,
    mirror_objects,
    move_objects,
    put_objects,
    scale_objects,
    select_objects_inside,
)
from detreg.training.seeding import SeededIndex
from detreg.training.transforms import Results
from detreg.training.warp import draw_warp, find_visible_part, warp_boxes

MAX_DRAWS = 15
"""How often MixUp draws an image in search of one with objects."""


@DATASETS.register_module()
class MixedImages(MultiImageMixDataset):
    """Images of an inner dataset, passed through transforms that may mix further ones in.

    MMDetection's class copies all images before each transform. Here a transform leaves the images
    that it is given as they are, and returns an image, never None.
    """

    def __getitem__(self, index: int) -> Results:
        """Return the image with this index, mixed with others and packed."""
        skipped_types = self._skip_type_keys or ()
        if isinstance(index, SeededIndex):
            skipped_types = (*skipped_types, *index.skip)  # PlainEpochsHook names them

        results = self.dataset[index]
        for transform, type_ in zip(self.pipeline, self.pipeline_types, strict=True):
            if type_ in skipped_types:
                continue
            if hasattr(transform, "draw_others"):
                others = transform.draw_others(self.dataset)
                results["mix_results"] = [self.dataset[other] for other in others]
            results = transform(results)
            results.pop("mix_results", None)
        return results


@TRANSFORMS.register_module()
class FastMosaic(BaseTransform):
    """Puts four images around a random point of a gray canvas, and warps that at random.

    `size` is the width and height to which each image is fitted, and that of the result; the canvas
    is twice as wide and high. `factors` are the lowest and highest by which the warp scales.
    """

    def __init__(self, size: tuple[int, int], factors: tuple[float, float], gray: int) -> None:
        self.width, self.height = size
        self.factors = factors
        self.gray = gray
        # OpenCV warps four channels in half the time of three. The canvas is kept, since to get so
        # many megabytes from the kernel each time takes as long as all the rest. That is safe: a
        # process makes one image after the other, and no result refers to the canvas.
        self._canvas = np.empty((2 * self.height, 2 * self.width, 4), np.uint8)

    def draw_others(self, images: Any) -> list[int]:
        """Draw the three images that follow the first, any of the dataset."""
        return [np.random.randint(0, len(images)) for _ in range(3)]

    def transform(self, results: Results) -> Results:
        """Make one image of four, with the objects of all that can still be seen."""
        np.random.uniform()  # MMDetection draws here whether there is to be a mosaic
        center_x = int(np.random.uniform(0.5, 1.5) * self.width)
        center_y = int(np.random.uniform(0.5, 1.5) * self.height)
        matrix = draw_warp(self.factors, self.width, self.height)

        visible = find_visible_part(matrix, self.width, self.height)
        sources = [results, *results["mix_results"]]
        objects = self._compose(sources, center_x, center_y, visible)
        warped = cv2.warpPerspective(
            self._canvas, matrix, dsize=(self.width, self.height), borderValue=[self.gray] * 4
        )
        objects = objects.replace_boxes(warp_boxes(objects.boxes, matrix))
        objects = clip_objects(objects, self.width, self.height)

        put_objects(results, select_objects_inside(objects, self.width, self.height))
        results["img"] = cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR)
        results["img_shape"] = (self.height, self.width)
        return results

    def _compose(
        self, sources: list[Results], center_x: int, center_y: int, visible: Part
    ) -> Objects:
        """Draw the visible part of the canvas; return the objects of all of it."""
        canvas_width, canvas_height = 2 * self.width, 2 * self.height
        canvas = self._canvas[visible.top : visible.bottom, visible.left : visible.right]
        canvas.fill(self.gray)

        parts = []
        for place, source in enumerate(sources):
            image, factor = fit_image(source["img"], self.width, self.height)

            # Places 0 to 3: above left, above right, below left, below right.
            height, width = image.shape[:2]
            left = center_x if place % 2 else center_x - width
            top = center_y if place // 2 else center_y - height

            paste_image(canvas, image, left - visible.left, top - visible.top)
            scaled = scale_objects(get_objects(source), factor, factor)
            parts.append(move_objects(scaled, left, top))

        objects = clip_objects(join_objects(parts), canvas_width, canvas_height)
        return select_objects_inside(objects, canvas_width, canvas_height)


@TRANSFORMS.register_module()
class FastMixUp(BaseTransform):
    """Lays another image over an image, half transparent, with the objects of both.

    The other is fitted to `size` (width and height), scaled by a random factor from `factors`,
    mirrored or not, and cut at a random place.
    """

    def __init__(self, size: tuple[int, int], factors: tuple[float, float], gray: int) -> None:
        self.width, self.height = size
        self.factors = factors
        self.gray = gray

    def draw_others(self, images: Any) -> list[int]:
        """Draw one image, again where it has no objects."""
        for _ in range(MAX_DRAWS):
            index = np.random.randint(0, len(images))
            if images.get_data_info(index)["instances"]:
                break
        return [index]

    def transform(self, results: Results) -> Results:
        """Mix the image with the other, unless that has no objects."""
        (other,) = results["mix_results"]
        objects = get_objects(other)
        if len(objects.boxes) == 0:
            return results

        factor = np.random.uniform(*self.factors)
        is_mirrored = np.random.uniform() > 0.5
        layer, fit_factor = self._make_layer(other["img"], factor, is_mirrored)

        # The place is drawn along a side only where the layer is longer than the image.
        height, width = results["img"].shape[:2]
        layer_height, layer_width = layer.shape[:2]
        top = np.random.randint(0, layer_height - height) if layer_height > height else 0
        left = np.random.randint(0, layer_width - width) if layer_width > width else 0
        part = self._cut_out(layer, left, top, (width, height))
        results["img"] = average(results["img"], part)

        whole_factor = fit_factor * factor
        objects = scale_objects(objects, whole_factor, whole_factor)
        objects = clip_objects(objects, layer_width, layer_height)
        if is_mirrored:
            objects = mirror_objects(objects, layer_width)
        objects = clip_objects(move_objects(objects, -left, -top), width, height)
        both = join_objects([get_objects(results), objects])
        put_objects(results, select_objects_inside(both, width, height))
        return results

    def _make_layer(self, image: Pixels, factor: float, is_mirrored: bool) -> tuple[Pixels, float]:
        """Return the other image on its scaled canvas, and the factor that fitted it to `size`."""
        fitted, fit_factor = fit_image(image, self.width, self.height)
        canvas = np.full((self.height, self.width, 3), self.gray, np.uint8)
        paste_image(canvas, fitted, 0, 0)

        scaled_size = (int(self.width * factor), int(self.height * factor))
        layer = cv2.resize(canvas, scaled_size, interpolation=cv2.INTER_LINEAR)
        if is_mirrored:
            layer = cv2.flip(layer, 1)
        return layer, fit_factor

    def _cut_out(self, layer: Pixels, left: int, top: int, size: tuple[int, int]) -> Pixels:
        """Return the part of a layer from a corner on; what the layer lacks is gray."""
        width, height = size
        part = layer[top : top + height, left : left + width]
        if part.shape[:2] == (height, width):
            return part

        padded = np.full((height, width, 3), self.gray, np.uint8)
        paste_image(padded, part, 0, 0)
        return padded


def fit_image(image: Pixels, width: int, height: int) -> tuple[Pixels, float]:
    """Resize an image so that it just fits into a size; return it with the factor.

    An image that has the size already is returned itself.
    """
    old_height, old_width = image.shape[:2]
    factor = min(height / old_height, width / old_width)

    # MMDetection fails where a side of a very long image rounds to nothing.
    new_width = max(int(old_width * factor), 1)
    new_height = max(int(old_height * factor), 1)
    if (new_width, new_height) == (old_width, old_height):
        return image, factor
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), factor


def paste_image(canvas: Pixels, image: Pixels, left: int, top: int) -> None:
    """Copy an image to a place of a canvas; what lies outside is left out.

    The canvas may have a fourth channel, of any levels.
    """
    canvas_height, canvas_width = canvas.shape[:2]
    height, width = image.shape[:2]
    first_row, last_row = max(top, 0), min(top + height, canvas_height)
    first_column, last_column = max(left, 0), min(left + width, canvas_width)

    if first_row >= last_row or first_column >= last_column:
        return

    part = image[first_row - top : last_row - top, first_column - left : last_column - left]
    target = canvas[first_row:last_row, first_column:last_column]
    if canvas.shape[2] == 4:
        cv2.cvtColor(part, cv2.COLOR_BGR2BGRA, dst=target)
    else:
        target[:] = part


def average(image: Pixels, other: Pixels) -> Pixels:
    """Return the mean of two images of one size, rounded down."""
    # addWeighted rounds to the nearest level: a quarter less turns halves down, and nothing else.
    return cv2.addWeighted(image, 0.5, other, 0.5, -0.25)

"""SSD's crop: a random part of an image, or of a wider canvas that the image lies on.

It draws the random numbers of MMDetection 3.3's Expand and MinIoURandomCrop in the same order, and
gives the same boxes and pixels. The canvas, of up to sixteen times the pixels, is never made:
only the part that is cut out of it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from numpy.typing import NDArray

from detreg.training.image_cache import Pixels
from detreg.training.objects import (
    Boxes,
    Part,
    clip_objects,
    get_objects,
    move_objects,
    put_objects,
    select_objects,
)
from detreg.training.transforms import Results

MAX_TRIES = 50
"""How often a part is drawn for one demand on its overlap with objects."""
MAX_ASPECT_RATIO = 2.0
"""Longer over smaller side of a part, at most."""
WHOLE = 1
"""In the place of a smallest overlap: the whole image is kept."""
ANY = 0
"""In the place of a smallest overlap: any part will do that has the center of an object."""


@TRANSFORMS.register_module()
class FastExpandCrop(BaseTransform):
    """Puts half of the images on a wider canvas, then cuts a random part out of most.

    factors: the lowest and highest width and height of the canvas over the image's.
    levels: of the canvas, in BGR.
    overlaps: smallest overlaps (IoU) that a part has with every object, of which one is drawn.
    min_share: the lowest width and height of a part over those of the whole.
    """

    def __init__(
        self,
        factors: tuple[float, float],
        levels: Sequence[int],
        overlaps: Sequence[float],
        min_share: float,
    ) -> None:
        self.factors = factors
        self.levels = tuple(levels)
        self.demands = (WHOLE, *overlaps, ANY)
        self.min_share = min_share

    def transform(self, results: Results) -> Results:
        """Cut out a part, with the objects that have their center in it."""
        height, width = results["img"].shape[:2]
        canvas = self._draw_canvas(width, height)
        objects = move_objects(get_objects(results), -canvas.left, -canvas.top)

        part = self._draw_part(objects.boxes, canvas.width, canvas.height)
        if part is None:
            part = Part(0, 0, canvas.width, canvas.height)
        else:
            objects = select_objects(objects, _has_center(objects.boxes, part))
            objects = move_objects(objects, -part.left, -part.top)
            objects = clip_objects(objects, part.width, part.height)

        put_objects(results, objects)
        part_of_image = part.move(canvas.left, canvas.top)
        results["img"] = cut_out(results["img"], part_of_image, self.levels)
        results["img_shape"] = (part.height, part.width)
        return results

    def _draw_canvas(self, width: int, height: int) -> Part:
        """Draw the canvas, in pixels from the corner of the image: of its size, or a wider one."""
        if np.random.uniform(0, 1) > 0.5:
            return Part(0, 0, width, height)
        factor = np.random.uniform(*self.factors)
        left = -int(np.random.uniform(0, width * factor - width))
        top = -int(np.random.uniform(0, height * factor - height))
        return Part(left, top, left + int(width * factor), top + int(height * factor))

    def _draw_part(self, boxes: Boxes, width: int, height: int) -> Part | None:
        """Draw a part of a canvas with the boxes in it; None is the whole."""
        smallest_area = float(_compute_areas(boxes).min(initial=np.inf))
        while True:
            min_overlap = np.random.choice(self.demands)
            if min_overlap == WHOLE:
                return None
            for _ in range(MAX_TRIES):
                part = self._try_part(width, height)
                if part is None:
                    continue
                # The IoU with a box is at most their areas' ratio; the factor covers rounding. Most
                # parts are refused here, in a fraction of the time.
                if min_overlap * part.width * part.height > 1.001 * smallest_area:
                    continue
                if _is_good(part, boxes, min_overlap):
                    return part

    def _try_part(self, width: int, height: int) -> Part | None:
        """Draw a part; None where it is too long or too small."""
        new_width = np.random.uniform(self.min_share * width, width)
        new_height = np.random.uniform(self.min_share * height, height)
        ratio = new_height / new_width
        if ratio < 1 / MAX_ASPECT_RATIO or ratio > MAX_ASPECT_RATIO:
            return None

        # As in MMDetection, from one pixel to what the part leaves free.
        left = np.random.uniform(width - new_width)
        top = np.random.uniform(height - new_height)
        part = Part(int(left), int(top), int(left + new_width), int(top + new_height))
        return part if part.width and part.height else None


def _is_good(part: Part, boxes: Boxes, min_overlap: float) -> bool:
    """Return whether a part overlaps all boxes by so much, and has the center of one.

    Where there are no boxes, any part is good.
    """
    if len(boxes) == 0:
        return True
    if _compute_overlaps(part, boxes).min() < min_overlap:
        return False
    return bool(_has_center(boxes, part).any())


def _compute_overlaps(part: Part, boxes: Boxes) -> NDArray[np.float32]:
    """Return the IoU (n,) of a part with each box."""
    left, top, right, bottom = boxes.T
    common_width = np.minimum(right, part.right) - np.maximum(left, part.left)
    common_height = np.minimum(bottom, part.bottom) - np.maximum(top, part.top)
    common = np.maximum(common_width, 0) * np.maximum(common_height, 0)

    union = np.float32(part.width * part.height) + _compute_areas(boxes) - common
    return common / np.maximum(union, np.float32(1e-6))


def _compute_areas(boxes: Boxes) -> NDArray[np.float32]:
    """Return the area (n,) of each box."""
    left, top, right, bottom = boxes.T
    return (right - left) * (bottom - top)


def _has_center(boxes: Boxes, part: Part) -> NDArray[np.bool_]:
    """Return which boxes (n,) have their center in a part."""
    center_x = (boxes[:, 0] + boxes[:, 2]) / 2
    center_y = (boxes[:, 1] + boxes[:, 3]) / 2
    is_between_sides = (center_x > part.left) & (center_x < part.right)
    return is_between_sides & (center_y > part.top) & (center_y < part.bottom)


def cut_out(image: Pixels, part: Part, levels: tuple[int, ...]) -> Pixels:
    """Return a part of an image; what lies beyond the image has `levels`, one for each channel.

    A part that lies within the image is a view of it.
    """
    height, width = image.shape[:2]
    inside = Part(
        left=max(part.left, 0),
        top=max(part.top, 0),
        right=min(part.right, width),
        bottom=min(part.bottom, height),
    )
    if inside.left >= inside.right or inside.top >= inside.bottom:
        return np.full((part.height, part.width, 3), levels, np.uint8)

    pixels = image[inside.top : inside.bottom, inside.left : inside.right]
    if inside == part:
        return pixels
    above, below = inside.top - part.top, part.bottom - inside.bottom
    before, behind = inside.left - part.left, part.right - inside.right
    return cv2.copyMakeBorder(
        pixels, above, below, before, behind, cv2.BORDER_CONSTANT, value=levels
    )

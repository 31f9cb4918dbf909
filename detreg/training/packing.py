"""The last transform of a training image: to an item of a batch."""

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from detreg.templates.config import Config
from detreg.training.image_cache import Pixels
from detreg.training.objects import get_objects, put_objects, select_objects
from detreg.training.shared_images import SharedImage, make_image_memory
from detreg.training.transforms import Results

MIN_SIDE = 1
"""Pixels: the sides of a box must be longer to be learned from."""


@TRANSFORMS.register_module()
class PackImage(PackDetInputs):
    """Turns an image with its boxes into tensors; drops boxes without an area.

    An image that has no box left stays in the batch, as an image of nothing. `memory` is what
    ImageMemory takes, for pixels that a process of a loader sends.
    """

    def __init__(self, memory: Config | None = None) -> None:
        super().__init__()
        self.memory = make_image_memory(memory)

    def transform(self, results: Results) -> Results:
        """Return `inputs`, uint8 (3, height, width) in BGR, and `data_samples`."""
        if "gt_bboxes" in results:  # an image to be scored has none
            _drop_small_objects(results)
        image = results.pop("img")
        packed: Results = super().transform(results)
        packed["inputs"] = self._pack_pixels(image)
        return packed

    def _pack_pixels(self, image: Pixels) -> torch.Tensor | SharedImage:
        """Return the planes of an image (height, width, 3)."""
        height, width = image.shape[:2]
        shared = None if self.memory is None else self.memory.find_room(height, width)
        planes = np.empty((3, height, width), np.uint8) if shared is None else shared.planes
        cv2.split(image, list(planes))
        return torch.from_numpy(planes) if shared is None else shared


def _drop_small_objects(results: Results) -> None:
    objects = get_objects(results)
    left, top, right, bottom = objects.boxes.T
    is_large = (right - left > MIN_SIDE) & (bottom - top > MIN_SIDE)
    put_objects(results, select_objects(objects, is_large))

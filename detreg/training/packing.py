"""The last transform of a training image: to an item of a batch."""

import cv2
import numpy as np
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from detreg.training.objects import get_objects, put_objects, select_objects
from detreg.training.transforms import Results

MIN_SIDE = 1
"""Pixels: the sides of a box must be longer to be learned from."""


@TRANSFORMS.register_module()
class PackImage(PackDetInputs):
    """Turns an image with its boxes into tensors; drops boxes without an area.

    An image that has no box left stays in the batch, as an image of nothing.
    """

    def transform(self, results: Results) -> Results:
        """Return `inputs`, uint8 (3, height, width) in BGR, and `data_samples`."""
        objects = get_objects(results)
        left, top, right, bottom = objects.boxes.T
        is_large = (right - left > MIN_SIDE) & (bottom - top > MIN_SIDE)
        put_objects(results, select_objects(objects, is_large))

        # PackDetInputs moves the planes to the front, several times as slowly where they are not
        # in this order already.
        image = results["img"]
        height, width = image.shape[:2]
        planes = np.empty((3, height, width), image.dtype)
        cv2.split(image, list(planes))
        results["img"] = planes.transpose(1, 2, 0)
        return super().transform(results)

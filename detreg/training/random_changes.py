"""Random changes of one image: of its colors, and which way round it is.

They draw the random numbers of MMDetection 3.3's YOLOXHSVRandomAug, RandomFlip and
PhotoMetricDistortion in the same order and give the same pixels and boxes. No image is changed in
place: it may be read-only.
"""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PhotoMetricDistortion
from mmdet.registry import TRANSFORMS
from numpy.typing import NDArray

from detreg.training.objects import get_objects, mirror_objects, put_objects
from detreg.training.transforms import Results

MAX_HSV_CHANGES = (5, 30, 30)
"""Levels of hue (of 180), saturation and value (of 256) to either side."""
HUES = 180
"""Number of hues in OpenCV's 8-bit HSV."""


@TRANSFORMS.register_module()
class FastHsv(BaseTransform):
    """Shifts hue, saturation and value, each in half of the images."""

    def transform(self, results: Results) -> Results:
        """Change the image's colors."""
        changes = np.random.uniform(-1, 1, 3) * MAX_HSV_CHANGES
        changes *= np.random.randint(0, 2, 3)
        hue_change, saturation_change, value_change = changes.astype(np.int16).tolist()

        hue, saturation, value = cv2.split(cv2.cvtColor(results["img"], cv2.COLOR_BGR2HSV))
        if hue_change:
            new_hues = (np.arange(256) + hue_change) % HUES
            hue = cv2.LUT(hue, new_hues.astype(np.uint8))
        # OpenCV stops at 0 and 255, in an eighth of the time of a table.
        if saturation_change:
            saturation = cv2.add(saturation, float(saturation_change))
        if value_change:
            value = cv2.add(value, float(value_change))

        hsv = cv2.merge([hue, saturation, value])
        results["img"] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return results


@TRANSFORMS.register_module()
class FastFlip(BaseTransform):
    """Exchanges left and right in half of the images."""

    def transform(self, results: Results) -> Results:
        """Mirror the image with its objects, or leave both."""
        if np.random.uniform() >= 0.5:
            return results

        results["img"] = cv2.flip(results["img"], 1)
        width = results["img"].shape[1]
        put_objects(results, mirror_objects(get_objects(results), width))
        return results


@TRANSFORMS.register_module()
class LevelDistortion(PhotoMetricDistortion):
    """Changes brightness, contrast, saturation, hue and order of colors, as published for SSD.

    What leaves the levels 0 to 255 becomes the nearest of them. MMDetection returns floating-point
    pixels beyond, which no image has that is served.
    """

    def transform(self, results: Results) -> Results:
        """Change the image's colors."""
        flags_and_values = self._random_flags()
        mode, brightness_flag, contrast_flag, saturation_flag, hue_flag, order_flag = (
            flags_and_values[:6]
        )
        brightness, contrast, saturation, hue, order = flags_and_values[6:]

        image = results["img"].astype(np.float32)
        if brightness_flag:
            image += brightness
        if contrast_flag and mode == 1:
            image *= contrast
        image = _change_hsv(image, hue if hue_flag else 0.0, saturation if saturation_flag else 1.0)
        if contrast_flag and mode == 0:
            image *= contrast

        # OpenCV rounds to the nearest level, and cuts off what lies beyond.
        levels = cv2.add(image, 0.0, dtype=cv2.CV_8U)
        if order_flag:
            planes = cv2.split(levels)
            levels = cv2.merge([planes[channel] for channel in order])
        results["img"] = levels
        return results


def _change_hsv(
    image: NDArray[np.float32], hue_change: float, saturation_factor: float
) -> NDArray[np.float32]:
    """Add to the hue, in degrees, and multiply the saturation, of 0 to 1, of a BGR image."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    saturation *= saturation_factor
    if saturation_factor > 1:
        np.minimum(saturation, 1, out=saturation)

    hue += hue_change
    if hue_change > 0:
        np.subtract(hue, 360, out=hue, where=hue > 360)
    elif hue_change < 0:
        np.add(hue, 360, out=hue, where=hue < 0)
    return cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2BGR)

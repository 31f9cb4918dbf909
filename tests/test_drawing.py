"""Boxes drawn on an image."""

import numpy as np
import pytest
from toy_detector import draw_image

from detreg.inference.detections import Detections
from detreg.report.drawing import draw_detections


@pytest.mark.parametrize(("width", "height"), [(40, 30), (640, 480), (3000, 2000)])
def test_drawing_marks_the_box_and_leaves_the_image_alone(width: int, height: int) -> None:
    box = (width // 4, height // 4, width // 2, height // 2)
    image = draw_image(width, height, box)
    detections = Detections(
        boxes=np.array([box], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([0]),
        class_names=("boat",),
    )
    before = image.copy()

    drawn = draw_detections(image, detections)
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape
    changed_share = (drawn != image).any(axis=2).mean()
    assert 0.002 < changed_share < 0.6

"""Our crop gives the boxes and pixels of MMDetection's for the same random numbers."""

import numpy as np
import pytest
from drawn_results import Images, assert_equal, copy_results, draw_next_number

from detreg.training.crops import FastExpandCrop, cut_out
from detreg.training.objects import Part

# detreg.training has provided mmcv's operators, which MMDetection imports.
from mmdet.datasets.transforms import Expand, MinIoURandomCrop  # isort: skip

RGB_MEAN = (123.675, 116.28, 103.53)
OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)


def test_expand_and_crop() -> None:
    ours = FastExpandCrop((1, 4), [103, 116, 123], OVERLAPS, 0.3)
    expand = Expand(mean=RGB_MEAN, to_rgb=True, ratio_range=(1, 4))
    crop = MinIoURandomCrop(min_ious=OVERLAPS, min_crop_size=0.3)

    cropped = 0
    for seed in range(300):
        results = Images(seed)[seed % 12]
        np.random.seed(seed)
        made = ours.transform(dict(results))
        next_number = draw_next_number()

        np.random.seed(seed)
        expected = crop.transform(expand.transform(copy_results(results)))
        assert draw_next_number() == next_number
        assert_equal(made, expected, levels=0)
        cropped += made["img_shape"] != results["img_shape"]
    assert cropped > 100


@pytest.mark.parametrize(
    "part", [Part(-2, -3, 7, 9), Part(1, 1, 3, 2), Part(2, -1, 9, 2), Part(6, 0, 8, 2)]
)
def test_what_lies_beyond_an_image_is_filled(part: Part) -> None:
    image = np.full((4, 5, 3), 9, np.uint8)
    canvas = np.full((24, 25, 3), (1, 2, 3), np.uint8)
    canvas[10:14, 10:15] = 9
    rows = slice(part.top + 10, part.bottom + 10)
    columns = slice(part.left + 10, part.right + 10)
    np.testing.assert_array_equal(cut_out(image, part, (1, 2, 3)), canvas[rows, columns])

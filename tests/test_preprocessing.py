"""The sizes of the input, and how an image gets there."""

import cv2
import numpy as np
import pytest
from toy_detector import LETTERBOX, draw_image

from detreg.errors import UsageError
from detreg.inference.preprocessing import Preprocessing, Size, pad_image

BLACK = (0, 0, 0)


# Sides are rounded so: factor = min(longest / longer side, shortest / shorter side), and each side
# is int(side * factor + 0.5).
@pytest.mark.parametrize(
    ("image_size", "aspect", "original", "resized", "canvas"),
    [
        (640, 1.0, (640, 480), (640, 480), (640, 640)),
        (640, 1.0, (500, 375), (640, 480), (640, 640)),
        (640, 1.0, (427, 640), (427, 640), (640, 640)),
        # 0.128 pixels wide, but never none
        (640, 1.0, (1, 5000), (1, 640), (640, 640)),
        # the canvas divides by 32 although the size does not
        (100, 1.0, (50, 50), (100, 100), (128, 128)),
        # 1066.67 rounds up
        (800, 1.7, (640, 480), (1067, 800), (1088, 800)),
        (800, 1.7, (480, 640), (800, 1067), (800, 1088)),
        # the longer side decides
        (800, 1.7, (1000, 300), (1360, 408), (1376, 416)),
        # 333 * 768 / 500 = 511.488
        (512, 1.5, (333, 500), (511, 768), (512, 768)),
        (512, 1.5, (512, 768), (512, 768), (512, 768)),
        # 301 * 512 / 300 = 513.7
        (512, 2.0, (300, 301), (512, 514), (512, 544)),
        # 320 * 1.3 is 416 in spite of floating point
        (320, 1.3, (100, 400), (104, 416), (128, 416)),
    ],
)
def test_sizes_are_those_of_mmcv(
    image_size: int, aspect: float, original: Size, resized: Size, canvas: Size
) -> None:
    preprocessing = Preprocessing((image_size,), True, aspect, BLACK)
    assert preprocessing.compute_resized_size(*original) == resized
    assert preprocessing.compute_canvas_size(*resized) == canvas
    assert preprocessing.compute_input_size(*original) == canvas
    assert preprocessing.fixed_canvas == (canvas if aspect == 1.0 else None)


@pytest.mark.parametrize(("image_size", "exact"), [((320,), (320, 320)), ((800, 512), (800, 512))])
def test_without_aspect_ratio_every_image_gets_one_size(
    image_size: tuple[int, ...], exact: Size
) -> None:
    preprocessing = Preprocessing(image_size, False, 1.5, BLACK)
    assert preprocessing.exact_size == exact
    assert preprocessing.fixed_canvas == exact
    assert preprocessing.compute_resized_size(77, 1234) == exact

    prepared = preprocessing.prepare(draw_image(77, 200, (0, 0, 1, 1)))
    width, height = exact
    assert prepared.pixels.shape == (height, width, 3)


def test_limits_do_not_lose_a_pixel_to_floating_point() -> None:
    assert Preprocessing((800,), True, 1.7, BLACK).limits == (1360, 800)


def test_a_smallest_input_is_padded_to() -> None:
    preprocessing = Preprocessing((32,), True, 2.0, BLACK, pad_divisor=32, smallest_input=65)
    assert preprocessing.compute_input_size(100, 50) == (96, 96)


def test_impossible_preprocessing_is_refused_with_every_reason() -> None:
    with pytest.raises(UsageError) as refused:
        Preprocessing((800, 512), True, 0.5, (300, 0, 0), 0)
    first_words = [problem.split()[0] for problem in refused.value.problems]
    assert first_words == ["image_size=(800,", "max_aspect_ratio", "pad_value", "pad_divisor"]


def test_preparing_resizes_and_pads_right_and_below() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    prepared = LETTERBOX.prepare(image)
    assert prepared.pixels.shape == (64, 64, 3)
    assert prepared.scale == (64 / 96, 32 / 48)
    assert prepared.original_size == (96, 48)

    resized = cv2.resize(image, (64, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(prepared.pixels[:32], resized)
    assert (prepared.pixels[32:] == 114).all()


def test_padding_has_a_level_for_each_channel() -> None:
    padded = pad_image(np.zeros((1, 2, 3), np.uint8), canvas=(3, 1), value=(1, 2, 3))
    assert padded.tolist() == [[[0, 0, 0], [0, 0, 0], [1, 2, 3]]]

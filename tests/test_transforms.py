"""Random sizes and padding of training images, with their boxes."""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from detreg.errors import DataError
from detreg.inference.images import read_image
from detreg.training.transforms import PadToCanvas, RandomMixedSize, RandomSize, ReadImage


def make_results(width: int, height: int) -> dict[str, Any]:
    """Return an image with a box over its left half, as MMDetection's transforms pass it on."""
    # It imports mmcv's operators, which importing detreg.training has provided.
    from mmdet.structures.bbox import HorizontalBoxes

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[0.0, 0.0, width / 2, height]]))
    return {
        "img": image,
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "gt_bboxes": boxes,
    }


def get_size(results: dict[str, Any]) -> tuple[int, int]:
    """Return the width and height of the image."""
    height, width = results["img"].shape[:2]
    return width, height


def make_resize(
    lower: tuple[int, ...], upper: tuple[int, ...], cls: type[RandomSize] = RandomSize, **sizes: Any
) -> RandomSize:
    """Return the transform, which keeps the aspect ratio where `lower` is one number."""
    preprocessing = {
        "image_size": lower,
        "keep_aspect_ratio": len(lower) == 1,
        "max_aspect_ratio": 1.5,
        "pad_value": (0, 0, 0),
    }
    return cls(lower, upper, preprocessing | sizes)


# random sizes


def test_a_random_size_is_on_the_grid_between_the_limits() -> None:
    resize = make_resize((96,), (192,))
    random.seed(0)
    times_by_size = Counter(get_size(resize(make_results(250, 200))) for _ in range(200))
    assert set(times_by_size) == {(120, 96), (160, 128), (200, 160), (240, 192)}
    assert min(times_by_size.values()) > 30


def test_width_and_height_each_stay_between_their_limits() -> None:
    resize = make_resize((96, 64), (192, 64))
    random.seed(0)
    sizes = {get_size(resize(make_results(250, 200))) for _ in range(100)}
    assert sizes == {(96, 64), (128, 64), (160, 64), (192, 64)}


def test_the_longer_side_is_limited_at_every_size() -> None:
    resize = make_resize((96,), (192,))
    random.seed(0)
    for _ in range(50):
        width, height = get_size(resize(make_results(1000, 200)))
        assert width in (144, 192, 240, 288)
        assert height == round(width / 5)


def test_random_sizes_are_the_same_for_a_seed_of_python_whatever_torch_draws() -> None:
    heights_by_seed = []
    for torch_seed in range(2):
        resize = make_resize((64,), (256,))
        torch.manual_seed(torch_seed)
        np.random.seed(torch_seed)
        random.seed(5)
        heights = [get_size(resize(make_results(300, 300)))[1] for _ in range(10)]
        heights_by_seed.append(heights)

    assert heights_by_seed[0] == heights_by_seed[1]
    assert len(set(heights_by_seed[0])) > 2


def test_boxes_are_resized_with_their_image() -> None:
    results = make_resize((64,), (64,))(make_results(160, 128))
    assert get_size(results) == (80, 64)
    assert results["gt_bboxes"].tensor.tolist() == [[0.0, 0.0, 40.0, 64.0]]


def test_a_mixed_canvas_is_scaled_as_a_whole_small_or_not() -> None:
    resize = make_resize((64,), (64,), RandomMixedSize, image_size=(128,))
    assert get_size(resize(make_results(192, 192))) == (96, 96)
    assert get_size(resize(make_results(32, 32))) == (16, 16)


# images below the lower limit


@pytest.mark.parametrize(
    ("lower", "upper", "size", "expected"),
    [
        ((96,), (192,), (80, 90), (80, 90)),
        ((96, 96), (192, 192), (95, 95), (95, 95)),
        ((96,), (192,), (300, 80), (120, 32)),  # the longer side is at most 1.5 times the smaller
        ((96, 96), (192, 192), (95, 20), (30, 6)),
    ],
)
def test_an_image_below_the_lower_limit_keeps_its_size_within_max_aspect_ratio(
    lower: tuple[int, ...], upper: tuple[int, ...], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    results = make_resize(lower, upper)(make_results(*size))
    assert get_size(results) == expected
    width, height = expected
    assert results["gt_bboxes"].tensor[0].tolist() == pytest.approx([0.0, 0.0, width / 2, height])


def test_one_side_over_its_limit_is_not_small() -> None:
    assert get_size(make_resize((96, 96), (96, 96))(make_results(300, 80))) == (96, 96)


def test_a_part_of_a_large_image_is_not_small() -> None:
    part = {**make_results(40, 40), "ori_shape": (300, 300)}
    assert get_size(make_resize((96,), (96,))(part)) == (96, 96)


@pytest.mark.parametrize(("keep_ratio", "size"), [(True, (120, 60)), (False, (80, 80))])
def test_what_was_made_of_a_small_image_has_the_size_of_the_image(
    keep_ratio: bool, size: tuple[int, int]
) -> None:
    """SSD expands and crops an image before it is resized."""
    resize = make_resize((96,), (192,), keep_aspect_ratio=keep_ratio)
    for made in (make_results(320, 160), make_results(20, 10)):
        assert get_size(resize({**made, "ori_shape": (80, 80)})) == size


def test_a_small_image_is_enlarged_to_what_the_network_can_take() -> None:
    resize = make_resize((96,), (192,), smallest_input=64)
    assert get_size(resize(make_results(40, 32))) == (80, 64)


# padding

PADDED = {
    "image_size": (64,),
    "keep_aspect_ratio": True,
    "max_aspect_ratio": 2.0,
    "smallest_input": 70,
    "pad_value": (1, 2, 3),
    "pad_divisor": 16,
}


def test_padding_has_three_levels_and_the_canvas_that_is_served() -> None:
    results = PadToCanvas(PADDED, fixed=True)(make_results(100, 64))
    assert get_size(results) == (112, 80)
    assert results["img_shape"] == results["pad_shape"] == (80, 112)

    bgr_pad_value = (3, 2, 1)
    assert (results["img"][64:] == bgr_pad_value).all()
    assert (results["img"][:, 100:] == bgr_pad_value).all()


def test_a_fixed_canvas_is_for_images_of_one_size() -> None:
    square = PADDED | {"max_aspect_ratio": 1.0, "image_size": (96,)}
    assert get_size(PadToCanvas(square, fixed=True)(make_results(90, 64))) == (96, 96)
    assert get_size(PadToCanvas(square, fixed=False)(make_results(90, 64))) == (96, 80)


def write_image(path: Path, width: int, height: int) -> dict[str, Any]:
    """Write an image, and return what the canonical copy says of it."""
    Image.new("RGB", (width, height), (200, 100, 0)).save(path)
    return {"img_path": str(path), "width": width, "height": height}


def test_image_is_read_as_for_serving(tmp_path: Path) -> None:
    results = write_image(tmp_path / "a.png", 6, 4)
    results = ReadImage().transform(results)
    assert results["img_shape"] == results["ori_shape"] == (4, 6)
    np.testing.assert_array_equal(results["img"][..., ::-1], read_image(tmp_path / "a.png"))


def change_size(path: Path) -> None:
    write_image(path, 4, 6)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_size, "the image is 4x6 and was 6x4 when its boxes were checked"),
        (cut_short, "the image cannot be used"),
        (make_fifo, "this is a FIFO"),
        (Path.unlink, "the image is gone"),
    ],
)
def test_image_that_has_changed_is_named(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "a.png"
    results = write_image(path, 6, 4)
    change(path)
    with pytest.raises(DataError, match=words) as error:
        ReadImage().transform(results)
    assert str(path) in str(error.value)

    # As torch passes an error on from a process of the loader.
    try:
        raise error.value
    except DataError:
        passed_on = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError) as again:
        passed_on.reraise()
    assert again.value.problems == error.value.problems

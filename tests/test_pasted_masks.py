"""Masks of detections: pasted as MMDetection does, written in the forms of pycocotools."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as reference

from detreg.errors import DataError
from detreg.inference.masks import Masks
from detreg.run_lengths import RunLengthMask, decode_runs, parse_runs
from detreg.training import network  # noqa: F401 (mmdet needs what it puts in place of mmcv's)

from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask  # isort: skip

SIZE = (150, 110)
WIDTH, HEIGHT = SIZE


def make_grids(rng: np.random.Generator, count: int) -> NDArray[np.float16]:
    """Return blobs of several parts and holes, as networks make them."""
    grids = []
    for _ in range(count):
        coarse = rng.random((7, 7)).astype(np.float32)
        grids.append(cv2.resize(coarse, (28, 28), interpolation=cv2.INTER_CUBIC).clip(0, 1))
    return np.array(grids, np.float32).reshape(-1, 28, 28).astype(np.float16)


def make_masks(seed: int, count: int = 12) -> Masks:
    """Return masks whose boxes lie inside the image, over its border, beside it, and between."""
    rng = np.random.default_rng(seed)
    xs = np.sort(rng.uniform(-60, WIDTH + 60, (count, 2)), axis=1)
    ys = np.sort(rng.uniform(-60, HEIGHT + 60, (count, 2)), axis=1)
    boxes = np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1).astype(np.float32)
    boxes[-1] = (0, 0, *SIZE)
    return Masks(make_grids(rng, count), boxes, SIZE)


@pytest.mark.parametrize("seed", range(5))
def test_pixels_are_those_of_mmdetection(
    seed: int,
) -> None:
    masks = make_masks(seed)
    grids = torch.from_numpy(masks.probabilities.astype(np.float32))[:, None]
    boxes = torch.from_numpy(masks.boxes)
    pasted, _ = _do_paste_mask(grids, boxes, HEIGHT, WIDTH, skip_empty=False)
    values = np.asarray(pasted)
    arrays = masks.to_arrays()
    assert arrays.any(axis=(1, 2)).sum() > 5
    is_certain = np.abs(values - 0.5) > 1e-5
    np.testing.assert_array_equal(arrays[is_certain], (values >= 0.5)[is_certain])


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_those_of_pycocotools(seed: int) -> None:
    masks = make_masks(seed, 4)
    for array, mask in zip(masks.to_arrays(), masks.to_run_lengths(), strict=True):
        code = reference.encode(np.asfortranarray(array.astype(np.uint8)))
        assert mask == RunLengthMask(HEIGHT, WIDTH, code["counts"].decode())


@pytest.mark.parametrize("seed", range(8))
def test_polygons_have_the_pixels_but_for_those_at_the_border(seed: int) -> None:
    masks = make_masks(seed, 4)
    # As a network that has learned nothing: hundreds of parts and holes.
    noise = np.random.default_rng(seed).random((1, 28, 28)).astype(np.float16)
    grids = np.concatenate([noise, masks.probabilities[1:]])
    masks = Masks(grids, masks.boxes, SIZE)
    listed = zip(masks.to_arrays(), masks.to_polygons(), masks.to_single_polygons(), strict=True)
    for array, polygons, polygon in listed:
        assert array.any() == bool(polygons) == bool(polygon)
        if polygon:
            check_pixels(polygons, array)
            check_pixels([polygon], array)


def check_pixels(polygons: list[list[float]], array: NDArray[np.bool_]) -> None:
    """Check that polygons are a mask (height, width), give or take the pixels at its border."""
    around = np.ones((3, 3), np.uint8)
    code = reference.merge(reference.frPyObjects(polygons, HEIGHT, WIDTH))
    back = reference.decode(code).astype(bool)
    pixels = array.astype(np.uint8)
    assert not (back & (cv2.dilate(pixels, around) == 0)).any()
    assert not (~back & (cv2.erode(pixels, around, borderValue=0) > 0)).any()


def make_mask(pixels: NDArray[np.bool_]) -> Masks:
    """Return the mask of one detection whose box is as large as the grid, and so its cells."""
    box = np.array([[2, 3, 30, 31]], np.float32)
    return Masks(pixels[None].astype(np.float16), box, (40, 40))


def test_a_ring_is_one_polygon_with_its_hole() -> None:
    pixels = np.zeros((28, 28), np.bool_)
    pixels[4:20, 4:20] = True
    pixels[8:16, 8:16] = False
    pixels[25, 3] = True
    masks = make_mask(pixels)
    np.testing.assert_array_equal(masks.to_arrays()[0, 3:31, 2:30], pixels)

    polygons = masks.to_polygons()[0]
    assert sorted(len(polygon) // 2 for polygon in polygons) == [4, 14]
    code = reference.merge(reference.frPyObjects(polygons, 40, 40))
    np.testing.assert_array_equal(reference.decode(code), masks.to_arrays()[0])


def test_a_mask_without_a_pixel_has_no_polygon() -> None:
    masks = make_mask(np.zeros((28, 28), np.bool_))
    assert masks.to_polygons() == [[]]
    (mask,) = masks.to_run_lengths()
    runs = parse_runs(mask)
    assert runs is not None and runs.tolist() == [1600]
    assert not decode_runs(runs, 40, 40).any()

    none = masks.select(np.zeros(0, np.int64))
    assert (len(none), none.to_polygons(), none.to_run_lengths()) == (0, [], [])
    assert none.to_arrays().shape == (0, 40, 40)


def test_masks_are_valid_once_made() -> None:
    box = np.zeros((1, 4), np.float32)
    with pytest.raises(DataError, match=r"probabilities of masks must be float16 \(1, 28, 28\)"):
        Masks(np.zeros((1, 28, 28)), box, SIZE)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="boxes of masks must be finite"):
        Masks(np.zeros((1, 28, 28), np.float16), box + np.float32(np.nan), SIZE)

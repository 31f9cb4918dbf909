"""Our mixing gives the boxes and pixels of MMDetection's for the same random numbers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from compose_helpers import YOLOX, load_drawn_images
from drawn_results import Images, Results, assert_equal, copy_results, draw_next_number
from mmdet.registry import DATASETS
from mmengine.config import Config

from detreg.data.dataset import Dataset
from detreg.options import RunOptions
from detreg.params import build
from detreg.training.compose import load_published_config
from detreg.training.loaders import compose_train_loader
from detreg.training.mixing import FastMixUp, FastMosaic, average, fit_image
from detreg.training.packing import PackImage
from detreg.training.random_changes import FastFlip, FastHsv, LevelDistortion
from detreg.training.seeding import SeededIndex

# detreg.training has provided mmcv's operators, which MMDetection imports.
from mmdet.datasets.transforms import (  # isort: skip
    FilterAnnotations,
    MixUp,
    Mosaic,
    PackDetInputs,
    PhotoMetricDistortion,
    RandomAffine,
    RandomFlip,
    YOLOXHSVRandomAug,
)

GRAY = 114


def draw_images(draw: Callable[[Any], Any], seed: int) -> Results:
    """Seed the random numbers, and return an image with those that are drawn to mix it with."""
    images = Images(seed)
    np.random.seed(seed)
    others = draw(images)
    results = images[seed % len(images)]
    results["mix_results"] = [images[index] for index in np.atleast_1d(others)]
    return results


EACH_RANGE = pytest.mark.parametrize("factors", [(0.1, 2.0), (0.5, 1.5)])


@EACH_RANGE
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (160, 160)])
def test_mosaic_and_its_warp(size: tuple[int, int], factors: tuple[float, float]) -> None:
    width, height = size
    ours = FastMosaic(size, factors, GRAY)
    mosaic = Mosaic(size, pad_val=float(GRAY))
    border = (-width // 2, -height // 2)
    affine = RandomAffine(scaling_ratio_range=factors, border=border)

    seen = 0
    for seed in range(60):
        made = ours.transform(draw_images(ours.draw_others, seed))
        next_number = draw_next_number()
        drawn = copy_results(draw_images(mosaic.get_indexes, seed))
        expected = affine.transform(mosaic.transform(drawn))
        assert draw_next_number() == next_number
        assert_equal(made, expected, levels=0)
        seen += len(made["gt_bboxes"])
    assert seen > 60


@pytest.mark.parametrize("factors", [(0.8, 1.6), (0.3, 3.0)])
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (160, 160)])
def test_mixup(size: tuple[int, int], factors: tuple[float, float]) -> None:
    ours = FastMixUp(size, factors, GRAY)
    theirs = MixUp(size, factors, pad_val=float(GRAY))

    seen = 0
    for seed in range(60):
        made = ours.transform(draw_images(ours.draw_others, seed))
        next_number = draw_next_number()
        expected = theirs.transform(copy_results(draw_images(theirs.get_indexes, seed)))
        assert draw_next_number() == next_number
        # MMDetection resizes in floating point and cuts the fractions off.
        assert_equal(made, expected, levels=1)
        seen += len(made["gt_bboxes"])
    assert seen > 60


def test_the_mean_of_two_levels_is_rounded_down() -> None:
    levels, others = np.meshgrid(np.arange(256), np.arange(256))
    mean = average(levels.astype(np.uint8), others.astype(np.uint8))
    np.testing.assert_array_equal(mean, (levels + others) // 2)


def test_a_side_that_rounds_to_nothing_keeps_a_pixel() -> None:
    """MMDetection fails on it."""
    line = np.zeros((1, 200, 3), np.uint8)
    fitted, factor = fit_image(line, width=96, height=64)
    assert fitted.shape == (1, 96, 3)
    assert factor == 96 / 200


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(FastHsv(), YOLOXHSVRandomAug()), (FastFlip(), RandomFlip(prob=0.5))],
    ids=["hsv", "flip"],
)
def test_changes_of_one_image(ours: Any, theirs: Any) -> None:
    changed = 0
    for seed in range(60):
        results = Images(seed)[seed % 12]
        np.random.seed(seed)
        made = ours.transform(dict(results))
        next_number = draw_next_number()

        np.random.seed(seed)
        expected = theirs.transform(copy_results(results))
        assert draw_next_number() == next_number
        assert_equal(made, expected, levels=0)
        changed += not np.array_equal(made["img"], results["img"])
    assert changed > 20


def test_distorted_colors_are_levels() -> None:
    """A pixel that becomes brighter than white is white, not dark."""
    beyond = 0
    for seed in range(40):
        results = Images(seed)[seed % 12]
        np.random.seed(seed)
        made = LevelDistortion().transform(dict(results))["img"]
        np.random.seed(seed)
        expected = PhotoMetricDistortion().transform(dict(results))["img"]

        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, np.clip(np.rint(expected), 0, 255))
        beyond += int((expected > 255).sum() + (expected < 0).sum())
    assert beyond > 1000


def test_packing_drops_boxes_without_an_area() -> None:
    filter_ = FilterAnnotations(min_gt_bbox_wh=(1, 1), keep_empty=False)
    for seed in range(40):
        results = Images(seed)[seed % 12]
        results["gt_bboxes"][:2, 2] = results["gt_bboxes"][:2, 0] + 1
        expected = PackDetInputs().transform(filter_.transform(copy_results(results)))
        packed = PackImage().transform(results)

        assert torch.equal(packed["inputs"], expected["inputs"])
        assert packed["inputs"].is_contiguous()
        sample, expected_sample = packed["data_samples"], expected["data_samples"]
        assert sample.metainfo == expected_sample.metainfo
        for part in ("gt_instances", "ignored_instances"):
            objects, expected_objects = getattr(sample, part), getattr(expected_sample, part)
            assert torch.equal(objects.bboxes, expected_objects.bboxes)
            assert torch.equal(objects.labels, expected_objects.labels)


# the whole chain


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=8)


def convert_to_mmdetection(images: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of mixed images with MMDetection's transforms in place of ours."""
    steps: list[dict[str, Any]] = []
    for step in images["pipeline"]:
        match step:
            case {"type": "FastMosaic", "size": (width, height) as size, "factors": factors}:
                border = (-width // 2, -height // 2)
                steps.append({"type": "Mosaic", "img_scale": size, "pad_val": 114.0})
                steps.append(
                    {"type": "RandomAffine", "scaling_ratio_range": factors, "border": border}
                )
            case {"type": "FastMixUp", "size": size, "factors": factors}:
                steps.append(
                    {"type": "MixUp", "img_scale": size, "ratio_range": factors, "pad_val": 114.0}
                )
            case {"type": "FastHsv"}:
                steps.append({"type": "YOLOXHSVRandomAug"})
            case {"type": "FastFlip"}:
                steps.append({"type": "RandomFlip", "prob": 0.5})
            case {"type": "PackImage"}:
                steps.append({"type": "FilterAnnotations", "keep_empty": False})
                steps.append({"type": "PackDetInputs"})
            case _:
                steps.append(step)
    return images | {"type": "MultiImageMixDataset", "pipeline": steps}


@cache
def load_published(base_model: str) -> Config:
    """Load the published configuration of a base model, which takes a second, once."""
    return load_published_config(YOLOX, build(YOLOX.params, {"base_model": base_model}))


@pytest.mark.parametrize(
    "values",
    [
        {"base_model": "yolox_nano"},
        {"base_model": "yolox_nano", "random_resize_upper": 128},
        {"base_model": "yolox_s"},
        {"base_model": "yolox_s", "max_aspect_ratio": 1.5},
        {"base_model": "yolox_s", "image_size": "96,64", "keep_aspect_ratio": False},
    ],
    ids=str,
)
def test_the_whole_chain(mmdet_scope: None, dataset: Dataset, values: dict[str, Any]) -> None:
    params = build(YOLOX.params, {"image_size": 64} | values)
    published = load_published(params.base_model)
    loader = compose_train_loader(YOLOX, params, dataset, RunOptions(), published)
    ours = DATASETS.build(loader["dataset"])
    theirs = DATASETS.build(convert_to_mmdetection(loader["dataset"]))

    ours_mixing = ["FastMosaic", "FastMixUp", "RandomMixedSize"]
    theirs_mixing = ["Mosaic", "RandomAffine", "MixUp", "RandomMixedSize"]
    for is_plain in (False, True):
        ours._skip_type_keys = ours_mixing if is_plain else None
        theirs._skip_type_keys = theirs_mixing if is_plain else None
        for seed in range(12):
            index = SeededIndex(seed % len(ours), seed)
            made, expected = ours[index], theirs[index]
            for part in ("bboxes", "labels"):
                values_of = made["data_samples"].gt_instances[part]
                assert torch.equal(values_of, expected["data_samples"].gt_instances[part])

            difference = (made["inputs"].int() - expected["inputs"].int()).abs()
            if is_plain or params.base_model == "yolox_nano":
                assert difference.max() == 0
            else:
                # A level of MixUp's may turn the hue of a pixel that is all but gray.
                assert (difference > 2).float().mean() < 0.01


def test_mixed_images_are_never_written_to(mmdet_scope: None, dataset: Dataset) -> None:
    """A cache may hand out the same arrays again and again, read-only."""
    params = build(YOLOX.params, {"image_size": 64, "base_model": "yolox_s"})
    published = load_published("yolox_s")
    loader = compose_train_loader(YOLOX, params, dataset, RunOptions(), published)
    images = DATASETS.build(loader["dataset"])

    expected = [images[SeededIndex(place, place)] for place in range(len(images))]
    images._skip_type_keys = ["FastMosaic", "FastMixUp"]
    expected_plain = [images[SeededIndex(place, place)] for place in range(len(images))]
    images._skip_type_keys = None

    images.dataset = FrozenImages(images.dataset)
    # The index alone says whether an image is mixed: the dataset is the same in every epoch.
    for skip, items in (((), expected), (("FastMosaic", "FastMixUp"), expected_plain)):
        for place, item in enumerate(items):
            made = images[SeededIndex(place, place, skip)]
            assert torch.equal(made["inputs"], item["inputs"])
    assert not torch.equal(expected[0]["inputs"], expected_plain[0]["inputs"])


class FrozenImages:
    """Images of a dataset whose pixels cannot be written to."""

    def __init__(self, images: Any) -> None:
        self.images = images
        self.get_data_info = images.get_data_info

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Results:
        results: Results = self.images[index]
        results["img"].flags.writeable = False
        return results

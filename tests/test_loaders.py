"""Training and scoring images reach the network in the sizes that are asked for, with their boxes."""

from random import seed
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.utils import register_all_modules
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.inference.from_template import make_preprocessing
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training.compose import compose
from detreg.training.loaders import compose_scoring_loader

YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def composed(dataset: Dataset, template: Template = YOLOX, **values: Any) -> dict[str, Any]:
    """The configuration of these hyperparameters."""
    return compose(
        template, template.resolve(build(template.params, values)), dataset, RunOptions()
    ).to_dict()


def steps(config: dict[str, Any]) -> list[str]:
    """The types of all transforms of training pictures, in order."""
    images = config["train_dataloader"]["dataset"]
    inner = images["dataset"]["pipeline"] if images["type"] == "MultiImageMixDataset" else []
    return [transform["type"] for transform in [*inner, *images["pipeline"]]]


@EACH
def test_random_sizes_are_composed_only_where_they_are_asked_for(
    dataset: Dataset, template: Template
) -> None:
    usual = steps(composed(dataset, template))
    assert (
        "Resize" in usual
        and "PadToCanvas" in usual
        and not {"RandomSize", "RandomMixedSize"} & set(usual)
    )
    config = composed(dataset, template, image_size=128, random_resize_upper=192)
    random = steps(config)
    assert "RandomSize" in random and "Resize" not in random
    pads = [
        step["fixed"]
        for step in config["train_dataloader"]["dataset"]["pipeline"]
        if step["type"] == "PadToCanvas"
    ]
    assert pads == [False]
    assert ("RandomMixedSize" in random) == ("Mosaic" in random)
    plain = [hook["skip"] for hook in config["custom_hooks"] if hook["type"] == "PlainEpochsHook"]
    assert all("RandomMixedSize" in skip for skip in plain)


@EACH
def test_pictures_of_random_sizes_reach_the_network_with_their_boxes(
    dataset: Dataset, template: Template
) -> None:
    """Between the limits, of several sizes, boxes inside; and equal for equal seeds."""
    values = {
        name: value
        for name, value in SMALL[template.name].items()
        if name in get_params(template.params)
    }
    values |= {"image_size": 64, "random_resize_lower": 64, "random_resize_upper": 128}
    images = DATASETS.build(composed(dataset, template, **values)["train_dataloader"]["dataset"])

    def drawn() -> list[Any]:
        seed(3)
        np.random.seed(3)
        return [images[index % len(images)] for index in range(12)]

    pictures = drawn()
    smaller = [min(picture["inputs"].shape[1:]) for picture in pictures]
    assert len(set(smaller)) > 2 and all(64 <= side <= 128 for side in smaller)
    for picture in pictures:
        boxes = picture["data_samples"].gt_instances.bboxes
        boxes = getattr(boxes, "tensor", boxes)
        assert (
            (boxes >= 0).all()
            and (boxes[:, 0::2] <= picture["inputs"].shape[2]).all()
            and (boxes[:, 1::2] <= picture["inputs"].shape[1]).all()
        )
    assert all(
        torch.equal(one["inputs"], other["inputs"])
        for one, other in zip(pictures, drawn(), strict=True)
    )


def test_pictures_of_different_sizes_are_scored_one_by_one(dataset: Dataset) -> None:
    assert composed(dataset, max_aspect_ratio=1.0, **NANO)["val_dataloader"]["batch_size"] == 8
    assert composed(dataset, max_aspect_ratio=1.5, **NANO)["val_dataloader"]["batch_size"] == 1
    assert composed(dataset, keep_aspect_ratio=False, **NANO)["val_dataloader"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("values", "mixed", "plain"),
    [
        ({"image_size": "64"}, (64, 64), (64, 64)),
        ({"image_size": "64", "max_aspect_ratio": "1.5"}, (96, 96), (64, 96)),
        ({"image_size": "128,96", "keep_aspect_ratio": "false"}, (96, 128), (96, 128)),
        ({"image_size": "96", "keep_aspect_ratio": "false"}, (96, 96), (96, 96)),
    ],
)
def test_training_pictures_have_the_size_that_is_asked_for(
    dataset: Dataset, values: dict[str, str], mixed: tuple[int, int], plain: tuple[int, int]
) -> None:
    config = composed(dataset, **NANO, **values)
    images = DATASETS.build(config["train_dataloader"]["dataset"])
    assert len(images) == dataset.splits["train"].images
    for skip, expected in ((None, mixed), (["Mosaic", "RandomAffine"], plain)):
        images._skip_type_keys = skip
        for index in range(len(images)):
            item = images[index]
            assert tuple(item["inputs"].shape) == (3, *expected)
            boxes = item["data_samples"].gt_instances.bboxes
            boxes = getattr(boxes, "tensor", boxes)
            assert bool((boxes >= 0).all())
            assert bool((boxes[:, 2::2] <= expected[1]).all())
            assert bool((boxes[:, 3::2] <= expected[0]).all())


SIZES = [(333, 500), (500, 333), (1000, 37), (37, 1000), (64, 64), (480, 640), (1, 7), (321, 319)]


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 320, "max_aspect_ratio": 1.0},
        {"image_size": 320, "max_aspect_ratio": 1.5},
        {"image_size": 160, "max_aspect_ratio": 1.7},
        {"image_size": 96, "max_aspect_ratio": 5.0},
        {"image_size": "416,256", "keep_aspect_ratio": False},
        {"image_size": 224, "keep_aspect_ratio": False},
    ],
    ids=str,
)
def test_preprocessing_gives_mmdetections_own_pixels(
    dataset: Dataset, values: dict[str, Any]
) -> None:
    params = build(YOLOX.params, NANO | values)
    served = make_preprocessing(YOLOX, params)
    transforms = compose_scoring_loader(
        YOLOX, params, dataset.splits["val"].annotations, dataset.classes, 0
    )["dataset"]["pipeline"]
    assert [transform["type"] for transform in transforms] == [
        "LoadImageFromFile",
        "Resize",
        "PadToCanvas",
        "PackDetInputs",
    ]
    resize_and_pad = Compose([TRANSFORMS.build(transform) for transform in transforms[1:3]])
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = served.prepare(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        theirs = resize_and_pad(
            {"img": bgr, "img_shape": bgr.shape[:2], "ori_shape": bgr.shape[:2]}
        )
        np.testing.assert_array_equal(prepared.pixels, theirs["img"][..., ::-1])
        assert prepared.scale == pytest.approx(theirs["scale_factor"])
        assert prepared.original_size == (width, height)

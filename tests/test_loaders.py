"""Training and scoring images reach the network in the sizes asked for, with their boxes."""

import copy
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from compose_helpers import NANO, YOLOX, compose_values, load_drawn_images
from conftest import SMALL
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import Compose
from torch import Tensor

from detreg.data.dataset import Dataset
from detreg.inference.from_template import make_preprocessing
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import image_cache, image_cache_file, transforms
from detreg.training.compose import compose
from detreg.training.loaders import compose_scoring_loader
from detreg.training.preview import draw_training_images
from detreg.training.seeding import seed_everything

pytestmark = pytest.mark.usefixtures("mmdet_scope")
EACH_TEMPLATE = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=6)


def list_steps(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all transforms of training images, in order."""
    dataset = config["train_dataloader"]["dataset"]
    steps = list(dataset["pipeline"])
    if dataset["type"] == "MixedImages":
        steps = dataset["dataset"]["pipeline"] + steps
    return steps


def get_boxes(item: dict[str, Any]) -> Tensor:
    """Return the boxes (n, 4) of a training image."""
    boxes: Tensor = item["data_samples"].gt_instances.bboxes
    return boxes


def assert_boxes_are_inside(item: dict[str, Any]) -> None:
    height, width = item["inputs"].shape[1:]
    boxes = get_boxes(item)
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 0::2] <= width).all())
    assert bool((boxes[:, 1::2] <= height).all())


# training


@EACH_TEMPLATE
def test_random_sizes_are_composed_only_where_they_are_asked_for(
    dataset: Dataset, template: Template
) -> None:
    usual = {step["type"] for step in list_steps(compose_values(dataset, template))}
    assert {"PadToCanvas"} <= usual
    assert len({"ReadResized", "Resize"} & usual) == 1
    assert not {"RandomSize", "RandomMixedSize"} & usual

    config = compose_values(dataset, template, image_size=128, random_resize_upper=192)
    steps = list_steps(config)
    types = {step["type"] for step in steps}
    assert "RandomSize" in types
    assert not {"ReadResized", "Resize"} & types
    assert [step["fixed"] for step in steps if step["type"] == "PadToCanvas"] == [False]

    assert ("RandomMixedSize" in types) == ("FastMosaic" in types)
    for hook in config["custom_hooks"]:
        if hook["type"] == "PlainEpochsHook":
            assert "RandomMixedSize" in hook["skip"]


@EACH_TEMPLATE
def test_images_of_random_sizes_reach_the_network_with_their_boxes(
    dataset: Dataset, template: Template
) -> None:
    """They have several sizes between the limits, and are equal for equal seeds."""
    names = get_params(template.params)
    values = {name: value for name, value in SMALL[template.name].items() if name in names}
    values |= {"image_size": 64, "random_resize_lower": 64, "random_resize_upper": 128}
    loader = compose_values(dataset, template, **values)["train_dataloader"]
    images = DATASETS.build(loader["dataset"])

    def load_images() -> list[Any]:
        random.seed(3)
        np.random.seed(3)
        return [images[index % len(images)] for index in range(12)]

    loaded = load_images()
    smaller_sides = [min(item["inputs"].shape[1:]) for item in loaded]
    assert len(set(smaller_sides)) > 2
    assert all(64 <= side <= 128 for side in smaller_sides)
    for item in loaded:
        assert_boxes_are_inside(item)

    for item, same in zip(loaded, load_images(), strict=True):
        assert torch.equal(item["inputs"], same["inputs"])


def load_each_image(images: Any) -> list[dict[str, Any]]:
    """Load each image of a dataset, with equal random numbers each time."""
    items = []
    for index in range(len(images)):
        seed_everything(index)
        items.append(images[index])
    return items


def build_uncached(loader: dict[str, Any]) -> Any:
    """Build the dataset of a loader's configuration without its cache."""
    config = copy.deepcopy(loader["dataset"])
    for dataset in (config, config.get("dataset", {})):
        for step in dataset.get("pipeline", []):
            if "cache" in step:
                step["cache"] = None
    return DATASETS.build(config)


# One that keeps resized images, and one that keeps them as they are decoded.
@pytest.mark.parametrize(("name", "cache"), [("yolox", "auto"), ("ssd", "ram")])
def test_kept_images_reach_the_network_as_read_ones(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, cache: str
) -> None:
    monkeypatch.setattr(image_cache, "_SETTLING_TIME", -(10**18))
    monkeypatch.setattr(image_cache, "_SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(image_cache, "FREE_BYTES", 0)
    monkeypatch.setattr(image_cache_file, "SHARED_MEMORY", dataset.folder)
    template = TEMPLATES[name]
    params = template.resolve(build(template.params, {"image_size": 64}))
    config = compose(template, params, dataset, RunOptions(cache=cache)).to_dict()

    for loader in (config["train_dataloader"], config["val_dataloader"]):
        read = load_each_image(build_uncached(loader))
        images = DATASETS.build(loader["dataset"])
        load_each_image(images)
        with monkeypatch.context() as patched:
            patched.setattr(transforms, "read_image", None)
            kept = load_each_image(images)
        for item, other in zip(read, kept, strict=True):
            assert torch.equal(item["inputs"], other["inputs"])
            assert item["data_samples"].metainfo == other["data_samples"].metainfo
            if loader is config["train_dataloader"]:
                assert torch.equal(get_boxes(item), get_boxes(other))


# One that mixes images after resizing, and one that crops them before.
@pytest.mark.parametrize("template", [TEMPLATES["yolox"], TEMPLATES["ssd"]])
def test_a_preview_shows_images_of_the_size_of_training(
    dataset: Dataset, template: Template, tmp_path: Path
) -> None:
    params = build(template.params, {"image_size": 64, "min_samples_per_epoch": 8})
    items = draw_training_images(template, params, dataset, tmp_path)
    assert len(items) == 8
    canvas = make_preprocessing(template, params).fixed_canvas
    for item in items:
        assert item.caption
        pixels = cv2.imread(str(item.file))
        assert pixels is not None
        if canvas is not None:
            assert item.name == f"{canvas[0]} x {canvas[1]} px"

    again = draw_training_images(template, params, dataset, tmp_path)
    assert again == items


@pytest.mark.parametrize(
    ("values", "mixed_size", "plain_size"),
    [
        ({"image_size": "64"}, (64, 64), (64, 64)),
        ({"image_size": "64", "max_aspect_ratio": "1.5"}, (96, 96), (64, 96)),
        ({"image_size": "128,96", "keep_aspect_ratio": "false"}, (96, 128), (96, 128)),
        ({"image_size": "96", "keep_aspect_ratio": "false"}, (96, 96), (96, 96)),
    ],
)
def test_training_images_have_the_size_that_is_asked_for(
    dataset: Dataset,
    values: dict[str, Any],
    mixed_size: tuple[int, int],
    plain_size: tuple[int, int],
) -> None:
    """Sizes are height and width."""
    config = compose_values(dataset, **NANO, **values)
    images = DATASETS.build(config["train_dataloader"]["dataset"])
    assert len(images) == dataset.splits["train"].images

    skipped_in_plain_epochs = ["FastMosaic"]
    for skip, size in ((None, mixed_size), (skipped_in_plain_epochs, plain_size)):
        images._skip_type_keys = skip
        for index in range(len(images)):
            item = images[index]
            assert tuple(item["inputs"].shape) == (3, *size)
            assert_boxes_are_inside(item)


# scoring


def test_images_of_different_sizes_are_scored_one_by_one(dataset: Dataset) -> None:
    def get_batch_size(**values: Any) -> int:
        return compose_values(dataset, **values, **NANO)["val_dataloader"]["batch_size"]

    assert get_batch_size(max_aspect_ratio=1.0) == 8
    assert get_batch_size(max_aspect_ratio=1.5) == 1
    assert get_batch_size(keep_aspect_ratio=False) == 8


SIZES = [(333, 500), (500, 333), (1000, 37), (37, 1000), (64, 64), (480, 640), (1, 7), (321, 319)]
"""Width and height of images."""


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
    dataset: Dataset, tmp_path: Path, values: dict[str, Any]
) -> None:
    params = build(YOLOX.params, NANO | values)
    annotations = dataset.splits["val"].annotations
    loader = compose_scoring_loader(YOLOX, params, annotations, dataset.classes, 0)
    read, pad, pack = loader["dataset"]["pipeline"]
    assert read["type"] == "ReadResized"
    assert pad["type"] == "PadToCanvas"
    assert pack["type"] == "PackImage"

    read_and_pad = Compose([TRANSFORMS.build(read), TRANSFORMS.build(pad)])
    resize_and_pad = Compose(
        [
            TRANSFORMS.build(
                {key: read[key] for key in ("scale", "keep_ratio")} | {"type": "Resize"}
            ),
            TRANSFORMS.build(pad),
        ]
    )
    preprocessing = make_preprocessing(YOLOX, params)
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        served = preprocessing.prepare(image)

        bgr = np.ascontiguousarray(image[..., ::-1])
        path = tmp_path / "image.png"
        assert cv2.imwrite(str(path), bgr)
        size = bgr.shape[:2]
        boxes = rng.uniform(-2, 2, (5, 4)).astype(np.float32) * (width, height, width, height)
        objects = {
            "gt_bboxes": boxes.astype(np.float32),
            "gt_bboxes_labels": np.arange(5),
            "gt_ignore_flags": np.zeros(5, bool),
        }
        mmdetections = resize_and_pad(objects | {"img": bgr, "img_shape": size, "ori_shape": size})
        trained = read_and_pad(objects | {"img_path": str(path), "width": width, "height": height})
        for key in ("img_shape", "ori_shape", "pad_shape", "scale_factor"):
            assert trained[key] == mmdetections[key]
        np.testing.assert_array_equal(trained["gt_bboxes"], mmdetections["gt_bboxes"])
        assert trained["gt_bboxes"].dtype == mmdetections["gt_bboxes"].dtype
        np.testing.assert_array_equal(trained["img"], mmdetections["img"])
        np.testing.assert_array_equal(served.pixels, trained["img"][..., ::-1])
        assert served.scale == pytest.approx(trained["scale_factor"])
        assert served.original_size == (width, height)

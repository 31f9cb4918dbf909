"""Real batches of odd images under every resize setting, which every network must take."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from compose_helpers import build_random
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from detreg.data.dataset import Dataset, load_dataset
from detreg.inference.from_template import make_preprocessing
from detreg.inference.preprocessing import Preprocessing
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.compose import compose
from detreg.training.loaders import describe_small_images
from detreg.training.network import build_network

pytestmark = pytest.mark.usefixtures("mmdet_scope")
Size = tuple[int, int]
"""Width and height of an image."""

ODD: list[Size] = [(1000, 250), (96, 96), (32, 20), (20, 32), (192, 160), (250, 1000)]
LIGHT = [
    ("yolox", "yolox_nano"),
    ("yolof", "resnet50"),
    ("ssd", "ssdlite_mobilenetv2"),
    ("ssd", "ssd300_vgg16"),
    ("faster_rcnn", "resnet50"),
    ("msc10", "mobilenetv2_100"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "smaller side": {"keep_aspect_ratio": True},
    "smaller side, random": {"keep_aspect_ratio": True, "random_resize_upper": 64},
    "smaller side, small images kept": {
        "keep_aspect_ratio": True,
        "random_resize_lower": 64,
        "image_size": 96,
    },
    "square": {"keep_aspect_ratio": False},
    "square, random": {"keep_aspect_ratio": False, "random_resize_upper": 64},
    "square, small images kept": {
        "keep_aspect_ratio": False,
        "random_resize_lower": 64,
        "image_size": 96,
    },
    "width and height": {"keep_aspect_ratio": False, "image_size": (64, 0)},
    "width and height, random": {
        "keep_aspect_ratio": False,
        "image_size": (0, 0),
        "random_resize_upper": (64, 32),
    },
    "long images": {"keep_aspect_ratio": True, "max_aspect_ratio": 5.0},
}
"""Sizes are added to the smallest that all networks here are tried at: 96 px, or 288 px for VGG."""


def write_split(folder: Path, sizes: list[Size], rng: np.random.Generator) -> None:
    """Write images of noise, each with a box over its middle, as Roboflow exports them."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes, start=1):
        name = f"{folder.name}_{width}x{height}.png"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [width / 4, height / 4, width / 2, height / 2],
                "area": width * height / 4,
                "iscrowd": 0,
            }
        )

    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return each odd image once for training, and two for scoring."""
    folder = tmp_path_factory.mktemp("odd") / "odd"
    rng = np.random.default_rng(0)
    write_split(folder / "train", ODD, rng)
    write_split(folder / "valid", ODD[:2], rng)
    return load_dataset(folder, folder.parent / "cache")


def choose_params(
    name: str, base_model: str, setting: str, **values: object
) -> tuple[Template, CommonParams]:
    """Return the params of a short training from random weights under a setting."""
    chosen: dict[str, Any] = {"image_size": 0, **SETTINGS[setting]}
    smallest = 288 if base_model.endswith("vgg16") else 96
    for key in ("image_size", "random_resize_lower", "random_resize_upper"):
        if key in chosen:
            added = chosen[key] if isinstance(chosen[key], tuple) else (chosen[key],)
            chosen[key] = tuple(smallest + side for side in added)

    chosen |= {
        "base_model": base_model,
        "batch_size": 3,
        "min_samples_per_epoch": 6,
        "frozen_stages": 0,
        "per_item_lrate": 1e-6,
        "pretrained_weights": "none",
    }
    template = TEMPLATES[name]
    if "pretrain_base_data" in get_params(template.params):
        chosen["pretrain_base_data"] = "none"
    return template, build(template.params, chosen | values)


def compose_here(template: Template, params: CommonParams, dataset: Dataset) -> Config:
    """Compose a training that loads its images in this process."""
    return compose(template, params, dataset, RunOptions(num_workers=0))


# what networks take


def assert_network_can_take(
    image: torch.Tensor, params: CommonParams, preprocessing: Preprocessing
) -> None:
    height, width = image.shape[1:]
    divisor = preprocessing.pad_divisor
    assert width % divisor == height % divisor == 0
    assert min(width, height) >= preprocessing.smallest_input

    largest_side = max(params.random_sizes[1]) * params.max_aspect_ratio + divisor
    assert max(width, height) <= largest_side


@pytest.mark.parametrize(("name", "base_model"), LIGHT)
def test_every_network_takes_odd_images_under_every_setting(
    name: str, base_model: str, odd: Dataset
) -> None:
    network: Any = None
    for setting in SETTINGS:
        print(setting)  # shown where an assertion fails
        template, params = choose_params(name, base_model, setting)
        config = compose_here(template, params, odd)
        batches = list(Runner.build_dataloader(config.train_dataloader, seed=0))

        images = [image for batch in batches for image in batch["inputs"]]
        assert len(images) == len(ODD)
        preprocessing = make_preprocessing(template, params)
        for image in images:
            assert_network_can_take(image, params, preprocessing)

        # The layers are the same for every setting.
        if network is None:
            torch.manual_seed(0)
            network = build_network(config.model, None).train()
        for batch in batches:
            inputs = network.data_preprocessor(batch, True)["inputs"]
            # An empty map, or a kernel larger than its input, raises.
            with torch.no_grad():
                maps = network.extract_feat(inputs)
            assert all(features.numel() for features in maps)


@pytest.mark.parametrize(
    ("name", "base_model"),
    [("ssd", "ssd300_vgg16"), ("ssd", "ssdlite_mobilenetv2"), ("yolof", "resnet50")],
)
def test_small_images_train_a_step_and_are_scored(name: str, base_model: str, odd: Dataset) -> None:
    """SSD300 with images of 192x160 px once ended in "kernel larger than input"."""
    template, params = choose_params(name, base_model, "square, small images kept")
    config = compose_here(template, params, odd)
    torch.manual_seed(0)
    network: Any = build_network(config.model, None).train()
    optimizer = build_optim_wrapper(network, config.optim_wrapper)

    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    losses = network.train_step(batch, optimizer)
    assert torch.isfinite(losses["loss"])

    network.eval()
    for batch in Runner.build_dataloader(config.val_dataloader, seed=0):
        network.test_step(batch)


def test_ssd300_takes_300_pixels(odd: Dataset) -> None:
    template, params = choose_params("ssd", "ssd300_vgg16", "square", image_size=300)
    assert make_preprocessing(template, params).fixed_canvas == (300, 300)

    network = build_random(compose_here(template, params, odd).model.to_dict())
    maps = network.extract_feat(torch.zeros(1, 3, 300, 300))
    assert [features.shape[-1] for features in maps] == [38, 19, 10, 5, 3, 1]
    strides = network.bbox_head.prior_generator.strides
    assert [stride[0] for stride in strides] == [8, 16, 32, 64, 100, 300]


# sizes after resizing


def compose_single_images(
    template: Template, params: CommonParams, dataset: Dataset
) -> dict[str, Any]:
    """Return the dataset of training images before any mixing."""
    config: dict[str, Any] = compose_here(template, params, dataset).to_dict()
    images: dict[str, Any] = config["train_dataloader"]["dataset"]
    return images.get("dataset", images)


def load_sizes(template: Template, params: CommonParams, dataset: Dataset) -> dict[Size, Size]:
    """Return the size in which each training image reaches the padding, by its original size."""
    config = compose_single_images(template, params, dataset)
    last_steps = ("PadToCanvas", "PackImage")
    steps = [step for step in config["pipeline"] if step["type"] not in last_steps]
    images = DATASETS.build(config | {"pipeline": steps})

    sizes = {}
    for index in range(len(images)):
        results = images[index]
        height, width = results["ori_shape"]
        new_height, new_width = results["img"].shape[:2]
        sizes[width, height] = (new_width, new_height)
    return sizes


@pytest.mark.parametrize(
    ("name", "base_model"),
    [("yolof", "resnet50"), ("msc10", "mobilenetv2_100"), ("faster_rcnn", "resnet50")],
)
def test_an_image_below_the_lower_limit_keeps_its_size_within_max_aspect_ratio(
    name: str, base_model: str, odd: Dataset
) -> None:
    template, params = choose_params(
        name,
        base_model,
        "smaller side, random",
        image_size=320,
        random_resize_upper=352,
        max_aspect_ratio=1.5,
    )
    assert load_sizes(template, params, odd) == {
        (1000, 250): (375, 94),
        (250, 1000): (94, 375),
        (96, 96): (96, 96),
        (32, 20): (30, 19),
        (20, 32): (19, 30),
        (192, 160): (192, 160),
    }


@pytest.mark.parametrize("seed", range(5))
def test_ssd_keeps_the_original_size_whatever_expand_and_crop_made_of_it(
    seed: int, odd: Dataset
) -> None:
    template, params = choose_params(
        "ssd",
        "ssdlite_mobilenetv2",
        "square",
        image_size=320,
        random_resize_upper=352,
        max_aspect_ratio=5.0,
    )
    np.random.seed(seed)
    sizes = load_sizes(template, params, odd)
    for original in ((1000, 250), (250, 1000), (96, 96), (192, 160)):
        assert sizes[original] == original
    assert sizes[32, 20] == (102, 64)  # SSDLite takes at least 64 px


def test_an_image_above_the_lower_limit_does_not_keep_its_size(odd: Dataset) -> None:
    template, params = choose_params(
        "yolof", "resnet50", "smaller side, random", image_size=96, random_resize_upper=128
    )
    assert min(load_sizes(template, params, odd)[192, 160]) in (96, 128)


def test_sizes_start_at_the_lower_limit_where_that_is_off_the_grid(odd: Dataset) -> None:
    template, params = choose_params(
        "ssd", "ssd300_vgg16", "square", image_size=300, random_resize_upper=384
    )
    # The image is below the limit, and enlarged to the 288 px that VGG takes.
    sizes = {load_sizes(template, params, odd)[1000, 250] for _ in range(20)}
    assert sizes == {(432, 108)}

    steps = compose_single_images(template, params, odd)["pipeline"]
    (resize,) = [step for step in steps if step["type"] == "RandomSize"]
    assert resize["lower"] == (300,)
    assert resize["upper"] == (384,)


def test_images_of_ssd300_have_its_size(odd: Dataset) -> None:
    template, params = choose_params("ssd", "ssd300_vgg16", "square", image_size=300)
    assert set(load_sizes(template, params, odd).values()) == {(300, 300)}


def test_small_images_are_warned_of(odd: Dataset) -> None:
    _, params = choose_params("yolof", "resnet50", "smaller side", image_size=128)
    assert describe_small_images(params, odd) == ""  # all images have one size

    _, params = choose_params(
        "yolof", "resnet50", "smaller side, random", image_size=128, random_resize_upper=192
    )
    assert describe_small_images(params, odd).startswith(
        "3 of 6 training images (50%) are smaller than random_resize_lower=128: "
        "they train at their own size"
    )

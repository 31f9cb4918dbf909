"""Real batches of odd images under every resize setting: their sizes, and that every network can take them."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_published_networks import built

from detreg.data.dataset import Dataset, load_dataset
from detreg.inference.from_template import make_preprocessing
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.compose import compose
from detreg.training.loaders import describe_small_images
from detreg.training.network import build_network

ODD = [(1000, 250), (96, 96), (32, 20), (20, 32), (192, 160), (250, 1000)]
"""Width and height of the images."""
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


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Each odd image once for training, with a box over its middle, and two for scoring."""
    folder = tmp_path_factory.mktemp("odd") / "odd"
    rng = np.random.default_rng(0)
    for split, sizes in {"train": ODD, "valid": ODD[:2]}.items():
        (folder / split).mkdir(parents=True)
        images, boxes = [], []
        for number, (width, height) in enumerate(sizes, start=1):
            name = f"{split}_{width}x{height}.png"
            cv2.imwrite(
                str(folder / split / name), rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            )
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            box = [width / 4, height / 4, width / 2, height / 2]
            boxes.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": width * height / 4,
                    "iscrowd": 0,
                }
            )
        content = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "thing"}],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return load_dataset(folder, folder.parent / "cache")


def choose_params(
    name: str, base_model: str, setting: str, **values: Any
) -> tuple[Template, CommonParams]:
    template = TEMPLATES[name]
    least = 288 if base_model.endswith("vgg16") else 96
    chosen: dict[str, Any] = {"image_size": 0, **SETTINGS[setting]}
    for key in ("image_size", "random_resize_lower", "random_resize_upper"):
        if key in chosen:
            added = chosen[key] if isinstance(chosen[key], tuple) else (chosen[key],)
            chosen[key] = tuple(least + side for side in added)
    chosen |= {
        "base_model": base_model,
        "batch_size": 3,
        "min_samples_per_epoch": 6,
        "frozen_stages": 0,
        "per_item_lrate": 1e-6,
    }
    chosen |= {"pretrained_weights": "none"} | values
    if "pretrain_base_data" in get_params(template.params):
        chosen["pretrain_base_data"] = "none"
    return template, build(template.params, chosen)


@pytest.mark.parametrize(("name", "base_model"), LIGHT, ids=["-".join(light) for light in LIGHT])
def test_every_network_takes_odd_images_under_every_setting(
    name: str, base_model: str, odd: Dataset
) -> None:
    network: Any = None
    for setting in SETTINGS:
        template, params = choose_params(name, base_model, setting)
        config = compose(template, params, odd, RunOptions(num_workers=0))
        batches = list(Runner.build_dataloader(config.train_dataloader, seed=0))
        assert sum(len(batch["inputs"]) for batch in batches) == len(ODD), setting

        prep = make_preprocessing(template, params)
        largest = max(params.random_sizes[1])
        for image in (image for batch in batches for image in batch["inputs"]):
            height, width = image.shape[1:]
            assert width % prep.pad_divisor == height % prep.pad_divisor == 0, setting
            assert min(width, height) >= prep.smallest_input, setting
            assert max(width, height) <= largest * params.max_aspect_ratio + prep.pad_divisor, (
                setting
            )

        # The layers are the same for every setting. An empty map, or a kernel larger than its input, raises.
        torch.manual_seed(0)
        network = network or build_network(config.model, None).train()
        for batch in batches:
            inputs = network.data_preprocessor(batch, True)["inputs"]
            with torch.no_grad():
                assert all(level.numel() for level in network.extract_feat(inputs)), setting


@pytest.mark.parametrize(
    ("name", "base_model"),
    [("ssd", "ssd300_vgg16"), ("ssd", "ssdlite_mobilenetv2"), ("yolof", "resnet50")],
)
def test_a_step_on_kept_images_trains_and_an_evaluation_takes_them(
    name: str, base_model: str, odd: Dataset
) -> None:
    """SSD300 with images of 192x160 px ended in "kernel larger than input"."""
    template, params = choose_params(name, base_model, "square, small images kept")
    config = compose(template, params, odd, RunOptions(num_workers=0))
    torch.manual_seed(0)
    network: Any = build_network(config.model, None).train()
    optimizer = build_optim_wrapper(network, config.optim_wrapper)
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    losses = network.train_step(batch, optimizer)
    assert torch.isfinite(losses["loss"])
    network.eval()
    for batch in Runner.build_dataloader(config.val_dataloader, seed=0):
        network.test_step(batch)


def load_sizes(
    template: Template, params: CommonParams, odd: Dataset
) -> dict[tuple[int, int], tuple[int, int]]:
    """The size in which each training image reaches the padding, by its original size; mixing is left out."""
    config = compose(
        template, params, odd, RunOptions(num_workers=0)
    ).train_dataloader.dataset.to_dict()
    pipeline = (config.get("dataset") or config)["pipeline"]
    unpadded = [
        step
        for step in pipeline
        if step["type"] not in ("PadToCanvas", "FilterAnnotations", "PackDetInputs")
    ]
    images = DATASETS.build((config.get("dataset") or config) | {"pipeline": unpadded})
    found = {}
    for position in range(len(images)):
        result = images[position]
        height, width = result["ori_shape"]
        found[width, height] = result["img"].shape[1::-1]
    return found


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
    values = {"image_size": 320, "random_resize_upper": 352, "max_aspect_ratio": 5.0}
    template, params = choose_params("ssd", "ssdlite_mobilenetv2", "square", **values)
    np.random.seed(seed)
    sizes = load_sizes(template, params, odd)
    assert {
        original: sizes[original] for original in ((1000, 250), (250, 1000), (96, 96), (192, 160))
    } == {
        (1000, 250): (1000, 250),
        (250, 1000): (250, 1000),
        (96, 96): (96, 96),
        (192, 160): (192, 160),
    }
    assert sizes[32, 20] == (102, 64)  # SSDLite takes no less than 64 px


def test_an_image_above_the_lower_limit_does_not_keep_its_size(odd: Dataset) -> None:
    template, params = choose_params(
        "yolof", "resnet50", "smaller side, random", image_size=96, random_resize_upper=128
    )
    assert min(load_sizes(template, params, odd)[192, 160]) in (96, 128)


def test_sizes_start_at_the_lower_limit_where_that_is_off_the_grid(odd: Dataset) -> None:
    template, params = choose_params(
        "ssd", "ssd300_vgg16", "square", image_size=300, random_resize_upper=384
    )
    seen = {
        size
        for _ in range(20)
        for original, size in load_sizes(template, params, odd).items()
        if original == (1000, 250)
    }
    assert seen == {(432, 108)}  # it is below the limit, and enlarged to the 288 px that VGG takes
    resize = next(
        step for step in compose_steps(template, params, odd) if step["type"] == "RandomSize"
    )
    assert (resize["lower"], resize["upper"]) == ((300,), (384,))
    template, params = choose_params("ssd", "ssd300_vgg16", "square", image_size=300)
    assert set(load_sizes(template, params, odd).values()) == {(300, 300)}


def compose_steps(template: Template, params: CommonParams, odd: Dataset) -> list[dict[str, Any]]:
    """The transforms of training images."""
    dataset: dict[str, Any] = compose(
        template, params, odd, RunOptions(num_workers=0)
    ).train_dataloader.dataset.to_dict()
    steps: list[dict[str, Any]] = dataset["pipeline"]
    return steps


def test_the_share_of_small_images_is_told(odd: Dataset) -> None:
    _, params = choose_params("yolof", "resnet50", "smaller side", image_size=128)
    assert (
        describe_small_images(params, odd) == ""
    )  # with one size nothing is random: all images have it
    _, params = choose_params(
        "yolof", "resnet50", "smaller side, random", image_size=128, random_resize_upper=192
    )
    told = describe_small_images(params, odd)
    assert told.startswith(
        "3 of 6 training images (50%) are smaller than random_resize_lower=128: they train at their own size"
    )


def test_ssd300_takes_300_pixels_and_nobody_else(odd: Dataset) -> None:
    template, params = choose_params("ssd", "ssd300_vgg16", "square", image_size=300)
    assert make_preprocessing(template, params).fixed_canvas == (300, 300)
    network: Any = built(compose(template, params, odd, RunOptions()).model.to_dict())
    maps = network.extract_feat(torch.zeros(1, 3, 300, 300))
    assert [level.shape[-1] for level in maps] == [38, 19, 10, 5, 3, 1]
    assert [stride[0] for stride in network.bbox_head.prior_generator.strides] == [
        8,
        16,
        32,
        64,
        100,
        300,
    ]

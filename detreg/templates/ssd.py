"""SSD: default boxes on maps of falling resolution, hard negative mining (arXiv:1512.02325).

    mlflow run . -e ssd -P data=/data/boats

SSDLite is its mobile form. The image is stretched to a square, and the default boxes are shares of
it, so they keep their meaning at other sizes than the published 300, 320 and 512 pixels. At the
published size the boxes are the published ones.
"""

import math
from dataclasses import dataclass, replace

from detreg.params import ImageSize, boolean, size
from detreg.templates.base_model import BaseModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
    base_model_field,
    batch_size_field,
    lrate_field,
    num_epochs_field,
)
from detreg.templates.config import Config
from detreg.templates.input_spec import IMAGENET, InputSpec
from detreg.templates.recipe import Recipe, cosine_schedule, step_schedule
from detreg.templates.template import Augmentation, ClassLayer, Template

VGG_INPUT = InputSpec(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), channels="rgb")
SSDLITE_RECIPE = Recipe(
    learning_rate=0.015,
    batch_size=192,
    optimizer={"optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 4e-5}},
    schedule=cosine_schedule(epochs=120, warmup=500),
)
# VGG has no batch-norm, and was published with a lower rate than SSDLite.
VGG_RECIPE = Recipe(
    learning_rate=0.002,
    batch_size=64,
    optimizer={"optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 5e-4}},
    schedule=step_schedule(epochs=24, drops=(16, 22), warmup=500),
)


def adapt_to_few_images(published: Recipe, has_weights: bool) -> Recipe:
    """Return the recipe for some hundred to some thousand images.

    SSDLite was published from random weights, with steps of 192 images and 600 epochs of COCO. At
    that rate a short training of few images does not begin to learn (docs/train.md). With weights
    loaded nothing was measured, so it stays.
    """
    if has_weights or published is not SSDLITE_RECIPE:
        return published
    return replace(published, learning_rate=16 * published.learning_rate)


GRID = 32
"""Image sizes are multiples of this, the published size of a base model aside."""

BASE_MODELS = {
    "ssdlite_mobilenetv2": BaseModel(
        config="ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        input=IMAGENET,
        recipe=SSDLITE_RECIPE,
        smallest_input=64,
        coco_weights=openmmlab_file(
            "ssd", "ssdlite_mobilenetv2_scratch_600e_coco", "20210629_110627-974d9307"
        ),
        coco_ap=21.3,
        parameters=4.23,
        gflops=0.746,
    ),
    "ssd300_vgg16": BaseModel(
        config="ssd/ssd300_coco.py",
        input=VGG_INPUT,
        recipe=VGG_RECIPE,
        image_size=300,
        pad_divisor=1,  # its poolings round up, so any side fits
        smallest_input=288,
        coco_weights=openmmlab_file("ssd", "ssd300_coco", "20210803_015428-d231a06e"),
        coco_ap=25.5,
        parameters=34.3,
        gflops=38.5,
    ),
    "ssd512_vgg16": BaseModel(
        config="ssd/ssd512_coco.py",
        input=VGG_INPUT,
        recipe=VGG_RECIPE,
        pad_divisor=1,
        smallest_input=288,
        coco_weights=openmmlab_file("ssd", "ssd512_coco", "20210803_022849-0a47a1ca"),
        coco_ap=29.5,
        parameters=36.0,
        gflops=38.5,
    ),
}

_SIZES_OFF_GRID = tuple(model.image_size for model in BASE_MODELS.values() if model.image_size)


@dataclass(frozen=True, kw_only=True)
class DefaultBoxes:
    """The published default boxes of a base model, in pixels of a square image."""

    image_side: int
    strides: tuple[int, ...]
    """The distance between neighboring boxes, on each level."""
    sizes: tuple[int, ...]
    """The smaller side of each level's boxes, and one more for the mean of the last level."""


DEFAULT_BOXES = {
    "ssdlite_mobilenetv2": DefaultBoxes(
        image_side=320,
        strides=(16, 32, 64, 107, 160, 320),
        sizes=(48, 100, 150, 202, 253, 304, 320),
    ),
    "ssd300_vgg16": DefaultBoxes(
        image_side=300,
        strides=(8, 16, 32, 64, 100, 300),
        sizes=(21, 45, 99, 153, 207, 261, 315),
    ),
    "ssd512_vgg16": DefaultBoxes(
        image_side=512,
        strides=(8, 16, 32, 64, 128, 256, 512),
        sizes=(20, 51, 133, 215, 296, 378, 460, 542),
    ),
}


@dataclass(frozen=True, kw_only=True)
class SsdParams(CommonParams):
    """Published for SSDLite: 600 epochs, 192 images a step at a rate of 0.015, 320 px.

    The 600 epochs are 120 of a dataset that is repeated five times.
    """

    image_size: ImageSize = size(
        320,
        also=_SIZES_OFF_GRID,
        help="Pixels: the side of the square that the image is stretched to, or width,height; "
        "the smaller side with keep_aspect_ratio",
    )
    keep_aspect_ratio: bool = boolean(
        False,
        help="Resize both sides by one factor; false stretches to a square or to width,height",
    )
    batch_size: int | None = batch_size_field(24)
    num_epochs: int = num_epochs_field(120)
    per_item_lrate: float | None = lrate_field("2e-5:5e-3:log")
    base_model: str = base_model_field("ssdlite_mobilenetv2", BASE_MODELS)

    def find_problems(self) -> list[str]:
        """Return what is wrong with the combination, also sizes that the base model cannot take."""
        return [
            *super().find_problems(),
            *self._find_sizes_off_grid(),
            *self._find_sizes_too_small(),
        ]

    def _find_sizes_off_grid(self) -> list[str]:
        problems = []
        for side in self.image_size:
            if side % GRID == 0 or side == BASE_MODELS[self.base_model].image_size:
                continue
            owners = [
                f"base_model={name}"
                for name, model in BASE_MODELS.items()
                if model.image_size == side
            ]
            below = side // GRID * GRID
            problems.append(
                f"image_size={side} is the published size of {', '.join(owners)} alone, "
                f"got base_model={self.base_model}: choose {below} or {below + GRID}"
            )
        return problems

    def _find_sizes_too_small(self) -> list[str]:
        smallest = BASE_MODELS[self.base_model].smallest_input
        lower, _ = self.random_sizes
        if min(*lower, *self.image_size) >= smallest:
            return []
        return [
            f"{self.base_model} needs an image_size (and random_resize_lower) of at least "
            f"{smallest}, or its last map would be empty: choose a larger one, or "
            "base_model=ssdlite_mobilenetv2"
        ]


def build_model(published: Config, params: SsdParams, num_classes: int) -> Config:
    """Return the published network for `num_classes` classes.

    Its head can predict, which MMDetection's SSDHead cannot, and its backbone can be frozen.
    """
    published_backbone = published["backbone"]
    backbone = published_backbone | {
        "type": f"Freezable{published_backbone['type']}",
        "frozen_stages": params.frozen_stages or 0,
    }
    if published_backbone["type"] == "SSDVGG":
        backbone["init_cfg"] = None  # the published one downloads ImageNet weights

    bbox_head = published["bbox_head"] | {
        "type": "PredictingSSDHead",
        "num_classes": num_classes,
        "anchor_generator": make_anchor_generator(published, params),
    }
    return published | {"backbone": backbone, "bbox_head": bbox_head}


def make_anchor_generator(published: Config, params: SsdParams) -> Config:
    """Return the anchor generator, with boxes as shares of the image, on the maps of its size.

    Up to stride 64 maps are halved exactly; beyond, the published strides are the side of the image
    divided by the number of cells.
    """
    boxes = DEFAULT_BOXES[params.base_model]
    width, height = params.image_size[0], params.image_size[-1]
    smaller_side = min(width, height)
    sizes = [round(value * smaller_side / boxes.image_side) for value in boxes.sizes]

    columns = _count_cells(published, width, boxes.strides[0])
    rows = _count_cells(published, height, boxes.strides[0])
    strides = []
    for level, stride in enumerate(boxes.strides):
        if stride <= 64:
            strides.append((stride, stride))
        else:
            strides.append((round(width / columns[level]), round(height / rows[level])))

    return {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "strides": strides,
        "ratios": published["bbox_head"]["anchor_generator"]["ratios"],
        "min_sizes": sizes[:-1],
        "max_sizes": sizes[1:],
    }


def _count_cells(published: Config, length: int, first_stride: int) -> list[int]:
    """Return the number of cells of each map along a side of `length` pixels."""
    neck = published["neck"]
    cells = [math.ceil(length / first_stride), math.ceil(length / (2 * first_stride))]

    last_level = len(neck["level_strides"]) - 1
    levels = zip(neck["level_strides"], neck["level_paddings"], strict=True)
    for level, (stride, padding) in enumerate(levels):
        kernel_size = 3
        if level == last_level:
            kernel_size = neck.get("last_kernel_size", 3)
        # The size of a convolution's output.
        cells.append((cells[-1] + 2 * padding - kernel_size) // stride + 1)
    return cells


def build_augmentation(published: list[Config], params: SsdParams) -> Augmentation:  # noqa: ARG001
    """Return expand and crop before resizing, flip and colors after it, as published.

    The published strength of the colors' distortion is MMDetection's default.
    """
    by_type = {transform["type"]: transform for transform in published}
    expand, crop = by_type["Expand"], by_type["MinIoURandomCrop"]
    expand_and_crop = {
        "type": "FastExpandCrop",
        "factors": expand["ratio_range"],
        "levels": [int(level) for level in reversed(expand["mean"])],  # it is in RGB
        "overlaps": crop["min_ious"],
        "min_share": crop["min_crop_size"],
    }
    return Augmentation(
        before=[expand_and_crop],
        after=[{"type": "FastFlip"}, {"type": "LevelDistortion"}],
    )


def get_class_layers(params: SsdParams) -> tuple[ClassLayer, ...]:  # noqa: ARG001
    """Return the classifiers of all levels, with their background rows."""
    return (ClassLayer(r"bbox_head\.cls_convs\.\d+\.\d+\.(weight|bias)", background=1),)


SSD = Template(
    name="ssd",
    aliases=("MMDetection_SSD",),
    summary="Default boxes on several maps; SSDLite is small and fast",
    description=(
        "Multi-scale feature maps: convolutions shrink the image step by step, and each map "
        "predicts offsets from its own default boxes; hard negative mining trains on the three "
        "worst negatives for each positive."
    ),
    when=(
        "The smallest model and the fastest answers, on CPUs and phones, for objects that are not "
        "small."
    ),
    params=SsdParams,
    base_models=BASE_MODELS,
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="one_stage",
    adapt_to_few_images=adapt_to_few_images,
)

"""SSD: default boxes on several maps of falling resolution, hardest negatives only (arXiv:1512.02325); SSDLite is its mobile form.

    mlflow run . -e ssd -P data=/data/boats

The image is stretched to a square, and the default boxes are shares of it, so other sizes than the published 300, 320 and 512 pixels
keep their meaning. At the published size the boxes are the published ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

from detreg.params import ImageSize, boolean, choice, size
from detreg.templates.base_model import BaseModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
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


def _vgg16(side: int, stamp: str, coco_ap: float, parameters: float) -> BaseModel:
    return BaseModel(
        config=f"ssd/ssd{side}_coco.py",
        input=VGG_INPUT,
        recipe=VGG_RECIPE,
        image_size=None if side % 32 == 0 else side,
        pad_divisor=1,  # its poolings round up, so any side is taken
        smallest_input=288,
        coco_weights=openmmlab_file("ssd", f"ssd{side}_coco", stamp),
        coco_ap=coco_ap,
        parameters=parameters,
        gflops=38.5,
    )


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
    "ssd300_vgg16": _vgg16(300, "20210803_015428-d231a06e", 25.5, 34.3),
    "ssd512_vgg16": _vgg16(512, "20210803_022849-0a47a1ca", 29.5, 36.0),
}


class DefaultBoxes(NamedTuple):
    """The published default boxes of a base model.

    `sizes` are the smaller sides of each level's boxes, and one more that only enters the last level's mean, in pixels of an image of
    `image`; `strides` lie between neighboring boxes.
    """

    image: int
    strides: tuple[int, ...]
    sizes: tuple[int, ...]


DEFAULT_BOXES = {
    "ssdlite_mobilenetv2": DefaultBoxes(
        320, (16, 32, 64, 107, 160, 320), (48, 100, 150, 202, 253, 304, 320)
    ),
    "ssd300_vgg16": DefaultBoxes(300, (8, 16, 32, 64, 100, 300), (21, 45, 99, 153, 207, 261, 315)),
    "ssd512_vgg16": DefaultBoxes(
        512, (8, 16, 32, 64, 128, 256, 512), (20, 51, 133, 215, 296, 378, 460, 542)
    ),
}


@dataclass(frozen=True, kw_only=True)
class SsdParams(CommonParams):
    """Published for SSDLite: 600 epochs (120 of a dataset taken five times), 192 images a step at a rate of 0.015, 320 px."""

    image_size: ImageSize = size(
        320,
        also=tuple(
            base_model.image_size for base_model in BASE_MODELS.values() if base_model.image_size
        ),
        help="Pixels: the side of the square that the image is stretched to, or width,height; the smaller side with keep_aspect_ratio",
    )
    keep_aspect_ratio: bool = boolean(
        False,
        help="Resize both sides by one factor; false stretches to a square or to width,height",
    )
    batch_size: int = batch_size_field(24)
    num_epochs: int = num_epochs_field(120)
    per_item_lrate: float | None = lrate_field("1e-5:1e-3:log")
    base_model: str = choice(
        "ssdlite_mobilenetv2", *BASE_MODELS, help="The architecture underneath"
    )

    def find_problems(self) -> list[str]:
        """Adds the size that the last, smallest map needs, and the one size off the grid."""
        base_model = BASE_MODELS[self.base_model]
        smallest = base_model.smallest_input
        found = super().find_problems()
        for side in self.image_size:
            if side % 32 and side != base_model.image_size:
                published = ", ".join(
                    f"base_model={name}"
                    for name, other in BASE_MODELS.items()
                    if other.image_size == side
                )
                found.append(
                    f"image_size={side} is the published size of {published} alone, got base_model={self.base_model}: "
                    f"choose {side // 32 * 32} or {(side // 32 + 1) * 32}"
                )
        if min(*self.random_sizes[0], *self.image_size) < smallest:
            found.append(
                f"{self.base_model} needs an image_size (and random_resize_lower) of at least {smallest}, or its last map would be empty: "
                "choose a larger one, or base_model=ssdlite_mobilenetv2"
            )
        return found


def build_model(published: Config, params: SsdParams, num_classes: int) -> Config:
    """The published network for `num_classes` classes, with a head that can predict and a backbone that can be frozen."""
    model = dict(published)
    backbone = published["backbone"]
    model["backbone"] = backbone | {
        "type": f"Freezable{backbone['type']}",
        "frozen_stages": params.frozen_stages,
    }
    if backbone["type"] == "SSDVGG":
        model["backbone"]["init_cfg"] = None  # the published one downloads ImageNet weights
    model["bbox_head"] = published["bbox_head"] | {
        "type": "PredictingSSDHead",
        "num_classes": num_classes,
        "anchor_generator": make_anchor_generator(published, params),
    }
    return model


def make_anchor_generator(published: Config, params: SsdParams) -> Config:
    """The anchor generator: boxes as shares of the image, on the maps that a image of this size has.

    Up to stride 64 maps are halved exactly; beyond, the published strides are the image's side over the number of cells.
    """
    boxes = DEFAULT_BOXES[params.base_model]
    side = min(params.image_size)
    sizes = [round(value * side / boxes.image) for value in boxes.sizes]
    widths, heights = (
        _cells(published, length, boxes.strides[0])
        for length in (params.image_size[0], params.image_size[-1])
    )
    strides = [
        (stride, stride)
        if stride <= 64
        else (round(params.image_size[0] / columns), round(params.image_size[-1] / rows))
        for stride, columns, rows in zip(boxes.strides, widths, heights, strict=True)
    ]
    ratios = published["bbox_head"]["anchor_generator"]["ratios"]
    return {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "strides": strides,
        "ratios": ratios,
        "min_sizes": sizes[:-1],
        "max_sizes": sizes[1:],
    }


def _cells(published: Config, length: int, stride: int) -> list[int]:
    """Cells of each map along a side of `length` pixels."""
    neck = published["neck"]
    cells = [-(-length // stride), -(-length // (2 * stride))]
    steps = list(zip(neck["level_strides"], neck["level_paddings"], strict=True))
    for level, (step, padding) in enumerate(steps):
        kernel = neck.get("last_kernel_size", 3) if level == len(steps) - 1 else 3
        cells.append((cells[-1] + 2 * padding - kernel) // step + 1)
    return cells


def build_augmentation(published: list[Config], params: SsdParams) -> Augmentation:  # noqa: ARG001
    """Expand and crop before resizing, flip and colors after it, as published."""
    before = [
        transform for transform in published if transform["type"] in ("Expand", "MinIoURandomCrop")
    ]
    return Augmentation(
        before,
        after=[
            transform
            for transform in published
            if transform["type"] in ("RandomFlip", "PhotoMetricDistortion")
        ],
    )


SSD = Template(
    name="ssd",
    aliases=("MMDetection_SSD",),
    summary="Default boxes on several maps; SSDLite is small and fast",
    description=(
        "Multi-scale feature maps: convolutions shrink the image step by step, and each map predicts offsets from its own default "
        "boxes; hard negative mining trains on the three worst negatives for each positive."
    ),
    when="The smallest model and the fastest answers, on CPUs and phones, for objects that are not small.",
    params=SsdParams,
    base_models=BASE_MODELS,
    decoder="one_stage",
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=lambda _: (
        ClassLayer(r"bbox_head\.cls_convs\.\d+\.\d+\.(weight|bias)", background=1),
    ),
)

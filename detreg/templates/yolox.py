"""YOLOX: anchor-free one-stage detector with a decoupled head and SimOTA (arXiv:2107.08430).

    mlflow run . -e yolox -P data=/data/boats -P base_model=yolox_tiny -P image_size=416

On two CPU cores, yolox_nano at 416 px takes about 0.7 s per step of 8 images; 8 epochs on 205
images give a val mAP of 0.54. With `pretrained_weights=coco` expect most of the final mAP within
the first epochs.
"""

import math
from dataclasses import dataclass, replace

from detreg.params import ImageSize, choice, number
from detreg.templates.base_model import BaseModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
    batch_size_field,
    frozen_stages_field,
    image_size_field,
    lrate_field,
    num_epochs_field,
)
from detreg.templates.config import Config
from detreg.templates.input_spec import InputSpec
from detreg.templates.recipe import Recipe, Schedule
from detreg.templates.template import Augmentation, ClassLayer, Template

GRAY = 114
"""Level of the gray that surrounds images, in Mosaic too."""

INPUT = InputSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="bgr", gray_padding=GRAY)


def compute_rate_factor(progress: float, steps: int) -> float:
    """Return the factor of the learning rate at `progress` in [0, 1) of `steps` steps.

    Quadratic warm-up for 5 of 300 epochs, cosine towards a twentieth until 285, then constant.
    """
    # A short training warms up for 5 steps, or a fifth of them: at the full rate in its second step
    # the network collapses.
    warmup = max(5 / 300, min(5 / steps, 0.2))
    if progress < warmup:
        return (progress / warmup) ** 2

    # The cosine begins after the warm-up with the length that it has from epoch 0, so it stops a
    # little above the twentieth, as published. From its last step on the rate stays.
    cosine_end = 285 / 300
    last_step = cosine_end - 1 / steps
    angle = math.pi * (min(progress, last_step) - warmup) / cosine_end
    floor = 0.05
    return floor + (1 - floor) * 0.5 * (1 + math.cos(angle))


RECIPE = Recipe(
    learning_rate=0.01,
    batch_size=64,
    optimizer={
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
        "paramwise_cfg": {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0},
    },
    schedule=Schedule(epochs=300, factor=compute_rate_factor, plain_epochs=15),
    ema_momentum=0.0001,
)


def adapt_to_few_images(published: Recipe, has_weights: bool) -> Recipe:
    """Return the recipe for some hundred to some thousand images.

    docs/train.md has the measurements. The first two stages of a backbone with loaded weights stay
    as they are: a short training would wreck what they know before it could learn it again.
    """
    schedule = published.schedule
    return replace(
        published,
        learning_rate=4 * published.learning_rate,
        schedule=replace(schedule, plain_epochs=schedule.epochs // 2),
        frozen_stages=2 if has_weights else 0,
    )


def _base_model(
    letter: str,
    *,
    stamp: str | None = None,
    coco_ap: float,
    parameters: float,
    gflops: float,
) -> BaseModel:
    """Declare the network of one width and depth; `stamp` is that of its published weights."""
    coco_weights = None
    if stamp is not None:
        coco_weights = openmmlab_file("yolox", f"yolox_{letter}_8x8_300e_coco", stamp)

    return BaseModel(
        config=f"yolox/yolox_{letter}_8xb8-300e_coco.py",
        input=INPUT,
        recipe=RECIPE,
        coco_weights=coco_weights,
        coco_ap=coco_ap,
        parameters=parameters,
        gflops=gflops,
    )


# Nano and m were published by the method's authors only, not in MMDetection's layout.
BASE_MODELS = {
    "yolox_nano": _base_model("nano", coco_ap=25.8, parameters=0.912, gflops=1.24),
    "yolox_tiny": _base_model(
        "tiny", stamp="20211124_171234-b4047906", coco_ap=32.0, parameters=5.06, gflops=7.59
    ),
    "yolox_s": _base_model(
        "s", stamp="20211121_095711-4592a793", coco_ap=40.5, parameters=8.97, gflops=13.3
    ),
    "yolox_m": _base_model("m", coco_ap=46.9, parameters=25.3, gflops=36.8),
    "yolox_l": _base_model(
        "l", stamp="20211126_140236-d3bd2b23", coco_ap=49.4, parameters=54.2, gflops=77.6
    ),
    "yolox_x": _base_model(
        "x", stamp="20211126_140254-1ef88d67", coco_ap=50.9, parameters=99.1, gflops=141
    ),
}


@dataclass(frozen=True, kw_only=True)
class YoloxParams(CommonParams):
    """Published: 300 epochs, 64 images a step at a rate of 0.01, 640 px letterboxed to a square."""

    image_size: ImageSize = image_size_field(640)
    max_aspect_ratio: float = number(
        1.0,
        1.0,
        5.0,
        0.1,
        help="With keep_aspect_ratio: longer side over image_size, at most; "
        "1.0 letterboxes into a square",
    )
    batch_size: int | None = batch_size_field(8)
    num_epochs: int = num_epochs_field(50)
    per_item_lrate: float | None = lrate_field("1e-4:4e-3:log")
    frozen_stages: int | None = frozen_stages_field("0:4:1")
    base_model: str = choice("yolox_s", *BASE_MODELS, help="Width and depth of the network")


def build_model(published: Config, params: YoloxParams, num_classes: int) -> Config:
    """Return the published network for `num_classes` classes.

    Its stages are the stem with stage 1, then stages 2 to 4.
    """
    frozen_stages = params.frozen_stages or -1  # MMDetection freezes none at -1
    return published | {
        "backbone": published["backbone"] | {"frozen_stages": frozen_stages},
        "bbox_head": published["bbox_head"] | {"num_classes": num_classes},
    }


def build_augmentation(published: list[Config], params: YoloxParams) -> Augmentation:
    """Return Mosaic and affine as published, and MixUp if the base model has it.

    Color and flip stay on in the plain epochs.
    """
    by_type = {transform["type"]: transform for transform in published}
    canvas = {"size": _compute_canvas(params), "gray": GRAY}

    factors = by_type["RandomAffine"]["scaling_ratio_range"]
    mixing: list[Config] = [{"type": "FastMosaic", **canvas, "factors": factors}]
    if "MixUp" in by_type:
        factors = by_type["MixUp"]["ratio_range"]
        mixing.append({"type": "FastMixUp", **canvas, "factors": factors})

    return Augmentation(mixing=mixing, after=[{"type": "FastHsv"}, {"type": "FastFlip"}])


def _compute_canvas(params: YoloxParams) -> tuple[int, int]:
    """Return the width and height in pixels of what Mosaic composes."""
    if not params.keep_aspect_ratio:
        return params.image_size[0], params.image_size[-1]
    side = _round_up_to_grid(params.image_size[0] * params.max_aspect_ratio)
    return side, side


def _round_up_to_grid(side: float) -> int:
    """Round up to a multiple of 32 pixels; 1e-6 forgives a product's rounding error."""
    pixels = math.floor(side + 1e-6)
    return math.ceil(pixels / 32) * 32


def get_class_layers(params: YoloxParams) -> tuple[ClassLayer, ...]:  # noqa: ARG001
    """Return the classifiers of the three levels."""
    return (ClassLayer(r"bbox_head\.multi_level_conv_cls\.\d+\.(weight|bias)"),)


YOLOX = Template(
    name="yolox",
    aliases=("MMDetection_YOLOX", "MMDetection_YoloX"),
    summary="Anchor-free, one stage, fast: the first to try",
    description=(
        "Anchor-free: each cell of three feature maps predicts one box, with classification and "
        "regression in separate branches (decoupled head); SimOTA assigns objects to cells while "
        "training; Mosaic and, in the larger models, MixUp combine images."
    ),
    when="Speed, small objects, few images with good start weights; the first to try.",
    params=YoloxParams,
    base_models=BASE_MODELS,
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="yolox",
    adapt_to_few_images=adapt_to_few_images,
)

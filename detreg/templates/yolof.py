"""YOLOF: one feature level of stride 32, dilated convolutions, uniform matching (arXiv:2103.09460).

    mlflow run . -e yolof -P data=/data/boats

A single level makes it light at a given resolution and weak on objects of less than about 32
pixels. Its loss can become NaN at high rates (about one training in six on VOC): the run then
stops, says so, and can be resumed at a lower rate.
"""

from dataclasses import dataclass

from detreg.params import ImageSize, numbers
from detreg.templates.base_model import BaseModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
    base_model_field,
    batch_size_field,
    image_size_field,
    lrate_field,
    num_epochs_field,
)
from detreg.templates.config import Config, select_transforms, to_height_ratios
from detreg.templates.input_spec import InputSpec
from detreg.templates.recipe import Recipe, step_schedule
from detreg.templates.template import Augmentation, ClassLayer, Template

RECIPE = Recipe(
    learning_rate=0.12,
    batch_size=64,
    optimizer={
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 1e-4},
        "paramwise_cfg": {"norm_decay_mult": 0.0, "custom_keys": {"backbone": {"lr_mult": 1 / 3}}},
        # Not published; a single wild step is what makes the loss NaN.
        "clip_grad": {"max_norm": 35},
    },
    schedule=step_schedule(epochs=12, drops=(8, 11), warmup=1500),
    frozen_stages=1,
)
BASE_MODELS = {
    "resnet50": BaseModel(
        config="yolof/yolof_r50-c5_8xb8-1x_coco.py",
        # The backbone's weights come from Caffe: blue first, no division by the deviation.
        input=InputSpec(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), channels="bgr"),
        recipe=RECIPE,
        coco_weights=openmmlab_file(
            "yolof", "yolof_r50_c5_8x8_1x_coco", "20210425_024427-8e864411"
        ),
        coco_ap=37.5,
        parameters=44.2,
        gflops=25.4,
    )
}


@dataclass(frozen=True, kw_only=True)
class YolofParams(CommonParams):
    """Published: 12 epochs, 64 images a step at a rate of 0.12, at most 800 by 1333 px."""

    image_size: ImageSize = image_size_field(512)
    batch_size: int | None = batch_size_field(16)
    num_epochs: int = num_epochs_field(100)
    per_item_lrate: float | None = lrate_field("1e-4:1e-2:log")
    anchor_ratios: tuple[float, ...] = numbers(
        (1.0,), 0.1, 10.0, help="Width over height of the anchors, five sizes of each"
    )
    base_model: str = base_model_field("resnet50", BASE_MODELS)


def build_model(published: Config, params: YolofParams, num_classes: int) -> Config:
    """Return the published network for `num_classes` classes.

    The scales and shifts of the backbone's batch-norms are not trained, as published, unless
    frozen_stages=0.
    """
    trains_batch_norm = params.frozen_stages == 0
    backbone = published["backbone"] | {
        "frozen_stages": params.frozen_stages or -1,  # MMDetection freezes none at -1
        "norm_cfg": {"type": "BN", "requires_grad": trains_batch_norm},
        "init_cfg": None,
    }

    head = published["bbox_head"]
    ratios = to_height_ratios(params.anchor_ratios)
    bbox_head = head | {
        "num_classes": num_classes,
        "anchor_generator": head["anchor_generator"] | {"ratios": ratios},
    }
    return published | {"backbone": backbone, "bbox_head": bbox_head}


def build_augmentation(published: list[Config], params: YolofParams) -> Augmentation:  # noqa: ARG001
    """Return flip and shift, as published."""
    shift = select_transforms(published, "RandomShift")
    return Augmentation(after=[{"type": "FastFlip"}, *shift])


def get_class_layers(params: YolofParams) -> tuple[ClassLayer, ...]:  # noqa: ARG001
    """Return the classifier."""
    return (ClassLayer(r"bbox_head\.cls_score\.(weight|bias)"),)


YOLOF = Template(
    name="yolof",
    aliases=("MMDetection_YOLOF", "MMDetection_YoloF"),
    summary="One feature level, no pyramid: light and simple",
    description=(
        "Single-level feature: one map of stride 32 from the backbone's last stage (C5), no "
        "feature pyramid; a dilated encoder widens its view to objects of all sizes; uniform "
        "matching gives every object as many anchors, whatever its size."
    ),
    when=(
        "Objects of medium and large size, where a light head and a plain training matter more "
        "than small objects."
    ),
    params=YolofParams,
    base_models=BASE_MODELS,
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="one_stage",
)

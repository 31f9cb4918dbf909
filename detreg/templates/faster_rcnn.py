"""Faster R-CNN: proposals first, then a head that classifies and refines each of them (arXiv:1506.01497), with a feature pyramid.

    mlflow run . -e faster_rcnn -P data=/data/boats

Two stages cost time and memory and place boxes well. On two CPU cores a step of 8 images of 128 px takes about 5 s: the
second stage learns from 512 proposals of each image, whatever its size.
"""

from dataclasses import dataclass

from detreg.params import ImageSize, boolean, choice, integer, number, numbers, size
from detreg.templates.template import (
    IMAGENET,
    Augmentation,
    BaseModel,
    ClassLayer,
    CommonParams,
    Config,
    Recipe,
    Template,
    frozen_stages_field,
    lrate_field,
    step_schedule,
    to_height_ratios,
)

RECIPE = Recipe(
    learning_rate=0.02,
    batch_size=16,
    optimizer={"optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 1e-4}},
    schedule=step_schedule(epochs=12, drops=(8, 11), warmup=500),
)
_HUB = "https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn"


def _base_model(
    depth: int, stamp: str, coco_ap: float, parameters: float, gflops: float
) -> BaseModel:
    name = f"faster_rcnn_r{depth}_fpn_1x_coco"
    return BaseModel(
        config=f"faster_rcnn/faster-rcnn_r{depth}_fpn_1x_coco.py",
        input=IMAGENET,
        recipe=RECIPE,
        url=f"{_HUB}/{name}/{name}_{stamp}.pth",
        sha256=stamp.rsplit("-", 1)[-1],
        coco_ap=coco_ap,
        parameters=parameters,
        gflops=gflops,
    )


BASE_MODELS = {
    "resnet50": _base_model(50, "20200130-047c8118", 37.4, 41.8, 134),
    "resnet101": _base_model(101, "20200130-f513f705", 39.4, 60.7, 182),
}


@dataclass(frozen=True, kw_only=True)
class FasterRcnnParams(CommonParams):
    """Published: 12 epochs, 16 images a step at a rate of 0.02, sides of at most 800 and 1333 px."""

    image_size: ImageSize = size(
        800,
        help="Pixels: the smaller side of the image, or width,height exactly with keep_aspect_ratio=false",
    )
    max_aspect_ratio: float = number(
        1.7,
        1.0,
        5.0,
        0.1,
        help="With keep_aspect_ratio: the longer side is at most this multiple of image_size after resizing",
    )
    batch_size: int = integer(2, 1, 32, 1, help="Images per optimiser step, over all GPUs")
    num_epochs: int = integer(12, 1, 200, 1, help="Passes over the training split")
    per_item_lrate: float | None = lrate_field("1e-4:1e-2:log")
    frozen_stages: int = frozen_stages_field(1)
    anchor_ratios: tuple[float, ...] = numbers(
        (0.5, 1.0, 2.0),
        0.1,
        10.0,
        help="Width over height of the anchors that proposals start from",
    )
    use_perclass_regression: bool = boolean(
        True, search="true|false", help="One box regressor per class; false is one for all classes"
    )
    base_model: str = choice("resnet50", *BASE_MODELS, help="The architecture underneath")


def build_model(published: Config, params: FasterRcnnParams, num_classes: int) -> Config:
    """The published network for `num_classes` classes."""
    model = dict(published)
    model["backbone"] = published["backbone"] | {
        "frozen_stages": params.frozen_stages or -1,
        "init_cfg": None,
    }
    rpn = published["rpn_head"]
    model["rpn_head"] = rpn | {
        "anchor_generator": rpn["anchor_generator"]
        | {"ratios": to_height_ratios(params.anchor_ratios)}
    }
    roi = published["roi_head"]
    head = roi["bbox_head"] | {
        "num_classes": num_classes,
        "reg_class_agnostic": not params.use_perclass_regression,
    }
    model["roi_head"] = roi | {"bbox_head": head}
    return model


def build_augmentation(published: list[Config], params: FasterRcnnParams) -> Augmentation:  # noqa: ARG001
    """Flip, as published."""
    return Augmentation(
        after=[transform for transform in published if transform["type"] == "RandomFlip"]
    )


def get_class_layers(params: FasterRcnnParams) -> tuple[ClassLayer, ...]:
    """The classifier with its row for the background, and the regressors where each class has its own."""
    classifier = ClassLayer(r"roi_head\.bbox_head\.fc_cls\.(weight|bias)", background=1)
    regressor = ClassLayer(r"roi_head\.bbox_head\.fc_reg\.(weight|bias)", rows=4)
    return (classifier, regressor) if params.use_perclass_regression else (classifier,)


FASTER_RCNN = Template(
    name="faster_rcnn",
    aliases=("MMDetection_FasterRCNN",),
    summary="Two stages: proposals, then a head for each; accurate boxes",
    description=(
        "A region proposal network (RPN) slides over the maps of a feature pyramid and proposes boxes; the second stage pools each "
        "proposal from the same maps (shared convolutions), classifies it and refines its box."
    ),
    when="Accuracy of the boxes before speed; crowded or small objects at high resolution.",
    params=FasterRcnnParams,
    base_models=BASE_MODELS,
    decoder="two_stage",
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
)

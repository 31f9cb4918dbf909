"""Faster R-CNN: proposals first, then a head that classifies and refines each of them.

    mlflow run . -e faster_rcnn -P data=/data/boats

From arXiv:1506.01497, with a feature pyramid. Two stages cost time and memory and place boxes well.
On two CPU cores a step of 8 images of 128 px takes about 5 s: the second stage learns from 512
proposals of each image, whatever its size.
"""

from dataclasses import dataclass

from detreg.params import ImageSize, boolean, numbers
from detreg.templates._masks import MASK_LAYER, add_to_two_stages
from detreg.templates.base_model import BaseModel, MaskModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
    base_model_field,
    batch_size_field,
    image_size_field,
    lrate_field,
    masks_field,
    max_aspect_ratio_field,
    num_epochs_field,
)
from detreg.templates.config import Config, to_height_ratios
from detreg.templates.input_spec import IMAGENET
from detreg.templates.recipe import Recipe, step_schedule
from detreg.templates.template import Augmentation, ClassLayer, Template

RECIPE = Recipe(
    learning_rate=0.02,
    batch_size=16,
    optimizer={"optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 1e-4}},
    schedule=step_schedule(epochs=12, drops=(8, 11), warmup=500),
    frozen_stages=1,
)

BASE_MODELS = {
    "resnet50": BaseModel(
        config="faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        input=IMAGENET,
        recipe=RECIPE,
        coco_weights=openmmlab_file(
            "faster_rcnn", "faster_rcnn_r50_fpn_1x_coco", "20200130-047c8118"
        ),
        coco_ap=37.4,
        masks=MaskModel(
            config="mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
            coco_weights=openmmlab_file(
                "mask_rcnn", "mask_rcnn_r50_fpn_1x_coco", "20200205-d4b0c5d6"
            ),
        ),
        parameters=41.8,
        gflops=134,
    ),
    "resnet101": BaseModel(
        config="faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py",
        input=IMAGENET,
        recipe=RECIPE,
        coco_weights=openmmlab_file(
            "faster_rcnn", "faster_rcnn_r101_fpn_1x_coco", "20200130-f513f705"
        ),
        coco_ap=39.4,
        masks=MaskModel(
            config="mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py",
            coco_weights=openmmlab_file(
                "mask_rcnn", "mask_rcnn_r101_fpn_1x_coco", "20200204-1efe0ed5"
            ),
        ),
        parameters=60.7,
        gflops=182,
    ),
}


@dataclass(frozen=True, kw_only=True)
class FasterRcnnParams(CommonParams):
    """Published: 12 epochs, 16 images a step at a rate of 0.02, at most 800 by 1333 px."""

    image_size: ImageSize = image_size_field(800)
    max_aspect_ratio: float = max_aspect_ratio_field(1.7)
    batch_size: int | None = batch_size_field(2)
    num_epochs: int = num_epochs_field(12)
    per_item_lrate: float | None = lrate_field("1e-4:1e-2:log")
    anchor_ratios: tuple[float, ...] = numbers(
        (0.5, 1.0, 2.0),
        0.1,
        10.0,
        help="Width over height of the anchors that proposals start from",
    )
    use_perclass_regression: bool = boolean(
        True, search="true|false", help="One box regressor per class; false is one for all classes"
    )
    masks: bool = masks_field()
    base_model: str = base_model_field("resnet50", BASE_MODELS)


def build_model(published: Config, params: FasterRcnnParams, num_classes: int) -> Config:
    """Return the published network, that of Mask R-CNN with masks, for `num_classes` classes."""
    backbone = published["backbone"] | {
        "frozen_stages": params.frozen_stages or -1,  # MMDetection freezes none at -1
        "init_cfg": None,
    }

    rpn_head = published["rpn_head"]
    ratios = to_height_ratios(params.anchor_ratios)
    anchor_generator = rpn_head["anchor_generator"] | {"ratios": ratios}

    roi_head = published["roi_head"]
    bbox_head = roi_head["bbox_head"] | {
        "num_classes": num_classes,
        "reg_class_agnostic": not params.use_perclass_regression,
    }
    roi_head = roi_head | {"bbox_head": bbox_head}
    if params.masks:
        roi_head = add_to_two_stages(roi_head, num_classes)

    return published | {
        "backbone": backbone,
        "rpn_head": rpn_head | {"anchor_generator": anchor_generator},
        "roi_head": roi_head,
    }


def build_augmentation(published: list[Config], params: FasterRcnnParams) -> Augmentation:  # noqa: ARG001
    """Return the flip, as published."""
    return Augmentation(after=[{"type": "FastFlip"}])


def get_class_layers(params: FasterRcnnParams) -> tuple[ClassLayer, ...]:
    """Return the classifier with its background row, and regressors and masks of each class."""
    layers = [ClassLayer(r"roi_head\.bbox_head\.fc_cls\.(weight|bias)", background=1)]
    if params.use_perclass_regression:
        layers.append(ClassLayer(r"roi_head\.bbox_head\.fc_reg\.(weight|bias)", rows=4))
    if params.masks:
        layers.append(MASK_LAYER)
    return tuple(layers)


FASTER_RCNN = Template(
    name="faster_rcnn",
    aliases=("MMDetection_FasterRCNN",),
    summary="Two stages: proposals, then a head for each; accurate boxes",
    description=(
        "A region proposal network (RPN) slides over the maps of a feature pyramid and proposes "
        "boxes; the second stage pools each proposal from the same maps (shared convolutions), "
        "classifies it and refines its box."
    ),
    when="Accuracy of the boxes before speed; crowded or small objects at high resolution.",
    params=FasterRcnnParams,
    base_models=BASE_MODELS,
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="two_stage",
)

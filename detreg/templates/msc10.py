"""MSC10: RetinaNet on a base model of choice, with focal loss or OHEM (arXiv:1708.02002).

    mlflow run . -e msc10 -P data=/data/boats -P base_model=efficientnet_b0

Base models go from mobilenetv2_100, which trains on a laptop, to resnet101 and inception_v4. COCO
weights of the whole network are published for the two ResNets (pretrained_weights=coco); the others
start from ImageNet weights in the backbone (pretrain_base_data=imagenet).
"""

from dataclasses import dataclass

from detreg.params import choice
from detreg.templates._retinanet import (
    BASE_MODELS,
    RetinaNetParams,
    build_augmentation,
    build_model,
    get_class_layers,
)
from detreg.templates.common_params import base_model_field
from detreg.templates.template import Template


@dataclass(frozen=True, kw_only=True)
class Msc10Params(RetinaNetParams):
    """The hyperparameters of RetinaNet, on a backbone of choice with weights of choice."""

    pretrained_weights: str = choice(
        "none",
        "coco",
        "imagenet",
        help="Published weights to start from: coco fills the whole network, "
        "imagenet the backbone, none leaves it to pretrain_base_data",
    )
    pretrain_base_data: str = choice(
        "imagenet",
        "none",
        "mscoco",
        help="What the base model was trained on before; its weights fill the backbone alone",
    )
    base_model: str = base_model_field("inception_v4", BASE_MODELS)


MSC10 = Template(
    name="msc10",
    aliases=("Detection_MSC10", "detection_msc10"),
    summary="RetinaNet on a base model of choice, from mobile to deep",
    description=(
        "RetinaNet, applied at multiple image scales, on one of seven base models: a feature "
        "pyramid gives maps of stride 8 to 128, and one head classifies and regresses nine anchors "
        "in every cell; trained with focal loss, or with OHEM on the hardest examples."
    ),
    when="To compare base models under one head, or where a certain backbone is wanted.",
    params=Msc10Params,
    base_models=BASE_MODELS,
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="one_stage",
)

"""RetinaNet on Inception V4: one stage, a feature pyramid, focal loss or OHEM (arXiv:1708.02002).

    mlflow run . -e inception_v4 -P data=/data/boats -P image_size=512

Inception V4 (arXiv:1602.07261) comes from timm, with its unpadded layers padded so that maps lie
exactly over their pixels. Nobody published COCO weights for it: training starts from ImageNet's.
"""

from dataclasses import dataclass

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
class InceptionV4Params(RetinaNetParams):
    """The hyperparameters of RetinaNet, on one backbone."""

    base_model: str = base_model_field("inception_v4", [])


INCEPTION_V4 = Template(
    name="inception_v4",
    aliases=("Clarifai_InceptionV4",),
    summary="RetinaNet on a deep Inception: many scales, fine-grained classes",
    description=(
        "RetinaNet, applied at multiple image scales: a feature pyramid gives maps of stride 8 to "
        "128 from Inception V4, and one head classifies and regresses nine anchors in every cell; "
        "trained with focal loss, or with OHEM on the hardest examples only."
    ),
    when="Classes that differ in detail, objects of many sizes, and time to train.",
    params=InceptionV4Params,
    base_models={"inception_v4": BASE_MODELS["inception_v4"]},
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="one_stage",
)

"""RetinaNet on Inception V2: one stage, a feature pyramid, focal loss or OHEM (arXiv:1708.02002).

    mlflow run . -e inception_v2 -P data=/data/boats -P image_size=512

Inception V2 is BN-Inception (arXiv:1502.03167), from pytorchcv: 11 million parameters. Nobody
published COCO weights for it: training starts from ImageNet's.
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
class InceptionV2Params(RetinaNetParams):
    """The hyperparameters of RetinaNet, on one backbone."""

    base_model: str = base_model_field("inception_v2", [])


INCEPTION_V2 = Template(
    name="inception_v2",
    aliases=("Clarifai_InceptionV2",),
    summary="RetinaNet on a light Inception: many scales, little memory",
    description=(
        "RetinaNet, applied at multiple image scales: a feature pyramid gives maps of stride 8 to "
        "128 from Inception V2, and one head classifies and regresses nine anchors in every cell; "
        "trained with focal loss, or with OHEM on the hardest examples only."
    ),
    when="As inception_v4, with two fifths of its parameters and three fifths of its GFLOPs.",
    params=InceptionV2Params,
    base_models={"inception_v2": BASE_MODELS["inception_v2"]},
    build_model=build_model,
    build_augmentation=build_augmentation,
    get_class_layers=get_class_layers,
    decoder="one_stage",
)

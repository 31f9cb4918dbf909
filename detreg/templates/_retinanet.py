"""What the three RetinaNet templates share (arXiv:1708.02002).

A feature pyramid on any backbone, with one head over all its levels.
"""

from dataclasses import dataclass

from detreg.params import ImageSize, boolean, choice, numbers, size
from detreg.templates._masks import MASK_LAYER, add_to_one_stage
from detreg.templates.base_model import BaseModel, openmmlab_file
from detreg.templates.common_params import (
    CommonParams,
    batch_size_field,
    masks_field,
    num_epochs_field,
)
from detreg.templates.config import Config, to_height_ratios
from detreg.templates.input_spec import IMAGENET, InputSpec
from detreg.templates.recipe import Recipe, step_schedule
from detreg.templates.template import Augmentation, ClassLayer

_INCEPTION = InputSpec(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5), channels="rgb")
# Published for the ResNets. Nobody published a recipe for the other base models: they share it.
RECIPE = Recipe(
    learning_rate=0.01,
    batch_size=16,
    optimizer={
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 1e-4},
        # Clipping is not published.
        "clip_grad": {"max_norm": 35},
    },
    schedule=step_schedule(epochs=12, drops=(8, 11), warmup=500),
)


def _on_resnet(
    depth: int, *, stamp: str, coco_ap: float, parameters: float, gflops: float
) -> BaseModel:
    """Declare the published RetinaNet on a ResNet of `depth` layers."""
    training = f"retinanet_r{depth}_fpn_1x_coco"
    return BaseModel(
        config=f"retinanet/{training}.py",
        input=IMAGENET,
        recipe=RECIPE,
        coco_weights=openmmlab_file("retinanet", training, stamp),
        coco_ap=coco_ap,
        imagenet=f"timm:resnet{depth}.tv_in1k",
        parameters=parameters,
        gflops=gflops,
    )


def _on_imagenet_backbone(
    imagenet: str, *, parameters: float, gflops: float, input: InputSpec = IMAGENET
) -> BaseModel:
    """Declare a RetinaNet that nobody published, on a backbone with ImageNet weights."""
    return BaseModel(
        config="retinanet/retinanet_r50_fpn_1x_coco.py",
        input=input,
        recipe=RECIPE,
        imagenet=imagenet,
        parameters=parameters,
        gflops=gflops,
    )


BASE_MODELS = {
    "inception_v4": _on_imagenet_backbone(
        "timm:inception_v4.tf_in1k", parameters=54.3, gflops=82.0, input=_INCEPTION
    ),
    "inception_v2": _on_imagenet_backbone("pytorchcv:bninception", parameters=22.0, gflops=49.8),
    "resnet50": _on_resnet(
        50, stamp="20200130-c2398f9e", coco_ap=36.5, parameters=38.0, gflops=61.0
    ),
    "resnet101": _on_resnet(
        101, stamp="20200130-7a93545f", coco_ap=38.5, parameters=57.0, gflops=80.4
    ),
    "mobilenetv2_100": _on_imagenet_backbone(
        "timm:mobilenetv2_100.ra_in1k", parameters=11.5, gflops=40.0
    ),
    "efficientnet_b0": _on_imagenet_backbone(
        "timm:efficientnet_b0.ra_in1k", parameters=13.3, gflops=40.5
    ),
    "convnext_tiny": _on_imagenet_backbone(
        "timm:convnext_tiny.in12k_ft_in1k", parameters=38.8, gflops=62.2
    ),
}

CHANNELS = {
    "inception_v4": (384, 1024, 1536),
    "inception_v2": (320, 608, 1024),
    "resnet50": (512, 1024, 2048),
    "resnet101": (512, 1024, 2048),
    "mobilenetv2_100": (32, 96, 320),
    "efficientnet_b0": (40, 112, 320),
    "convnext_tiny": (192, 384, 768),
}
"""Of the backbone's maps at a stride of 8, 16 and 32."""

# Published is a deviation of 0.01 in every layer, from which a short training does not recover: see
# docs/decisions/0006-retinanet-start.md.
HEAD_INIT: Config = {
    "type": "Kaiming",
    "layer": "Conv2d",
    "mode": "fan_in",
    "nonlinearity": "relu",
    "override": [
        {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
        {"type": "Normal", "name": "retina_reg", "std": 0.01},
    ],
}

NEGATIVES_PER_POSITIVE = 3
"""Of OHEM: the hardest anchors on no object that are trained for each anchor on an object."""


@dataclass(frozen=True, kw_only=True)
class RetinaNetParams(CommonParams):
    """Published for ResNet-50: 12 epochs, 16 images a step at a rate of 0.01, 800 by 1333 px."""

    image_size: ImageSize = size(
        512,
        help="Pixels: the smaller side of the image (320, 512 or 800 are usual), "
        "or width,height exactly with keep_aspect_ratio=false",
    )
    batch_size: int | None = batch_size_field(8)
    num_epochs: int = num_epochs_field(50)
    pretrained_weights: str = choice(
        "imagenet",
        "none",
        "coco",
        help="Published weights to start from: imagenet fills the backbone, coco the whole network",
    )
    anchor_ratios: tuple[float, ...] = numbers(
        (0.5, 1.0, 2.0), 0.1, 10.0, help="Width over height of the anchors, three sizes of each"
    )
    use_perclass_regression: bool = boolean(
        False, search="true|false", help="One box regressor per class; false is one for all classes"
    )
    use_focal_loss: bool = boolean(
        True,
        search="true|false",
        help="Focal loss over all anchors; false is OHEM: all positives and the hardest negatives, "
        "three for each",
    )
    masks: bool = masks_field()


def build_model(published: Config, params: RetinaNetParams, num_classes: int) -> Config:
    """Return the published RetinaNet on the backbone `base_model`, for `num_classes` classes."""
    model = _build_box_model(published, params, num_classes)
    return add_to_one_stage(model, num_classes) if params.masks else model


def _build_box_model(published: Config, params: RetinaNetParams, num_classes: int) -> Config:
    bbox_head = _build_head(published["bbox_head"], params, num_classes)

    if params.base_model.startswith("resnet"):
        # MMDetection's own ResNet, which the published COCO weights fit.
        backbone = published["backbone"] | {
            "frozen_stages": params.frozen_stages or -1,  # MMDetection freezes none at -1
            "init_cfg": None,
        }
        return published | {"backbone": backbone, "bbox_head": bbox_head}

    backbone = {
        "type": "ImageNetBackbone",
        "source": BASE_MODELS[params.base_model].imagenet,
        "frozen_stages": params.frozen_stages or 0,
    }
    neck = published["neck"] | {
        "in_channels": list(CHANNELS[params.base_model]),
        "start_level": 0,
    }
    return published | {"backbone": backbone, "neck": neck, "bbox_head": bbox_head}


def _build_head(published: Config, params: RetinaNetParams, num_classes: int) -> Config:
    ratios = to_height_ratios(params.anchor_ratios)
    head = published | {
        "type": "OneStageHead",
        "init_cfg": HEAD_INIT,
        "num_classes": num_classes,
        "per_class_regression": params.use_perclass_regression,
        "anchor_generator": published["anchor_generator"] | {"ratios": ratios},
    }
    if not params.use_focal_loss:
        head["loss_cls"] = {"type": "CrossEntropyLoss", "use_sigmoid": True}
        head["negatives_per_positive"] = NEGATIVES_PER_POSITIVE
    return head


def build_augmentation(published: list[Config], params: RetinaNetParams) -> Augmentation:  # noqa: ARG001
    """Return the flip, as published."""
    return Augmentation(after=[{"type": "FastFlip"}])


def get_class_layers(params: RetinaNetParams) -> tuple[ClassLayer, ...]:
    """Return the classifier, the regressors if each class has its own, and the masks."""
    layers = [ClassLayer(r"bbox_head\.retina_cls\.(weight|bias)")]
    if params.use_perclass_regression:
        layers.append(ClassLayer(r"bbox_head\.retina_reg\.(weight|bias)", rows=4))
    if params.masks:
        layers.append(MASK_LAYER)
    return tuple(layers)

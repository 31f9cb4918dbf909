"""What the three RetinaNet templates share: a feature pyramid on any backbone, with one head over all its levels (arXiv:1708.02002)."""

from dataclasses import dataclass

from detreg.params import ImageSize, boolean, choice, integer, numbers, size
from detreg.templates.template import (
    IMAGENET,
    Augmentation,
    BaseModel,
    ClassLayer,
    CommonParams,
    Config,
    InputSpec,
    Recipe,
    step_schedule,
    to_height_ratios,
)

_HUB = "https://download.openmmlab.com/mmdetection/v2.0/retinanet"
_INCEPTION = InputSpec(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5), channels="rgb")
# Published for the ResNets; the other base models, for which nobody has published a recipe, are trained by the same one.
RECIPE = Recipe(
    learning_rate=0.01,
    batch_size=16,
    # Clipped gradients are not published.
    optimizer={
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 1e-4},
        "clip_grad": {"max_norm": 35},
    },
    schedule=step_schedule(epochs=12, drops=(8, 11), warmup=500),
)


def _base_model(
    imagenet: str, parameters: float, gflops: float, spec: InputSpec = IMAGENET
) -> BaseModel:
    return BaseModel(
        config="retinanet/retinanet_r50_fpn_1x_coco.py",
        input=spec,
        recipe=RECIPE,
        imagenet=imagenet,
        parameters=parameters,
        gflops=gflops,
    )


def _published(
    depth: int, stamp: str, coco_ap: float, parameters: float, gflops: float
) -> BaseModel:
    name = f"retinanet_r{depth}_fpn_1x_coco"
    return BaseModel(
        config=f"retinanet/retinanet_r{depth}_fpn_1x_coco.py",
        input=IMAGENET,
        recipe=RECIPE,
        url=f"{_HUB}/{name}/{name}_{stamp}.pth",
        sha256=stamp.rsplit("-", 1)[-1],
        coco_ap=coco_ap,
        imagenet=f"timm:resnet{depth}.tv_in1k",
        parameters=parameters,
        gflops=gflops,
    )


BASE_MODELS = {
    "inception_v4": _base_model("timm:inception_v4.tf_in1k", 54.3, 82.0, _INCEPTION),
    "inception_v2": _base_model("pytorchcv:bninception", 22.0, 49.8),
    "resnet50": _published(50, "20200130-c2398f9e", 36.5, 38.0, 61.0),
    "resnet101": _published(101, "20200130-7a93545f", 38.5, 57.0, 80.4),
    "mobilenetv2_100": _base_model("timm:mobilenetv2_100.ra_in1k", 11.5, 40.0),
    "efficientnet_b0": _base_model("timm:efficientnet_b0.ra_in1k", 13.3, 40.5),
    "convnext_tiny": _base_model("timm:convnext_tiny.in12k_ft_in1k", 38.8, 62.2),
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


@dataclass(frozen=True, kw_only=True)
class RetinaNetParams(CommonParams):
    """Published for ResNet-50: 12 epochs, 16 images a step at a rate of 0.01, sides of at most 800 and 1333 px."""

    image_size: ImageSize = size(
        512,
        help="Pixels: the smaller side of the image (320, 512 or 800 are usual), or width,height exactly with keep_aspect_ratio=false",
    )
    batch_size: int = integer(8, 1, 32, 1, help="Images per optimiser step, over all GPUs")
    num_epochs: int = integer(50, 1, 200, 1, help="Passes over the training split")
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
        help="Focal loss over all anchors; false is OHEM: all positives and the hardest negatives, three for each",
    )


def build_model(published: Config, params: RetinaNetParams, num_classes: int) -> Config:
    """The published RetinaNet on the backbone `base_model`, for `num_classes` classes."""
    model = dict(published)
    if params.base_model.startswith(
        "resnet"
    ):  # MMDetection's own, which the published COCO weights fit
        model["backbone"] = published["backbone"] | {
            "frozen_stages": params.frozen_stages or -1,
            "init_cfg": None,
        }
    else:
        channels = list(CHANNELS[params.base_model])
        source = BASE_MODELS[params.base_model].imagenet
        model["backbone"] = {
            "type": "ImageNetBackbone",
            "source": source,
            "frozen_stages": params.frozen_stages,
        }
        model["neck"] = published["neck"] | {"in_channels": channels, "start_level": 0}
    head = published["bbox_head"]
    model["bbox_head"] = head | {
        "type": "OneStageHead",
        "init_cfg": HEAD_INIT,
        "num_classes": num_classes,
        "per_class_regression": params.use_perclass_regression,
        "anchor_generator": head["anchor_generator"]
        | {"ratios": to_height_ratios(params.anchor_ratios)},
    }
    if not params.use_focal_loss:
        model["bbox_head"] |= {
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "negatives_per_positive": 3,
        }
    return model


def build_augmentation(published: list[Config], params: RetinaNetParams) -> Augmentation:  # noqa: ARG001
    """Flip, as published."""
    return Augmentation(
        after=[transform for transform in published if transform["type"] == "RandomFlip"]
    )


def get_class_layers(params: RetinaNetParams) -> tuple[ClassLayer, ...]:
    """The classifier, and the regressors where each class has its own."""
    classifier = ClassLayer(r"bbox_head\.retina_cls\.(weight|bias)")
    regressor = ClassLayer(r"bbox_head\.retina_reg\.(weight|bias)", rows=4)
    return (classifier, regressor) if params.use_perclass_regression else (classifier,)


# Published: a deviation of 0.01 in every layer, from which a short training does not come away; see docs/decisions/0006-retinanet-start.md.
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

"""Backbones that MMDetection lacks or cannot freeze, as modules that it builds by name.

Stages count from the input: stage 1 ends at a stride of 4 (the stem), 2 at 8, 3 at 16, and 4 is the
rest. A frozen stage gets no gradients and keeps its batch-norm statistics, in training too.
"""

from importlib import import_module
from types import ModuleType

import torch
from mmdet.models.backbones import SSDVGG, MobileNetV2
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_LIBRARIES = {
    "timm": "detreg.training.timm_networks",
    "pytorchcv": "detreg.training.pytorchcv_networks",
}


def freeze(stage: nn.Module) -> None:
    """Stop the gradients of a module's parameters and the updates of its batch-norm statistics."""
    for parameter in stage.parameters():
        parameter.requires_grad = False

    for module in stage.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@MODELS.register_module()
class ImageNetBackbone(BaseModule):
    """A network of timm or pytorchcv without its classifier, cut into four stages.

    `source` is `timm:NAME` or `pytorchcv:NAME`. With `pretrained` the library downloads its
    ImageNet weights, and raises an error of its own where it cannot.
    """

    def __init__(self, source: str, frozen_stages: int = 0, pretrained: bool = False) -> None:
        super().__init__()
        library, _, name = source.partition(":")
        layers = _import_library(library).create_layers(name, pretrained)
        self.stages = nn.ModuleList(layers.cut())
        self.frozen_stages = frozen_stages
        self.train()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, of an eighth, a sixteenth and a thirty-second of the sides.

        `pixels` is (n, 3, h, w), with sides that divide by 32.
        """
        maps = []
        features = pixels
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps[1:])

    def train(self, mode: bool = True) -> "ImageNetBackbone":
        """Switch all but the frozen stages to training."""
        super().train(mode)
        for stage in self.stages[: self.frozen_stages]:
            freeze(stage)
        return self


@MODELS.register_module()
class FreezableSSDVGG(SSDVGG):
    """MMDetection's VGG for SSD, whose stages can be frozen.

    Its first three stages end with the second, the third and the fourth pooling layer.
    """

    def __init__(self, *args: object, frozen_stages: int = 0, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        layers = list(self.features)
        poolings = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]

        ends = [0, poolings[1] + 1, poolings[2] + 1, poolings[3] + 1, len(layers)]
        for layer in layers[: ends[frozen_stages]]:
            freeze(layer)


@MODELS.register_module()
class FreezableMobileNetV2(MobileNetV2):
    """MMDetection's MobileNetV2, frozen by stages as all other backbones are.

    MMDetection's own `frozen_stages` counts the layers of this network, of which there are eight,
    and lets the statistics of the first batch-norm move.
    """

    stages = (
        ("conv1", "layer1", "layer2"),
        ("layer3",),
        ("layer4", "layer5"),
        ("layer6", "layer7", "conv2"),
    )

    def __init__(self, *args: object, frozen_stages: int = 0, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.frozen_stages = frozen_stages
        self._freeze_stages()

    def _freeze_stages(self) -> None:
        """Freeze the stages; MMDetection's `train` calls this too."""
        # -1 is MMDetection's way to freeze nothing.
        for stage in self.stages[: max(self.frozen_stages, 0)]:
            for name in stage:
                freeze(getattr(self, name))


def _import_library(name: str) -> ModuleType:
    """Import what creates networks of timm or pytorchcv, which most trainings need neither of."""
    return import_module(_LIBRARIES[name])


def load_imagenet_weights(source: str) -> dict[str, Tensor]:
    """Return a backbone's ImageNet weights under the names that they have in a detector.

    The library that published them downloads them, and raises an error of its own where it cannot.
    """
    name = source.partition(":")[2]
    network: nn.Module
    if name.startswith("resnet"):
        # MMDetection's own ResNet is trained, whose layers have the same names as timm's.
        network = _import_library("timm").create_classifier(name)
    else:
        network = ImageNetBackbone(source, pretrained=True)

    state = network.state_dict()
    return {f"backbone.{key}": torch.as_tensor(value) for key, value in state.items()}

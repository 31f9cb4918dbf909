"""Backbones that MMDetection lacks or cannot freeze, as modules that it builds by name.

Stages count from the input: stage 1 ends at a stride of 4 (the stem), 2 at 8, 3 at 16, and 4 is the
rest. A frozen stage gets no gradients and keeps its batch-norm statistics, in training too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from mmdet.models.backbones import SSDVGG, MobileNetV2
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from pytorchcv import model_provider
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(stage: nn.Module) -> None:
    """Stop the gradients of a module's parameters and the updates of its batch-norm statistics."""
    for parameter in stage.parameters():
        parameter.requires_grad = False

    for module in stage.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@dataclass(frozen=True)
class LayersOfStages:
    """The layers of a network without its classifier, in order, and where its four stages end.

    `last_layers` are the positions in `layers` of the last layer of each stage.
    """

    layers: list[nn.Module]
    last_layers: list[int]

    def __post_init__(self) -> None:
        is_ascending = self.last_layers == sorted(set(self.last_layers))
        if len(self.last_layers) != 4 or not is_ascending:
            raise ValueError(
                f"a backbone must have four stages with ascending ends, got {self.last_layers}"
            )
        if not 0 <= self.last_layers[0] <= self.last_layers[-1] < len(self.layers):
            raise ValueError(
                f"stages must end within the {len(self.layers)} layers, got {self.last_layers}"
            )

    def cut(self) -> list[nn.Sequential]:
        """Return the four stages; layers behind the last one are left out."""
        stages = []
        start = 0
        for last_layer in self.last_layers:
            end = last_layer + 1
            stages.append(nn.Sequential(*self.layers[start:end]))
            start = end
        return stages


@MODELS.register_module()
class ImageNetBackbone(BaseModule):
    """A network of timm or pytorchcv without its classifier, cut into four stages.

    `source` is `timm:NAME` or `pytorchcv:NAME`. With `pretrained` the library downloads its
    ImageNet weights, and raises an error of its own where it cannot.
    """

    def __init__(self, source: str, frozen_stages: int = 0, pretrained: bool = False) -> None:
        super().__init__()
        library, _, name = source.partition(":")
        create_layers = _LIBRARIES[library]
        self.stages = nn.ModuleList(create_layers(name, pretrained).cut())
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


def _create_timm_layers(name: str, pretrained: bool) -> LayersOfStages:
    network: Any = timm.create_model(name, pretrained=pretrained)

    if name.startswith("inception_v4"):
        _pad_inception_v4(network.features)
        # timm counts five stages: the first ends at a stride of 2.
        return LayersOfStages(list(network.features), network.stage_ends[1:])

    if name.startswith("convnext"):
        return LayersOfStages([network.stem, *network.stages], [1, 2, 3, 4])

    # MobileNet and EfficientNet: a stem of two layers, then groups of blocks. The last group of
    # each resolution ends a stage; timm names it "blocks.NUMBER". Its first resolution is a
    # stride of 2, where no stage ends.
    layers = [network.conv_stem, network.bn1, *network.blocks]
    last_layers = []
    for feature in network.feature_info[1:]:
        group = int(feature["module"].removeprefix("blocks."))
        last_layers.append(group + 2)
    return LayersOfStages(layers, last_layers)


def _pad_inception_v4(layers: nn.Module) -> None:
    """Add a pixel of padding to every unpadded 3x3 convolution and pooling.

    Without it an image of 512 px gives maps of 61, 30 and 14 cells, and anchors lie beside what
    their cells see.
    """
    for module in layers.modules():
        if not isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            continue

        # Poolings hold one number where convolutions hold a pair.
        is_3x3 = module.kernel_size in (3, (3, 3))
        is_unpadded = module.padding in (0, (0, 0))
        if is_3x3 and is_unpadded:
            module.padding = (1, 1)


def _create_pytorchcv_layers(name: str, pretrained: bool) -> LayersOfStages:
    features = model_provider.get_model(name, pretrained=pretrained).features
    layers = [features.init_block, features.stage1, features.stage2, features.stage3]
    return LayersOfStages(layers, [0, 1, 2, 3])


_LIBRARIES: dict[str, Callable[[str, bool], LayersOfStages]] = {
    "timm": _create_timm_layers,
    "pytorchcv": _create_pytorchcv_layers,
}


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


def load_imagenet_weights(source: str) -> dict[str, Tensor]:
    """Return a backbone's ImageNet weights under the names that they have in a detector.

    The library that published them downloads them, and raises an error of its own where it cannot.
    """
    name = source.partition(":")[2]
    network: nn.Module
    if name.startswith("resnet"):
        # MMDetection's own ResNet is trained, whose layers have the same names as timm's.
        network = timm.create_model(name, pretrained=True, num_classes=0)
    else:
        network = ImageNetBackbone(source, pretrained=True)

    state = network.state_dict()
    return {f"backbone.{key}": torch.as_tensor(value) for key, value in state.items()}

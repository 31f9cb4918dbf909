"""Backbones that MMDetection lacks, or cannot freeze, as modules that it builds by name.

Stages count from the input: stage 1 ends at a stride of 4 (the stem), 2 at 8, 3 at 16, and 4 is the rest. A frozen stage gets no
gradients and keeps its batch-norm statistics, in training too.
"""

from typing import Any

import torch
from mmdet.models.backbones import SSDVGG, MobileNetV2
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(stage: nn.Module) -> None:
    """No gradients for the module's parameters, no new statistics in its batch-norms."""
    for parameter in stage.parameters():
        parameter.requires_grad = False
    for module in stage.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@MODELS.register_module()
class ImageNetBackbone(BaseModule):
    """A network of timm or pytorchcv without its classifier, cut into four stages; gives the maps of stride 8, 16 and 32.

    `source` is `timm:NAME` or `pytorchcv:NAME`. With `pretrained` the library downloads its ImageNet weights and raises whatever it
    raises where it cannot.
    """

    def __init__(self, source: str, frozen_stages: int = 0, pretrained: bool = False) -> None:
        super().__init__()
        library, _, name = source.partition(":")
        layers, ends = _LIBRARIES[library](name, pretrained)
        first = [0, *(end + 1 for end in ends[:-1])]
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[start : end + 1]) for start, end in zip(first, ends, strict=True)
        )
        self.frozen_stages = frozen_stages
        self.train()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """From (n, 3, h, w), sides divisible by 32, to three maps of an eighth, a sixteenth and a thirty-second of the sides."""
        maps = []
        for stage in self.stages:
            pixels = stage(pixels)
            maps.append(pixels)
        return tuple(maps[1:])

    def train(self, mode: bool = True) -> "ImageNetBackbone":
        """Frozen stages stay as they are."""
        super().train(mode)
        for stage in self.stages[: self.frozen_stages]:
            freeze(stage)
        return self


def _timm(name: str, pretrained: bool) -> tuple[list[nn.Module], list[int]]:
    """The layers of a timm network in order, and the positions where its four stages end."""
    import timm

    network: Any = timm.create_model(name, pretrained=pretrained)
    if name.startswith("inception_v4"):
        return _padded_inception_v4(network), network.stage_ends[1:]
    if name.startswith("convnext"):
        return [network.stem, *network.stages], [1, 2, 3, 4]
    # MobileNet and EfficientNet: a stem, then blocks in groups, of which the last of each resolution ends a stage.
    layers = [network.conv_stem, network.bn1, *network.blocks]
    ends = [int(info["module"].removeprefix("blocks.")) + 2 for info in network.feature_info]
    return layers, ends[1:]


def _padded_inception_v4(network: Any) -> list[nn.Module]:
    """Its layers with a pixel of padding in every unpadded 3x3 convolution and pool.

    Without it a picture of 512 px gives maps of 61, 30 and 14 cells, and anchors lie beside what their cells see.
    """
    for module in network.features.modules():
        if (
            isinstance(module, (nn.Conv2d, nn.MaxPool2d))
            and module.kernel_size in (3, (3, 3))
            and module.padding in (0, (0, 0))
        ):
            module.padding = (1, 1)
    return list(network.features)


def _pytorchcv(name: str, pretrained: bool) -> tuple[list[nn.Module], list[int]]:
    from pytorchcv.model_provider import get_model

    features = get_model(name, pretrained=pretrained).features
    return [features.init_block, features.stage1, features.stage2, features.stage3], [0, 1, 2, 3]


_LIBRARIES = {"timm": _timm, "pytorchcv": _pytorchcv}


@MODELS.register_module()
class FreezableSSDVGG(SSDVGG):
    """MMDetection's VGG for SSD, whose stages can be frozen: they end with the second, the third and the fourth pooling layer."""

    def __init__(self, *args: Any, frozen_stages: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        poolings = [
            position
            for position, layer in enumerate(self.features)
            if isinstance(layer, nn.MaxPool2d)
        ]
        ends = [0, poolings[1] + 1, poolings[2] + 1, poolings[3] + 1, len(self.features)]
        for layer in self.features[: ends[frozen_stages]]:
            freeze(layer)


@MODELS.register_module()
class FreezableMobileNetV2(MobileNetV2):
    """MMDetection's MobileNetV2, frozen by stages as all other backbones are.

    MMDetection's own `frozen_stages` counts the layers of this network, of which there are eight, and lets the statistics of the first
    batch-norm move.
    """

    stages = (
        ("conv1", "layer1", "layer2"),
        ("layer3",),
        ("layer4", "layer5"),
        ("layer6", "layer7", "conv2"),
    )

    def __init__(self, *args: Any, frozen_stages: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frozen_stages = frozen_stages
        self._freeze_stages()

    def _freeze_stages(self) -> None:
        """Called by MMDetection's `train`, too."""
        for stage in self.stages[: max(self.frozen_stages, 0)]:
            for name in stage:
                freeze(getattr(self, name))


def load_imagenet_weights(source: str) -> dict[str, Tensor]:
    """The backbone's ImageNet weights under the names they have in a detector, downloaded by the library that published them."""
    library, _, name = source.partition(":")
    if name.startswith("resnet"):  # MMDetection's ResNet has the same names for the same layers
        import timm

        state = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    else:
        state = ImageNetBackbone(f"{library}:{name}", pretrained=True).state_dict()
    return {f"backbone.{key}": torch.as_tensor(value) for key, value in state.items()}

"""Networks of timm, which is imported only where a base model has one."""

from typing import Any

import timm
from torch import nn

from detreg.training.network_stages import LayersOfStages


def create_classifier(name: str) -> nn.Module:
    """Return a network with its ImageNet weights, without the last layer."""
    network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    return network


def create_layers(name: str, pretrained: bool) -> LayersOfStages:
    """Return the layers of a network; with `pretrained`, timm downloads its ImageNet weights."""
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

"""Networks with random weights that detect a lot, for tests that compare detections.

A freshly initialized detector gives every class nearly the same score, so that nothing, or
everything, passes the threshold. These weights spread the scores.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from mmengine.config import Config
from torch import Tensor, nn

from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.network import predict

OBJECTNESS = r".*(object_pred|multi_level_conv_obj\.\d+|rpn_cls)\.weight"
BOXES = (
    r".*(reg_convs\.\d+\.[01]|retina_reg|bbox_pred|fc_reg|rpn_reg|multi_level_conv_reg\.\d+)"
    r"\.weight"
)

Layer = nn.Conv2d | nn.Linear


def fill_with_dense_weights(
    template: Template, params: CommonParams, network: nn.Module, config: Config
) -> nn.Module:
    """Fill the network with weights that detect every class somewhere, with spread scores.

    The outputs of classes, objectness and boxes are scaled by what the network gives for the val
    images of `config`. Returns the same network.
    """
    torch.manual_seed(0)
    class_outputs = _get_class_pattern(template, params)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, Layer)}
    outputs = _find_outputs(layers, class_outputs)

    with torch.no_grad():
        if hasattr(network, "rpn_head"):
            # The proposals of an image look alike: to spread their scores by scaling would blow
            # up the noise of rounding.
            for layer, is_class in outputs.items():
                if is_class:
                    nn.init.normal_(layer.weight, std=0.1)
            return network

        for layer in layers.values():
            # SSD's own initial weights fade to nothing on the way to the last feature map.
            if layer in outputs or template.name == "ssd":
                nn.init.kaiming_normal_(layer.weight)

        with scale_outputs(list(outputs)):
            list(predict(network, config.val_dataloader, ("any",) * 100))

        for layer, is_class in outputs.items():
            layer.weight.mul_(2.0 if is_class else 0.5)
            if layer.bias is not None:
                layer.bias.zero_()
    return network


def _get_class_pattern(template: Template, params: CommonParams) -> str:
    """Return the pattern of the weights that put out classes or objectness."""
    patterns = [layer.pattern for layer in template.get_class_layers(params) if layer.rows == 1]
    return "|".join([*patterns, OBJECTNESS])


def _find_outputs(layers: Mapping[str, Layer], class_outputs: str) -> dict[Layer, bool]:
    """Return the layers that put out classes, objectness or boxes, and whether not boxes."""
    outputs: dict[Layer, bool] = {}
    for name, layer in layers.items():
        weight = f"{name}.weight"
        if re.fullmatch(f"{class_outputs}|{BOXES}", weight):
            outputs[layer] = re.fullmatch(class_outputs, weight) is not None
    return outputs


@contextmanager
def scale_outputs(layers: Sequence[Layer]) -> Iterator[None]:
    """Scale layers by what they put out inside the block.

    Afterwards the largest standard deviation of a layer's outputs, on any level, is one.
    """
    deviations: dict[nn.Module, float] = dict.fromkeys(layers, 1e-20)

    def record_deviation(layer: nn.Module, inputs: object, output: Tensor) -> None:
        deviation = float(output.std()) if output.numel() > 1 else 0.0
        deviations[layer] = max(deviations[layer], deviation)

    hooks = [layer.register_forward_hook(record_deviation) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.weight.data.div_(deviations[layer])

"""Training in fewer bits: backbone, neck and dense head compute in bf16 or fp16.

The dense head is the head of a one-stage detector, the RPN of a two-stage one. Almost all of a
step's time goes into these layers. What they put out is turned into float32, so that assignment,
losses, boxes, the second stage and masks are float32; so are the weights, the optimizer and the
average of the weights, and all of scoring and export.

Images go through these layers in the memory format `channels_last`, in which convolutions are
faster (docs/decisions/0013-precision.md). Weights keep their format: checkpoints do not change.
"""

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmcv.cnn.bricks import Swish
from mmdet.models.detectors import TwoStageDetector
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from detreg.training.masks import MaskRetinaNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The values of the run option `precision`, but for `auto`."""


def use_precision(network: Any, precision: str) -> None:
    """Let a detector train in this precision, whatever it trained in before.

    Outside of training mode nothing changes.
    """
    for module in network.modules():
        module.__dict__.pop("forward", None)
        if isinstance(module, Swish):
            module.forward = FusedSwish(module)

    dtype = DTYPES[precision]
    device = next(network.parameters()).device.type
    layers, outermost = _list_dense_layers(network)
    for layer in layers:
        layer.forward = TrainingForward(
            layer,
            device,
            dtype,
            # GPUs without bf16 may be slower with it, and fp16 and bf16 are faster on all.
            takes_images=layer is network.backbone
            and (device == "cpu" or dtype is not torch.float32),
            gives_floats=layer in outermost,
        )

    if device != "cpu":
        return
    for layer in layers:
        if dtype is torch.float32:
            for convolution in _list_pointwise_convolutions(layer):
                convolution.forward = PointwiseForward(convolution)
        else:
            for convolution in _list_depthwise_convolutions(layer):
                convolution.forward = TrainingForward(convolution, device, torch.float32)


@dataclass(frozen=True)
class TrainingForward:
    """The forward method of a module, which computes in `dtype` while the module is in training.

    It is an object that knows its module, not a closure: MMEngine copies networks (EMAHook), and
    a copy has to run its own layers.
    """

    module: Any
    device: str
    dtype: torch.dtype
    takes_images: bool = False
    gives_floats: bool = False

    def __call__(self, inputs: Any) -> Any:
        """Run the module on a tensor (n, ...), or on a tuple of such as a neck takes."""
        forward = partial(type(self.module).forward, self.module)
        if not self.module.training:
            return forward(inputs)

        if self.takes_images:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.dtype is torch.float32:
            inputs = tree_map(widen, inputs)
        with self._autocast():
            outputs = forward(inputs)
        return tree_map(widen, outputs) if self.gives_floats else outputs

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return torch.autocast(self.device, enabled=False)
        return torch.autocast(self.device, dtype=self.dtype)


@dataclass(frozen=True)
class FusedSwish:
    """The forward method of mmcv's Swish, in training as one operation in place of two.

    One operation also keeps one tensor less for the backward pass. Scoring and export keep the two,
    whose last digit differs.
    """

    module: Swish

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return `inputs` times their sigmoid."""
        if self.module.training:
            return functional.silu(inputs)
        outputs: Tensor = type(self.module).forward(self.module, inputs)
        return outputs


@dataclass(frozen=True)
class PointwiseForward:
    """The forward method of a convolution of 1 x 1 pixels, which in training oneDNN computes.

    With one thread and fewer than 16 images torch leaves these alone to MKL's matrix product, which
    takes twice as long on processors of AMD. A dilation, without a meaning for one pixel, makes
    torch take oneDNN, as it does otherwise (`use_mkldnn` in its Convolution.cpp).
    """

    module: nn.Conv2d

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the convolution makes of `inputs` (n, channels, height, width)."""
        convolution = self.module
        is_left_to_mkl = len(inputs) < 16 and torch.get_num_threads() == 1
        dilation = 2 if convolution.training and is_left_to_mkl else 1
        return functional.conv2d(inputs, convolution.weight, convolution.bias, dilation=dilation)


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(AmpOptimWrapper):
    """MMEngine's wrapper for fp16, which scales the loss, without its autocast of the whole step.

    `TrainingForward` runs in fp16 what is to run in it.
    """

    def optim_context(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return the context of a step in float32."""
        context: contextlib.AbstractContextManager[None] = OptimWrapper.optim_context(self, model)
        return context


def _list_dense_layers(network: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return backbone, neck and dense head, and those of them whose outputs others read."""
    features = [network.backbone, network.neck] if network.with_neck else [network.backbone]
    if isinstance(network, TwoStageDetector):
        # The second stage reads the features too.
        return [*features, network.rpn_head], [features[-1], network.rpn_head]
    if isinstance(network, MaskRetinaNet):
        # So does the mask branch.
        return [*features, network.bbox_head], [features[-1], network.bbox_head]
    return [*features, network.bbox_head], [network.bbox_head]


def _list_depthwise_convolutions(layer: nn.Module) -> list[nn.Module]:
    """Return the convolutions of single channels, whose gradients CPUs compute slowly in bf16."""
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    return [module for module in convolutions if module.groups == module.in_channels > 1]


def _list_pointwise_convolutions(layer: nn.Module) -> list[Any]:
    """Return the convolutions of 1 x 1 pixels that read every pixel; not those of subclasses."""
    convolutions = [module for module in layer.modules() if type(module) is nn.Conv2d]
    return [
        module
        for module in convolutions
        if module.kernel_size == module.stride == (1, 1)
        and module.padding == (0, 0)
        and module.groups == 1
    ]


def widen(value: Any) -> Any:
    """Return a tensor of fewer bits in float32; any other value as it is."""
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value

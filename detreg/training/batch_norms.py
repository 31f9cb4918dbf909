"""Changes to how a network's batch-norms use and update their running statistics."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def normalize_single_values(network: nn.Module) -> None:
    """Let batch-norms in training take a single value per channel, which PyTorch refuses.

    Such a value is normalized by the running statistics. It happens on SSD's last map of one cell
    when a batch, often the last of an epoch, has one image.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_switch_to_running_statistics)
            module.register_forward_hook(_switch_back)


def _switch_to_running_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0]
    channels = values.shape[1]
    norm.is_switched = norm.training and values.numel() == channels
    if norm.is_switched:
        norm.training = False


def _switch_back(norm: Any, inputs: object, output: Tensor) -> None:  # noqa: ARG001
    if norm.is_switched:
        norm.training = True


def freeze_statistics(network: nn.Module) -> None:
    """Stop all updates of running statistics, so that a learning rate of 0 trains nothing."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False

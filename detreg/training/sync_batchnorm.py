"""Batch normalization over the images of all processes, on CPUs.

PyTorch's own SyncBatchNorm does this on GPUs and refuses CPUs.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from detreg.training.precision import widen

_TIMM_NORMS = "timm.layers.norm_act"
"""Where no network is timm's, timm is not imported, and no batch norm is of this module."""


def convert_to_torch(network: nn.Module) -> nn.Module:
    """Replace every batch norm by PyTorch's own for several processes, which is for GPUs."""
    timm_norms = sys.modules.get(_TIMM_NORMS)
    if timm_norms is not None:
        converted: nn.Module = timm_norms.convert_sync_batchnorm(network)
        return converted
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def synchronize_batch_norms(network: nn.Module) -> nn.Module:
    """Replace every batch norm by one over the images of all processes, in place.

    Parameters, buffers and their names stay the same.
    """
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, _convert(child))
        else:
            synchronize_batch_norms(child)
    return network


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the images of all processes."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (n, c, h, w), of which n, h and w may differ from process to process."""
        if not self.training:
            return super().forward(input)

        # Statistics of bf16 are computed in float32, as PyTorch's own batch norm does it.
        statistics = _compute_statistics(widen(input.detach()))
        if self.track_running_stats:
            count = statistics.count
            unbiased_variance = statistics.variance * (count / (count - 1))
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(statistics.mean, self.momentum)
            self.running_var.lerp_(unbiased_variance, self.momentum)

        return _SyncedNormalization.apply(input, self.weight, self.bias, statistics, self.eps)


class SyncedBatchNormAct(SyncedBatchNorm):
    """The same for timm's batch norm, which ends in dropout and an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (n, c, h, w), then apply dropout and the activation."""
        normalized = super().forward(input)
        return self.act(self.drop(normalized))


def _convert(norm: _BatchNorm) -> SyncedBatchNorm:
    """Return a synced batch norm that shares `norm`'s parameters and buffers."""
    shape = (norm.num_features, norm.eps, norm.momentum)
    synced: SyncedBatchNorm
    timm_norms = sys.modules.get(_TIMM_NORMS)
    if timm_norms is not None and isinstance(norm, timm_norms.BatchNormAct2d):
        with_activation = SyncedBatchNormAct(*shape)
        with_activation.drop = norm.drop
        with_activation.act = norm.act
        synced = with_activation
    else:
        synced = SyncedBatchNorm(*shape)

    synced.weight = norm.weight
    synced.bias = norm.bias
    # They are None where no running statistics are tracked, which the annotations leave out.
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(synced, name, getattr(norm, name))
    return synced.train(norm.training)


@dataclass(frozen=True)
class _Statistics:
    """Mean and (biased) variance of each channel, and its number of values."""

    mean: Tensor
    variance: Tensor
    count: float


def _compute_statistics(values: Tensor) -> _Statistics:
    """Return the statistics of (n, c, h, w) over all processes.

    They are combined from each process's own mean and variance, in double precision: a mean of
    squares would lose the variance of channels whose mean is large.
    """
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    count = torch.full_like(mean, values.numel() / len(mean), dtype=torch.double)
    own = torch.stack([mean.double(), variance.double(), count])

    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means, variances, counts = torch.stack(gathered, dim=1)

    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return _Statistics(mean.to(values.dtype), variance.to(values.dtype), float(total[0]))


class _SyncedNormalization(torch.autograd.Function):
    """Normalization by the statistics of all processes.

    Its gradients go from each process's outputs to the inputs of all processes, as the statistics
    depend on all of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        statistics: _Statistics,
        eps: float,
    ) -> Tensor:
        mean, variance = statistics.mean, statistics.variance
        inverse_deviation = (variance + eps).rsqrt()
        ctx.save_for_backward(values, weight, mean, inverse_deviation)
        ctx.count = statistics.count
        return functional.batch_norm(values, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse_deviation = ctx.saved_tensors
        gradient = widen(gradient)
        per_channel = (1, -1, 1, 1)
        normed = (values - mean.view(per_channel)) * inverse_deviation.view(per_channel)

        of_bias = gradient.sum((0, 2, 3))
        of_weight = (gradient * normed).sum((0, 2, 3))
        total = torch.stack([of_bias, of_weight])
        dist.all_reduce(total)

        shift, slope = (total / ctx.count).view(2, *per_channel)
        scale = (weight * inverse_deviation).view(per_channel)
        of_values = scale * (gradient - shift - normed * slope)

        # Only this process's share for the parameters: DistributedDataParallel adds them up.
        return of_values.to(values.dtype), of_weight, of_bias, None, None

"""Training in several processes that equals training in one: a process group, and a network whose batch is that of all processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from detreg import torchrun
from detreg.errors import StoppedError


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes are a group; with one process that is nothing.

    Where one of them fails, all end with its error: the others are told by the end of their connection to it, or by the launcher's signal.
    """
    if torchrun.get_world_size() == 1:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(torchrun.get_local_rank())
    rank, count, store = torchrun.get_rank(), torchrun.get_world_size(), torchrun.get_store()
    torchrun.publish_pid()  # before the group stands, so that inside it everyone has
    # MMEngine would ask for a GPU.
    dist.init_process_group(
        "nccl" if gpu else "gloo", rank=rank, world_size=count, store=store, timeout=torchrun.NO_LIMIT
    )
    try:
        yield
        dist.barrier()  # so that none is gone while another is still at it
    except BaseException as error:
        cut = isinstance(error, dist.DistError) or "gloo/transport" in str(error)
        ended = not isinstance(error, Exception) and torchrun.has_lost_process()
        own = _lost() if cut or ended else error
        first = torchrun.agree_on_failure(own)
        if first is error:
            raise
        raise first from error
    finally:
        dist.destroy_process_group()


def _lost() -> StoppedError:
    """What is told unless the process that is lost has told something."""
    return StoppedError(
        "another process of the training has died, as one does that is killed for memory: look for the reason (dmesg), "
        "and continue from this run's id"
    )


@MODEL_WRAPPERS.register_module()
class SyncedDDP(MMDistributedDataParallel):
    """A network whose gradients and batch-norms are those of all processes' pictures together."""

    def __init__(self, module: nn.Module, device_ids: list[int]) -> None:
        gpu = torch.cuda.is_available()
        module = convert_sync_batchnorm(module) if gpu else share_batch_norms(module)
        module.train()  # freezes what is to be frozen, whose gradients nobody must wait for
        super().__init__(module, device_ids=device_ids if gpu else None, broadcast_buffers=False)


def unwrapped(network: nn.Module) -> Any:
    """The network itself, whose names are those of one process."""
    return network.module if isinstance(network, SyncedDDP) else network


def share_batch_norms(network: nn.Module) -> nn.Module:
    """Replaces every batch-norm by one over the pictures of all processes, with the same parameters, buffers and names.

    PyTorch's SyncBatchNorm is that for GPUs, and refuses CPUs.
    """
    for name, child in network.named_children():
        setattr(
            network,
            name,
            _shared(child) if isinstance(child, _BatchNorm) else share_batch_norms(child),
        )
    return network


def _shared(norm: Any) -> nn.Module:
    with_activation = isinstance(norm, BatchNormAct2d)
    shared: Any = (SyncedBatchNormAct if with_activation else SyncedBatchNorm)(
        norm.num_features, norm.eps, norm.momentum
    )
    shared.weight, shared.bias = norm.weight, norm.bias
    shared.running_mean, shared.running_var, shared.num_batches_tracked = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
    )
    if with_activation:
        shared.drop, shared.act = norm.drop, norm.act
    return shared.train(norm.training)


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch-norm over the pictures of all processes."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w), where n, h and w may differ from process to process."""
        if not self.training:
            return super().forward(input)
        mean, variance, count = _statistics(input.detach())
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return _SyncedNormalization.apply(
            input, self.weight, self.bias, mean, variance, self.eps, count
        )


class SyncedBatchNormAct(SyncedBatchNorm):
    """The same for timm's batch-norm that ends in an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """As above."""
        return self.act(self.drop(super().forward(input)))


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance of each channel, and the number of its values, over all processes.

    They are put together from each process's own mean and variance, in double precision: a mean of squares would lose the variance of
    channels whose mean is large.
    """
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    own = torch.stack(
        [
            mean.double(),
            variance.double(),
            torch.full_like(mean, values.numel() / len(mean), dtype=torch.double),
        ]
    )
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means, variances, counts = torch.stack(gathered, dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean.to(values.dtype), variance.to(values.dtype), float(total[0])


class _SyncedNormalization(torch.autograd.Function):
    """Normalises by statistics of all processes, through which the gradients go from each process's values to all others."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, (variance + eps).rsqrt())
        ctx.count = count
        return functional.batch_norm(values, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse = ctx.saved_tensors
        per_channel = (1, -1, 1, 1)
        normed = (values - mean.view(per_channel)) * inverse.view(per_channel)
        own = torch.stack([gradient.sum((0, 2, 3)), (gradient * normed).sum((0, 2, 3))])
        total = own.clone()
        dist.all_reduce(total)
        shift, slope = (total / ctx.count).view(2, *per_channel)
        of_values = (weight * inverse).view(per_channel) * (gradient - shift - normed * slope)
        # DistributedDataParallel adds up the parameters' gradients.
        return of_values, own[1], own[0], None, None, None, None

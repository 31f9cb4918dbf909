"""Training in several processes that equals training in one process.

The processes form a group, and the network's batch is that of all processes together.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from detreg import torchrun
from detreg.errors import StoppedError
from detreg.signals import DeferredSignals
from detreg.training.sync_batchnorm import convert_to_torch, synchronize_batch_norms


@contextmanager
def join_processes() -> Iterator[None]:
    """Make the processes a group inside the block; with one process, do nothing.

    Where one of them fails, all end with its error. The others notice by the end of their
    connection to it, or by the launcher's signal, and ask the launcher's store for the error.
    """
    if torchrun.get_world_size() == 1:
        yield
        return

    # Before the group exists, so that inside it every process can look for every other.
    torchrun.publish_pid()
    _init_group()
    try:
        yield
        # Nobody leaves while another process still needs the connection.
        dist.barrier()
    except BaseException as error:
        own = _describe_lost_process() if _is_caused_by_another(error) else error
        first = torchrun.agree_on_failure(own)
        if first is error:
            raise
        raise first from error
    finally:
        dist.destroy_process_group()


class SharedSignals:
    """The signals that any of the processes that train together has got.

    With one process they are its own.
    """

    def __init__(self, own: DeferredSignals) -> None:
        self.own = own
        self._is_shared = torchrun.get_world_size() > 1
        self._group: dist.ProcessGroup | None = None
        if self._is_shared and torch.cuda.is_available():
            # NCCL sends what is on GPUs, and a look at that would make each step wait for them.
            self._group = dist.new_group(backend="gloo", timeout=torchrun.NO_LIMIT)

    def check(self) -> bool:
        """Return whether the training has to stop; all processes call this at the same points.

        Then each of them has a signal to end with.
        """
        if self._is_shared:
            first = torch.tensor([self.own.first or 0])
            dist.all_reduce(first, op=dist.ReduceOp.MAX, group=self._group)
            self.own.first = self.own.first or int(first.item()) or None
        return self.own.is_pending

    def wait_for_all(self) -> None:
        """Wait until all processes have come here."""
        if self._is_shared:
            dist.barrier(group=self._group)


@MODEL_WRAPPERS.register_module()
class SyncedDDP(MMDistributedDataParallel):
    """A network whose gradients and batch norms are those of all processes' images together."""

    def __init__(self, module: nn.Module, device_ids: list[int]) -> None:
        if torch.cuda.is_available():
            module = convert_to_torch(module)
            devices = device_ids
        else:
            module = synchronize_batch_norms(module)
            devices = None

        # Freezes what is to be frozen, so that DDP does not wait for gradients that never come.
        module.train()
        super().__init__(module, device_ids=devices, broadcast_buffers=False)


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network itself, whose parameters have the names that they have in one process."""
    return network.module if isinstance(network, SyncedDDP) else network


def _init_group() -> None:
    """Connect the processes by NCCL on GPUs, otherwise by Gloo.

    MMEngine's `init_dist` would ask for a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(torchrun.get_local_rank())
    dist.init_process_group(
        "nccl" if has_gpu else "gloo",
        rank=torchrun.get_rank(),
        world_size=torchrun.get_world_size(),
        store=torchrun.get_store(),
        timeout=torchrun.NO_LIMIT,
    )


def is_connection_lost(error: BaseException) -> bool:
    """Return whether an error only says that another process of the group is gone."""
    # Gloo raises a plain RuntimeError that names its source file.
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _is_caused_by_another(error: BaseException) -> bool:
    """Return whether this process ends only because another one is gone."""
    if is_connection_lost(error):
        return True

    is_interrupted = not isinstance(error, Exception)
    return is_interrupted and torchrun.has_lost_process()


def _describe_lost_process() -> StoppedError:
    """Return the error that is reported unless the lost process has reported its own."""
    return StoppedError(
        "another process of the training has died, possibly killed for want of memory: look for "
        "the reason (dmesg), and resume with continue_from_eid=<this run's id>"
    )

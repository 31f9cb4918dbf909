"""The processes that load images for a training: how many, and how they end."""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from detreg import torchrun
from detreg.cgroups import count_cores
from detreg.options import RunOptions
from detreg.signals import defer_signals, ignore_signals
from detreg.training.shared_images import send_tensors_by_value

T = TypeVar("T")

_MOST_FOR_CPU = 2
"""Where the network trains on the cores too, each of its steps takes much longer than loading."""
_MOST_FOR_GPU = 8

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt."""
_LARGEST_KEPT = 32 << 20
"""Bytes: more than glibc allows would change nothing."""
_MOST_KEPT = 256 << 20


def choose_num_workers(options: RunOptions, trainings: int = 1) -> int:
    """Return `num_workers`, for `auto` a number for the cores that this process may use.

    The processes of torchrun on this machine, and `trainings` at a time, have equal shares of them.
    One core is left for the training's own process. To start a process takes as long as to load
    some ten images: a small dataset makes little difference.
    """
    if options.num_workers is not None:
        return options.num_workers

    cores = count_cores() // (torchrun.get_local_world_size() * trainings)
    if torch.cuda.is_available():
        return min(max(cores - 1, 1), _MOST_FOR_GPU)
    return min(max(cores - 1, 0), _MOST_FOR_CPU)


def prepare_processes(loader: "DataLoader[object]") -> None:
    """Let the loader's processes send what they load cheaply, and ignore signals.

    A terminal sends signals to the whole group. The training's own process goes on until its step
    is done, and needs the images for it. They end when it tells them to, and when it is gone.
    """
    loader.worker_init_fn = partial(_start_process, loader.worker_init_fn)


def end_processes(loader: "DataLoader[object]") -> None:
    """End the processes of a loader that keeps them from one epoch to the next.

    They would live as long as whatever still refers to the loader, the traceback of an error too.
    A signal is raised when they have ended: `mlflow run` sends another one right after Ctrl-C.
    """
    iterator = loader._iterator
    loader._iterator = None
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        with defer_signals(announcement=""):
            iterator._shutdown_workers()


@contextmanager
def start_processes(loader: "DataLoader[T]") -> Iterator[Iterable[T]]:
    """Start the processes of a prepared loader, return its batches, and end them with the block.

    A signal that comes while they start is raised when all of them can ignore it: in one that
    cannot it would raise, too. Python waits for those that are left when it ends, and would wait
    for ever, as they ignore SIGTERM.
    """
    try:
        with defer_signals(announcement=""):
            batches = iter(loader)
        yield batches
    finally:
        end_processes(loader)


def keep_freed_memory() -> None:
    """Let this process use freed memory again, where the C library can be told to.

    glibc gives large pieces back to the kernel, which then fills new ones with zeros, page by page:
    for the few images that a process works on, a third of the time to load one.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        set_option(_M_TRIM_THRESHOLD, _MOST_KEPT)


def _start_process(initialize: Callable[[int], None] | None, number: int) -> None:
    ignore_signals()
    send_tensors_by_value()
    keep_freed_memory()
    if initialize is not None:
        initialize(number)

"""The processes that load images for a training."""

from collections.abc import Callable
from functools import partial

from torch.utils.data import DataLoader

from detreg.signals import ignore_signals


def shield_processes(loader: "DataLoader[object]") -> None:
    """Let the loader's processes ignore signals, which a terminal sends to the whole group.

    The training's own process goes on until its step is done, and needs the images for it. They end
    when it tells them to, and when it is gone.
    """
    loader.worker_init_fn = partial(_start_process, loader.worker_init_fn)


def _start_process(initialize: Callable[[int], None] | None, number: int) -> None:
    ignore_signals()
    if initialize is not None:
        initialize(number)

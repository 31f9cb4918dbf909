"""How many processes load images, and how long they live."""

import ctypes
import os
import signal
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from detreg.options import RunOptions
from detreg.signals import ignore_signals
from detreg.training import loader_processes
from detreg.training.loader_processes import (
    choose_num_workers,
    end_processes,
    prepare_processes,
    start_processes,
)


@pytest.mark.parametrize(
    ("cores", "has_gpu", "processes", "trainings", "expected"),
    [
        (1, False, 1, 1, 0),
        (2, False, 1, 1, 1),
        (64, False, 1, 1, 2),
        (64, False, 8, 4, 1),
        (1, True, 1, 1, 1),
        (6, True, 1, 1, 5),
        (64, True, 1, 1, 8),
        (64, True, 8, 1, 7),
        (16, True, 2, 2, 3),
        (2, True, 4, 1, 1),
    ],
)
def test_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    has_gpu: bool,
    processes: int,
    trainings: int,
    expected: int,
) -> None:
    monkeypatch.setattr(loader_processes, "count_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert choose_num_workers(RunOptions(), trainings) == expected
    assert choose_num_workers(RunOptions(num_workers=5), trainings) == 5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_processes_live_until_they_are_ended(num_workers: int) -> None:
    """Also where an epoch was left in its middle, and something still refers to its iterator."""
    images: list[int] = list(range(9))
    loader = DataLoader(images, num_workers=num_workers, persistent_workers=num_workers > 0)  # type: ignore[arg-type,var-annotated]
    before = set(psutil.Process().children())
    assert len(list(loader)) == 9
    processes = set(psutil.Process().children()) - before
    assert len(processes) == num_workers

    iterator = iter(loader)
    next(iterator)
    assert set(psutil.Process().children()) - before == processes
    end_processes(loader)
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive
    end_processes(loader)
    assert iterator is not None


def interrupt_and_ignore() -> None:
    """Get Ctrl-C in a process that has just been started, which does not ignore it yet."""
    os.kill(os.getpid(), signal.SIGINT)
    ignore_signals()


def test_a_signal_while_processes_start_harms_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_processes, "ignore_signals", interrupt_and_ignore)
    loader = DataLoader(list(range(9)), num_workers=1, persistent_workers=True)  # type: ignore[arg-type,var-annotated]
    prepare_processes(loader)
    with start_processes(loader) as batches:
        assert len(list(batches)) == 9


def test_processes_are_ended_before_a_signal_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow run` sends another signal while an interrupted training ends them."""
    shut_down = _MultiProcessingDataLoaderIter._shutdown_workers
    before = set(psutil.Process().children())

    def interrupt_and_shut_down(iterator: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        shut_down(iterator)

    loader = DataLoader(list(range(9)), num_workers=1, persistent_workers=True)  # type: ignore[arg-type,var-annotated]
    prepare_processes(loader)
    iterator = _MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator, "_shutdown_workers", interrupt_and_shut_down)
    with pytest.raises(KeyboardInterrupt), start_processes(loader) as batches:
        next(iter(batches))
        processes = set(psutil.Process().children()) - before
        assert len(processes) == 1
    monkeypatch.undo()
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive


class MemoryUse(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "heap",  # bytes that the process has from the kernel for small pieces
            "ordblks",
            "smblks",
            "mapped",  # large pieces that the kernel has mapped one by one
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def measure_memory() -> MemoryUse:
    measure = ctypes.CDLL(None).mallinfo2
    measure.restype = MemoryUse
    use = measure()
    assert isinstance(use, MemoryUse)
    return use


class LargePieces:
    """An item that tells how a process gets and gives back large pieces of memory."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[int]:
        """Return how many of three pieces were mapped, and the bytes that the heap lost."""
        before = measure_memory()
        pieces = [np.ones(8 << 20, np.uint8) for _ in range(3)]
        held = measure_memory()
        del pieces
        return [held.mapped - before.mapped, held.heap - measure_memory().heap]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc, or an old one")
def test_memory_is_used_again() -> None:
    loader: DataLoader[Any] = DataLoader(LargePieces(), num_workers=1, batch_size=None)  # type: ignore[arg-type]
    prepare_processes(loader)
    assert list(loader) == [[0, 0]]

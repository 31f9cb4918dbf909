"""How many processes load images, and how long they live."""

import ctypes
import resource

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from detreg.options import RunOptions
from detreg.training import loader_processes
from detreg.training.loader_processes import choose_num_workers, end_processes, prepare_processes


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


class PageFaults:
    """Items that are the page faults of a process that needs large memory again and again."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        faults = []
        for _ in range(100):
            pieces = [np.ones(8 << 20, np.uint8) for _ in range(3)]
            del pieces
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return faults[-1] - faults[20]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_is_used_again() -> None:
    """Each round would fault at least once for each huge page of 2 MB."""
    loader: DataLoader[int] = DataLoader(PageFaults(), num_workers=1)  # type: ignore[arg-type]
    prepare_processes(loader)
    (faults,) = loader
    assert int(faults) < 80

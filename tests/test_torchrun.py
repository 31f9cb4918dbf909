"""Processes that train together end together: what is told, by whom, and with which code."""

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import run_under_torchrun

from detreg import torchrun
from detreg.errors import UsageError
from detreg.tracking import runs


def test_what_is_refused_is_told_once_and_ends_all_processes_alike(store: str, tiny: Path) -> None:
    process = run_under_torchrun(store, tiny, batch_size=3)
    told, errors = process.communicate()
    assert process.returncode and told == ""
    assert errors.count("detreg: batch_size=3 must be a multiple of the 2 processes") == 1
    assert errors.count("exitcode  : 2 ") == 2, errors


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training_as_failed(store: str, tiny: Path) -> None:
    process = run_under_torchrun(store, tiny, num_epochs=50)
    assert process.stdout and process.stderr
    eid = next(line for line in process.stdout if line.startswith("MLflow run (eid)")).split()[3]
    assert any(line.startswith("epoch 1/50") for line in process.stderr)
    second = next(
        child
        for child in psutil.Process(process.pid).children()
        if child.environ().get("RANK") == "1"
    )
    second.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert (
        process.returncode and errors.count("detreg: another process of the training has died") == 1
    )
    run = runs.get_run(eid)
    assert run.info.status == "FAILED" and "has died" in run.data.tags["detreg.failure"]
    assert "detreg.checkpoint" in run.data.tags


def test_a_signal_of_the_launcher_is_told_from_a_users_by_who_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setattr(
        torchrun, "get_store", lambda: SimpleNamespace(set=kept.__setitem__, get=kept.__getitem__)
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    other = subprocess.Popen(["sleep", "60"])
    for rank, pid in ((4, os.getpid()), (5, other.pid)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank - 4))
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        torchrun.publish_pid()
    assert not torchrun.has_lost_process()
    other.kill()
    other.wait()
    assert torchrun.has_lost_process()


def test_a_batch_size_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun.check_batch_size(3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    torchrun.check_batch_size(8)
    with pytest.raises(
        UsageError, match=r"batch_size=6 must be a multiple of the 4 processes.*: take 8, or"
    ):
        torchrun.check_batch_size(6)

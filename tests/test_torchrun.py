"""Processes that train together end together: what is printed, by which one, and the exit code."""

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import run_under_torchrun

from detreg import torchrun
from detreg.errors import StoppedError, UsageError
from detreg.tracking import runs


@pytest.fixture
def launcher_store(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stand in for the launcher's key-value store, and return its content."""
    content: dict[str, str] = {}

    def compare_set(key: str, expected: str, value: str) -> str:
        assert expected == ""
        return content.setdefault(key, value)

    store = SimpleNamespace(
        set=content.__setitem__, get=content.__getitem__, compare_set=compare_set
    )
    monkeypatch.setattr(torchrun, "get_store", lambda: store)
    return content


def test_a_refusal_is_printed_once_and_ends_all_processes_alike(store: str, tiny: Path) -> None:
    process = run_under_torchrun(store, tiny, batch_size=3)
    output, errors = process.communicate()
    assert process.returncode != 0
    assert output == ""
    assert errors.count("detreg: batch_size=3 must be a multiple of the 2 processes") == 1
    assert errors.count("exitcode  : 2 ") == 2, errors


def find_second_process(launcher: int) -> psutil.Process:
    for child in psutil.Process(launcher).children():
        if child.environ().get("RANK") == "1":
            return child
    raise AssertionError("torchrun has no second process")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training_as_failed(store: str, tiny: Path) -> None:
    process = run_under_torchrun(store, tiny, num_epochs=50)
    assert process.stderr is not None
    eid = next(line for line in process.stderr if line.startswith("MLflow run (eid)")).split()[3]
    assert any(line.startswith("epoch 1/50") for line in process.stderr)

    find_second_process(process.pid).send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("detreg: another process of the training has died") == 1

    run = runs.get_run(eid)
    assert run.info.status == "FAILED"
    assert "has died" in run.data.tags["detreg.failure"]
    assert "detreg.checkpoint" in run.data.tags


def test_the_signal_of_a_launcher_is_recognized_by_a_process_that_is_gone(
    launcher_store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    own_pid = os.getpid()
    other = subprocess.Popen(["sleep", "60"])
    for rank, pid in ((4, own_pid), (5, other.pid)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank - 4))
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        torchrun.publish_pid()

    assert not torchrun.has_lost_process()
    other.kill()
    other.wait()
    assert torchrun.has_lost_process()


class LibraryError(Exception):
    """An error that cannot be pickled, as its constructor takes two arguments."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def test_the_first_error_is_that_of_all_processes(
    launcher_store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchrun, "ignore_signals", lambda: None)
    first = StoppedError("the loss is NaN or infinite in epoch 1")
    assert torchrun.agree_on_failure(first) is first

    same_with_advice = StoppedError("the loss is NaN or infinite in epoch 1, or resume")
    assert torchrun.agree_on_failure(same_with_advice) is same_with_advice

    consequence = RuntimeError("connection lost")
    agreed = torchrun.agree_on_failure(consequence)
    assert isinstance(agreed, StoppedError)
    assert str(agreed) == str(first)


def test_an_error_that_cannot_be_pickled_keeps_its_text(
    launcher_store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchrun, "ignore_signals", lambda: None)
    torchrun.agree_on_failure(LibraryError(3, "out of luck"))
    assert str(torchrun.agree_on_failure(KeyError("x"))) == "LibraryError: out of luck"


def test_a_batch_size_must_be_a_multiple_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun.check_batch_size(3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    torchrun.check_batch_size(8)
    with pytest.raises(
        UsageError, match=r"batch_size=6 must be a multiple of the 4 processes.*: take 8, or"
    ):
        torchrun.check_batch_size(6)


@pytest.mark.parametrize(
    ("processes", "processes_per_machine", "program"),
    [
        ("1", "1", "detreg"),
        ("2", "2", "torchrun --nproc_per_node=2 -m detreg"),
        ("8", "4", "torchrun --nnodes=2 --nproc_per_node=4 -m detreg"),
    ],
)
def test_a_printed_command_starts_as_many_processes(
    monkeypatch: pytest.MonkeyPatch, processes: str, processes_per_machine: str, program: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes_per_machine)
    assert torchrun.format_program() == program

"""A run stays KILLED, although `mlflow run` makes it FAILED when its command has ended so."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from mlflow import MlflowClient

from detreg.tracking.project_runs import Runner, restore_killed


@pytest.fixture
def runner() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that ends when its input does."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def describe(process: "subprocess.Popen[bytes]") -> Runner:
    return Runner(process.pid, psutil.Process(process.pid).create_time())


def make_run(status: str) -> str:
    experiment = MlflowClient().get_experiment_by_name("tests")
    assert experiment is not None
    run_id: str = MlflowClient().create_run(experiment.experiment_id).info.run_id
    MlflowClient().set_terminated(run_id, status, 1000)
    return run_id


def test_what_the_runner_has_overwritten_is_restored(
    store: str, runner: "subprocess.Popen[bytes]"
) -> None:
    run_id = make_run("FAILED")
    restore_killed(run_id, describe(runner))
    info = MlflowClient().get_run(run_id).info
    assert (info.status, info.end_time) == ("KILLED", 1000)


def test_a_runner_that_ends_is_waited_for(
    store: str, runner: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overwrites the status, as the last thing that it does."""
    run_id = make_run("KILLED")
    described = describe(runner)
    looks = 0

    def look_again(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            MlflowClient().set_terminated(run_id, "FAILED", 2000)
            runner.communicate()

    monkeypatch.setattr(time, "sleep", look_again)
    restore_killed(run_id, described)
    assert MlflowClient().get_run(run_id).info.status == "KILLED"
    assert looks == 2


def test_a_status_that_nobody_overwrites_stays(
    store: str, runner: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_run("KILLED")
    described = describe(runner)
    monkeypatch.setattr(time, "sleep", lambda _: runner.communicate())
    restore_killed(run_id, described)
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_a_runner_is_found_in_a_project_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert Runner.find() is None
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    found = Runner.find()
    assert found is not None
    assert found.is_running


FIND = "from detreg.tracking.project_runs import Runner; print(Runner.find().pid)"


@pytest.mark.soak  # the process imports MLflow
def test_a_shell_is_no_runner() -> None:
    """As `mlflow run` starts a command, where the shell does not become it."""
    output = subprocess.run(
        ["sh", "-c", f"{sys.executable} -c '{FIND}'; true"],
        env={**os.environ, "MLFLOW_RUN_ID": "0" * 32},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(output) == os.getpid()

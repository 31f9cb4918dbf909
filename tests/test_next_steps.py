"""What is printed to be typed next works where its user stands."""

import os
import shlex
import sys
from pathlib import Path

import mlflow
import psutil
import pytest

from detreg.continuation import format_training_command
from detreg.invocation import Invocation, read_project
from detreg.tracking import runs
from detreg.tracking.run_page import describe_run_page


@pytest.mark.parametrize(
    ("words", "project"),
    [
        (
            "python /bin/mlflow run . -e yolox -P data=/x --env-manager local",
            ". --env-manager local",
        ),
        ("mlflow run -Pdata=/x /src/detreg --entry-point=ssd", "/src/detreg"),
        ("python3 -m mlflow run https://host/detreg -v 1.0 -P a=1", "https://host/detreg -v 1.0"),
        ("python train.py run .", ""),
        ("mlflow server --port 1", ""),
    ],
)
def test_the_project_is_as_it_was_given(words: str, project: str) -> None:
    assert " ".join(read_project(words.split())) == project


@pytest.mark.parametrize(
    ("project", "start", "flag"),
    [
        ((), "detreg train yolox --seed 1", " --env-manager local"),
        (
            (".", "--env-manager", "uv"),
            "mlflow run . --env-manager uv -e yolox -P seed=1",
            " --env-manager uv",
        ),
        (
            ("https://me:secret@host/d",),
            "mlflow run https://me:***@host/d -e yolox -P seed=1",
            "",
        ),
    ],
)
def test_commands_are_started_as_this_process_was(
    project: tuple[str, ...], start: str, flag: str
) -> None:
    invocation = Invocation(project, Path("/"))
    assert format_training_command("yolox", {"seed": "1"}, invocation) == start
    assert invocation.environment_flag == flag


def test_programs_that_path_lacks_are_started_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `.venv/bin/detreg` was started, and the environment is not activated."""
    monkeypatch.setenv("PATH", "")
    python = shlex.quote(sys.executable)
    command = format_training_command("yolox", {"seed": "1"}, Invocation((), Path("/")))
    assert command == f"{python} -m detreg train yolox --seed 1"
    command = format_training_command("yolox", {}, Invocation((".",), Path("/")))
    assert command.startswith(f"{python} -m mlflow run . ")


def test_without_mlflow_run_there_is_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert Invocation.find() == Invocation((), Path.cwd())


def test_a_runner_that_is_gone_has_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(process: psutil.Process) -> None:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setattr(psutil.Process, "parent", find_nothing)
    assert Invocation.find().project == ()


def test_a_local_run_is_shown_by_mlflow_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with runs.start_run(None, {}) as run:
        pass
    page = f"http://127.0.0.1:5000/#/experiments/0/runs/{run.id}?workflowType=machine_learning"
    assert describe_run_page(run.id, tmp_path) == f"mlflow ui, then {page}"

    elsewhere = describe_run_page(run.id, Path("/"))
    store = f"sqlite:///{tmp_path}/mlflow.db"
    assert elsewhere == f"mlflow ui --backend-store-uri {store}, then {page}"

    # A store that is named by a path relative to the working directory.
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    assert describe_run_page(run.id, tmp_path) == f"mlflow ui, then {page}"
    assert describe_run_page(run.id, Path("/")) == elsewhere
    assert os.environ.get("MLFLOW_RUN_ID") is None


def test_a_server_shows_its_runs_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    run = mlflow.entities.Run(
        mlflow.entities.RunInfo("a" * 32, "7", "me", "FINISHED", 0, 1, "active"),
        mlflow.entities.RunData(),
    )
    monkeypatch.setattr("detreg.tracking.run_page.get_run", lambda _: run)
    for uri, start in (
        ("http://me:secret@host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
    ):
        monkeypatch.setattr("detreg.tracking.run_page.get_tracking_uri", lambda uri=uri: uri)
        page = f"#/experiments/7/runs/{'a' * 32}?workflowType=machine_learning"
        assert describe_run_page("a" * 32, Path("/")) == f"{start}/{page}"

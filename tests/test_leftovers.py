"""What outages and kills leave in the cache, and how it reaches MLflow."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from toy_detector import write_toy_model

from detreg.errors import DataError, UndeliveredError
from detreg.tasks.sync import sync_runs
from detreg.tracking import run as run_module
from detreg.tracking import runs
from detreg.tracking.leases import LEASE
from detreg.tracking.records import Registration
from detreg.tracking.run_folders import claim_run_folder, list_run_folders
from detreg.tracking.sender import Patience

pytestmark = pytest.mark.usefixtures("store", "own_cache")

UNREACHABLE = MlflowException("API request failed with connection refused")
DATABASE_FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache of the test's own, and give up at the first failure."""
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    at_once = Patience(failing=0, hanging=1200)
    monkeypatch.setattr(runs, "PATIENCE", at_once)
    monkeypatch.setattr(run_module, "PATIENCE", at_once)


def fail_writes(patch: pytest.MonkeyPatch, error: Exception, after_commit: bool = False) -> None:
    """Let all writes to MLflow fail, before or after they were carried out."""
    for name in ("log_batch", "log_artifact", "log_artifacts", "log_inputs", "set_terminated"):
        patch.setattr(MlflowClient, name, _make_failing(name, error, after_commit))


def _make_failing(name: str, error: Exception, after_commit: bool) -> Callable[..., None]:
    original = getattr(MlflowClient, name)

    def fail(*args: object, **kwargs: object) -> None:
        if after_commit:
            original(*args, **kwargs)
        raise error

    return fail


def write_training(run: runs.Run) -> None:
    """Write what a training of three epochs writes."""
    run.log_params({"seed": "0"})
    for epoch in range(1, 4):
        run.log_metrics({"loss": 1 / epoch, "mAP": epoch / 10}, step=epoch)
        (run.folder / "last.pth").write_text(str(epoch))
        (run.folder / "best.pth").write_text(str(epoch))
        run.note_saved_checkpoints(epoch, "last.pth", "best.pth")
    run.log_file(run.folder / "last.pth", "checkpoints/0")
    run.log_file(run.folder / "best.pth", "checkpoints/0")
    run.tag_checkpoints(
        runs.StoredCheckpoints(3, "checkpoints/0/last.pth", "checkpoints/0/best.pth")
    )
    run.log_text("text", "notes.txt")


def check_training(run_id: str, status: str, folder: Path) -> list[Metric]:
    """Check that everything is there once; return the points of one metric."""
    run = runs.get_run(run_id)
    assert run.info.status == status
    assert run.data.params == {"seed": "0"}
    histories = [MlflowClient().get_metric_history(run_id, name) for name in ("loss", "mAP")]
    for history in histories:
        assert [metric.step for metric in history] == [1, 2, 3]
    stored = runs.find_checkpoints(run_id)
    assert stored is not None
    assert stored.epoch == 3
    assert runs.download_artifact(run_id, stored.last, folder).read_text() == "3"
    assert runs.download_artifact(run_id, "notes.txt", folder).read_text() == "text"
    assert list_run_folders() == []
    return histories[0]


@pytest.mark.parametrize(
    ("error", "after_commit"),
    [(UNREACHABLE, False), (UNREACHABLE, True), (DATABASE_FULL, False)],
    ids=["away", "answer lost after commit", "database full"],
)
def test_what_an_outage_keeps_back_is_delivered_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, after_commit: bool
) -> None:
    with monkeypatch.context() as patch:
        undelivered = pytest.raises(UndeliveredError, match="detreg sync")
        with undelivered as caught, runs.start_run(None, {}) as run:
            fail_writes(patch, error, after_commit)
            write_training(run)
        assert caught.value.exit_code == 75
        assert runs.get_run(run.id).info.status == "RUNNING"
        kept = (run.folder / "journal.jsonl").read_text().splitlines()
        written = [record["time"] for record in map(json.loads, kept) if "values" in record]

        # Still away: nothing is lost by a try.
        assert sync_runs(run.id).has_problems

    report = sync_runs()
    assert report.lines[0] == f"run {run.id} is delivered"
    assert not report.has_problems
    history = check_training(run.id, "FINISHED", tmp_path / "copy")
    assert min(metric.timestamp for metric in history) >= written[0]
    assert not sync_runs().has_problems
    assert check_training(run.id, "FINISHED", tmp_path / "copy") == history


def test_a_failure_during_an_outage_is_told_and_delivered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        monkeypatch.context() as patch,
        pytest.raises(DataError),
        runs.start_run(None, {}) as run,
    ):
        fail_writes(patch, UNREACHABLE)
        write_training(run)
        raise DataError("the error of the training")
    assert f"detreg sync {run.id}" in capfd.readouterr().err
    assert not sync_runs(run.id).has_problems
    check_training(run.id, "FAILED", tmp_path / "copy")
    assert runs.get_run(run.id).data.tags[runs.FAILURE] == "the error of the training"


_KILLED = """
import os, sys
import mlflow
from mlflow import MlflowClient
from test_leftovers import write_training, fail_writes, UNREACHABLE
import pytest
from detreg.tracking import runs
mlflow.set_experiment("tests")
with runs.start_run("killed", {}) as run:
    print(run.id, flush=True)
    if sys.argv[1] == "away":
        fail_writes(pytest.MonkeyPatch(), UNREACHABLE)
    write_training(run)
    if sys.argv[1] == "delivered":
        assert run.wait_until_delivered()
    for name in ("last.pth", "best.pth"):
        (run.folder / name).write_text("4")
    run.note_saved_checkpoints(4, "last.pth", "best.pth")
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module", params=["delivered", "away"])
def killed(
    request: pytest.FixtureRequest, store: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Kill a process that writes a run, after it has saved a checkpoint; return run and cache."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "DETREG_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", _KILLED, request.param]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    return done.stdout.strip(), cache


def test_the_next_command_completes_a_killed_run(
    killed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id, cache = killed
    monkeypatch.setenv("DETREG_CACHE", str(cache))
    assert runs.get_run(run_id).info.status == "RUNNING"

    with runs.start_run("next", {}):
        pass

    run = runs.get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags[runs.FAILURE].endswith(" is gone")
    stored = runs.find_checkpoints(run_id)
    assert stored is not None
    assert stored.epoch == 4, "the newest checkpoint was only in the cache"
    assert stored.last == "checkpoints/1/last.pth", "not over the files that the tag named"
    assert runs.download_artifact(run_id, stored.last, tmp_path).read_text() == "4"
    assert list_run_folders() == []


def test_dead_runs_of_the_experiment_are_closed_and_others_stay() -> None:
    experiment = mlflow.get_experiment_by_name("tests")
    assert experiment is not None
    client = MlflowClient()
    with runs.start_run("alive", {}) as alive:
        lease = json.loads(runs.get_run(alive.id).data.tags[LEASE])
        dead_lease = json.dumps({**lease, "started": lease["started"] - 1e6})
        dead = client.create_run(experiment.experiment_id, tags={LEASE: dead_lease}).info.run_id
        without = client.create_run(experiment.experiment_id).info.run_id

        with runs.start_run("next", {}):
            pass
        assert runs.get_run(alive.id).info.status == "RUNNING"
        assert runs.get_run(without).info.status == "RUNNING", "nobody knows its process"
    assert runs.get_run(dead).info.status == "KILLED"
    assert runs.get_run(dead).data.tags[runs.FAILURE].startswith("its process ")


def test_a_run_that_was_taken_for_dead_ends_as_it_really_did() -> None:
    with runs.start_run(None, {}) as run:
        runs.end_run(run.id, "its process 1 on another was last heard of 30 hours ago")
    ended = runs.get_run(run.id)
    assert ended.info.status == "FINISHED"
    assert runs.FAILURE not in ended.data.tags


def test_a_living_run_is_not_settled() -> None:
    with runs.start_run(None, {}) as run:
        report = sync_runs(run.id)
        assert "is being written" in report.lines[0]
        runs.settle_run(run.id)
        assert runs.get_run(run.id).info.status == "RUNNING"
    assert runs.get_run(run.id).info.status == "FINISHED"


def test_what_mlflow_refuses_for_good_keeps_back_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    refused = pytest.raises(UndeliveredError, match="MLflow refuses a part")
    with refused, runs.start_run(None, {}) as run:
        run.set_tags({"": "a tag without a name"})
        run.log_metrics({"loss": 1.0})
    assert f"MLflow refuses what run {run.id} writes" in capfd.readouterr().err
    assert runs.get_run(run.id).info.status == "FINISHED"
    assert runs.get_run(run.id).data.metrics == {"loss": 1.0}
    assert (run.folder / "refused.jsonl").is_file()
    report = sync_runs(run.id)
    assert report.has_problems
    assert "MLflow refuses what is in" in report.lines[0]


def test_a_deleted_run_keeps_its_folder_until_it_is_restored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        undelivered = pytest.raises(UndeliveredError)
        with undelivered, runs.start_run(None, {}) as run:
            fail_writes(patch, UNREACHABLE)
            write_training(run)
    MlflowClient().delete_run(run.id)

    report = sync_runs(run.id)
    assert report.has_problems
    assert f"mlflow runs restore --run-id {run.id}" in report.lines[0]
    assert not (run.folder / "refused.jsonl").exists()

    MlflowClient().restore_run(run.id)
    assert not sync_runs(run.id).has_problems
    check_training(run.id, "FINISHED", tmp_path / "copy")


def test_a_model_that_could_not_be_registered_is_registered_once() -> None:
    waiting = pytest.raises(UndeliveredError, match="not now")
    with waiting, runs.start_run(None, {}) as run:
        write_toy_model(run.folder / "toy.onnx")
        run.write(Registration("toy.onnx", "left", 0.5, "digest", {"template": "yolox"}))
        raise UndeliveredError("not now")
    assert runs.get_run(run.id).info.status == "RUNNING"

    with runs.start_run("next", {}):
        pass
    assert run.folder.is_dir(), "only detreg sync registers"

    for _ in range(2):
        assert not sync_runs(run.id).has_problems
    (version,) = MlflowClient().search_model_versions("name = 'left'")
    assert version.run_id == run.id
    assert MlflowClient().get_model_version_by_alias("left", "champion").version == version.version
    assert runs.get_run(run.id).info.status == "FINISHED"


def test_two_processes_of_one_run_have_folders_of_their_own() -> None:
    first = claim_run_folder("1" * 32)
    second = claim_run_folder("1" * 32)
    assert (first.path.name, second.path.name) == ("1" * 32, "1" * 32 + ".2")
    assert first.run_id == second.run_id == "1" * 32
    assert list_run_folders("1" * 32) == [first.path, second.path]
    first.remove()
    second.remove()
    assert list_run_folders() == []

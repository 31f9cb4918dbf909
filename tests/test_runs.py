"""What is written to MLflow runs, in a real store."""

import http.server
import json
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import sqlalchemy.event
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlDataset
from small_datasets import write_pets
from sqlalchemy.orm import Session

from detreg.data.dataset import load_dataset
from detreg.errors import DataError, NotFoundError, UnreachableError
from detreg.mlflow_errors import MAX_WRITE_ATTEMPTS, retry_on_conflict
from detreg.tracking import runs
from detreg.tracking.records import DatasetOfRun, Record
from detreg.tracking.runs import Run, StoredCheckpoints

pytestmark = pytest.mark.usefixtures("store")


def create_run() -> str:
    """Create a run in the experiment in use as another process does, and return its id."""
    experiment = mlflow.get_experiment_by_name("tests")
    assert experiment is not None
    return MlflowClient().create_run(experiment.experiment_id).info.run_id


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; minutes are enough on any machine."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


def start_and_raise(error: BaseException) -> str:
    """Start a run that ends with an error, and return its id."""
    with pytest.raises(type(error)), runs.start_run(None, {}) as run:
        raise error
    return run.id


def test_a_run_ends_as_finished_and_has_the_tags_and_no_folder() -> None:
    with runs.start_run("name", {runs.TEMPLATE: "yolox"}) as run:
        assert run.folder.is_dir()
        assert runs.get_run(run.id).info.status == "RUNNING"

    ended = runs.get_run(run.id)
    assert ended.info.status == "FINISHED"
    assert ended.info.run_name == "name"
    assert ended.data.tags[runs.TEMPLATE] == "yolox"
    assert runs.VERSION in ended.data.tags
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (
            DataError(["one box is empty", "one is outside"]),
            "FAILED",
            "one box is empty; one is outside",
        ),
        (ValueError("boom"), "FAILED", "ValueError: boom"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (KeyboardInterrupt("the budget is over"), "KILLED", "the budget is over"),
    ],
)
def test_a_run_that_does_not_finish_says_why(
    error: BaseException, status: str, reason: str
) -> None:
    ended = runs.get_run(start_and_raise(error))
    assert ended.info.status == status
    assert ended.data.tags[runs.FAILURE] == reason


def test_the_run_of_mlflow_run_is_tagged_only_until_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = create_run()
    monkeypatch.setenv("MLFLOW_RUN_ID", waiting)
    runs.tag_failure_before_start(ValueError("boom"))
    assert runs.get_run(waiting).data.tags[runs.FAILURE] == "ValueError: boom"

    with runs.start_run(None, {}) as run:
        runs.tag_failure_before_start(ValueError("later"))
    assert run.id == waiting
    assert runs.get_run(waiting).data.tags[runs.FAILURE] == "ValueError: boom"


def test_a_run_is_nested_in_the_active_one_and_in_one_of_another_process() -> None:
    with runs.start_run("outer", {}) as outer, runs.start_run("inner", {}) as inner:
        pass
    with runs.start_run("trial", {}, parent=outer.id) as trial:
        children = runs.list_running_children(outer.id)

    for child in (inner, trial):
        assert runs.get_run(child.id).data.tags["mlflow.parentRunId"] == outer.id
    assert [child.info.run_id for child in children] == [trial.id], "the inner run has ended"
    assert runs.list_running_children(outer.id) == []


def test_an_ended_run_can_be_resumed() -> None:
    with runs.start_run("first", {}) as first:
        pass
    with runs.start_run(None, {}, run_id=first.id) as second:
        assert runs.get_run(first.id).info.status == "RUNNING"
    assert second.id == first.id
    assert runs.get_run(first.id).info.status == "FINISHED"


def test_params_that_are_logged_keep_their_value() -> None:
    with runs.start_run(None, {}) as run:
        run.log_params({"batch_size": "1e1"})
        run.log_params({"batch_size": "10", "seed": "0"})
    assert runs.get_run(run.id).data.params == {"batch_size": "1e1", "seed": "0"}


def test_metrics_that_are_not_finite_are_left_out() -> None:
    with runs.start_run(None, {}) as run:
        run.log_metrics({"loss": 0.5, "nan": math.nan, "infinite": math.inf}, step=3)
    assert runs.get_run(run.id).data.metrics == {"loss": 0.5}
    (metric,) = MlflowClient().get_metric_history(run.id, "loss")
    assert metric.step == 3


def test_metrics_wait_for_a_tracking_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MlflowException("connection refused\nsecond line")

    with runs.start_run(None, {}) as run:
        sender = run.sender
        assert sender
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", fail)
            run.log_metrics({"loss": 0.5}, step=1)
            run.log_metrics({"loss": 0.25}, step=2)
            wait_for(lambda: sender.is_failing)
        first_time = int(time.time() * 1000)

    history = MlflowClient().get_metric_history(run.id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]
    assert all(metric.timestamp <= first_time for metric in history), "when they were logged"
    errors = capfd.readouterr().err
    assert errors.count("waits for MLflow: connection refused\n") == 1


def test_a_long_tag_is_cut() -> None:
    with runs.start_run(None, {"long": "x" * 6000}) as run:
        pass
    assert runs.get_run(run.id).data.tags["long"] == "x" * 5000


def test_files_and_texts_are_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("page")
    with runs.start_run(None, {}) as run:
        run.log_file(folder, "report")
        run.log_file(folder / "index.html")
        run.log_text("text", "notes.txt")

    for artifact, content in {
        "report/index.html": "page",
        "index.html": "page",
        "notes.txt": "text",
    }.items():
        path = runs.download_artifact(run.id, artifact, tmp_path / "copy")
        assert path.read_text() == content
    with pytest.raises(NotFoundError, match=r"has no artifact missing\.txt that can be read"):
        runs.download_artifact(run.id, "missing.txt", tmp_path / "copy")


def test_a_dataset_is_an_input_with_classes_and_counts(tiny: Path) -> None:
    dataset = load_dataset(str(tiny))
    with runs.start_run(None, {}) as run:
        run.log_dataset(dataset)

    inputs = runs.get_run(run.id).inputs
    assert inputs is not None
    (logged,) = inputs.dataset_inputs
    assert logged.dataset.digest == dataset.digest
    assert json.loads(str(logged.dataset.schema)) == {"classes": list(dataset.classes)}
    profile = json.loads(str(logged.dataset.profile))
    assert profile["splits"]["train"]["images"] == dataset.splits["train"].images
    assert profile["traits"] == dataset.traits.to_json()
    assert json.loads(str(logged.dataset.source)) == {"uri": str(tiny)}


def test_each_scored_split_is_an_input_with_its_context(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "boats")
    dataset = load_dataset(folder)
    with runs.start_run(None, {}) as run:
        run.log_dataset(dataset)
        run.log_scoring_splits(dataset)

    inputs = runs.get_run(run.id).inputs
    assert inputs is not None
    contexts = {}
    for logged in inputs.dataset_inputs:
        (tag,) = logged.tags
        contexts[logged.dataset.name, tag.key] = tag.value
        assert logged.dataset.digest == dataset.digest
    assert contexts == {
        ("boats", "mlflow.data.context"): "training",
        ("boats-val", "mlflow.data.context"): "validation",
        ("boats-test", "mlflow.data.context"): "testing",
    }


def test_a_dataset_in_the_journal_of_an_older_version_is_for_training() -> None:
    line = json.dumps(
        {
            "kind": "DatasetOfRun",
            "name": "boats",
            "digest": "0123456789abcdef",
            "source": "{}",
            "schema": "{}",
            "profile": "{}",
        }
    )
    record = Record.from_json(line)
    assert isinstance(record, DatasetOfRun)
    assert record.context == "training"


def insert_dataset_of_another_process(store: str, inserted: SqlDataset) -> None:
    """Insert the row that MLflow is about to insert, with an id of its own."""
    columns = ("experiment_id", "name", "digest", "dataset_source_type", "dataset_source")
    values = [getattr(inserted, column) for column in columns]
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute(
            f"INSERT INTO datasets (dataset_uuid, {', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?)",
            [uuid.uuid4().hex, *values],
        )


def test_two_processes_log_the_same_dataset_at_once(store: str, other: Path) -> None:
    """The other process inserts it between MLflow's look for it and its own insertion."""
    dataset = load_dataset(str(other))
    inserted_by_others = 0

    def insert_before_mlflow(session: Session, *_: object) -> None:
        nonlocal inserted_by_others
        for row in session.new:
            if isinstance(row, SqlDataset) and not inserted_by_others:
                inserted_by_others += 1
                insert_dataset_of_another_process(store, row)

    sqlalchemy.event.listen(Session, "before_flush", insert_before_mlflow)
    try:
        with runs.start_run(None, {}) as run:
            run.log_dataset(dataset)
    finally:
        sqlalchemy.event.remove(Session, "before_flush", insert_before_mlflow)

    assert inserted_by_others == 1
    inputs = runs.get_run(run.id).inputs
    assert inputs is not None
    assert [item.dataset.digest for item in inputs.dataset_inputs] == [dataset.digest]


def test_a_write_that_collides_is_tried_again_and_other_errors_are_not() -> None:
    # What a tracking server answers for its database's error.
    conflict = MlflowException("BAD_REQUEST: (psycopg.errors.UniqueViolation) duplicate key value")
    attempts: list[MlflowException] = []

    def write() -> str:
        if len(attempts) < MAX_WRITE_ATTEMPTS - 1:
            attempts.append(conflict)
            raise conflict
        return "written"

    assert retry_on_conflict(write) == "written"
    assert len(attempts) == MAX_WRITE_ATTEMPTS - 1

    def collide() -> None:
        attempts.append(conflict)
        raise conflict

    attempts.clear()
    with pytest.raises(MlflowException, match="UniqueViolation"):
        retry_on_conflict(collide)
    assert len(attempts) == MAX_WRITE_ATTEMPTS

    def fail() -> None:
        attempts.append(MlflowException("no such run"))
        raise attempts[-1]

    attempts.clear()
    with pytest.raises(MlflowException, match="no such run"):
        retry_on_conflict(fail)
    assert len(attempts) == 1


def test_stored_checkpoints_are_found() -> None:
    stored = StoredCheckpoints(3, last="checkpoints/1/last.pth", best="checkpoints/1/best.pth")
    with runs.start_run(None, {}) as run:
        assert runs.find_checkpoints(run.id) is None
        run.tag_checkpoints(stored)

    assert runs.find_checkpoints(run.id) == stored
    tag = runs.get_run(run.id).data.tags["detreg.checkpoint"]
    assert json.loads(tag) == {
        "epoch": 3,
        "last": "checkpoints/1/last.pth",
        "best": "checkpoints/1/best.pth",
        "step": 0,
    }


def test_an_unknown_run_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="32 hexadecimal digits"):
        runs.get_run("latest")
    with pytest.raises(NotFoundError, match=f"no run {'f' * 32} in"):
        runs.get_run("f" * 32)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_says_what_to_set(store: str, status: int) -> None:
    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        mlflow.set_tracking_uri(f"http://me:canary@127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(UnreachableError) as caught:
                runs.get_run("0" * 32)
        finally:
            mlflow.set_tracking_uri(store)
            server.shutdown()

    message = str(caught.value)
    assert message.startswith("MLflow at http://me:***@127.0.0.1")
    assert "refuses the login" in message
    assert "MLFLOW_TRACKING_PASSWORD" in message
    assert "canary" not in message


def test_a_deleted_run_is_not_found() -> None:
    with runs.start_run(None, {}) as run:
        pass
    MlflowClient().delete_run(run.id)
    with pytest.raises(NotFoundError, match="is deleted: restore it"):
        runs.get_run(run.id)


@pytest.mark.parametrize(("failure", "status"), [("its worker died", "KILLED"), ("", "FINISHED")])
def test_a_run_whose_process_is_gone_can_be_ended(failure: str, status: str) -> None:
    left = create_run()
    runs.end_run(left, failure)
    ended = runs.get_run(left)
    assert ended.info.status == status
    assert ended.data.tags.get(runs.FAILURE, "") == failure

    runs.end_run(left, "too late")
    again = runs.get_run(left)
    assert again.info.status == status, "a run that has ended stays as it is"
    assert again.data.tags.get(runs.FAILURE, "") == failure


def test_runs_are_kept_in_the_store_in_use(store: str) -> None:
    assert runs.get_tracking_uri() == store == mlflow.get_tracking_uri()
    with pytest.raises(NotFoundError):
        runs.end_run(Run("0" * 32, Path()).id)

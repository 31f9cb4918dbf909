"""MLflow runs: the only place that writes to them.

A run works inside `mlflow run`, from the command line and from Python, with any tracking store. Its
id is the eid. Tags that start with `detreg.` are detreg's; `detreg.failure` holds the reason of a
run that did not finish. Passwords and tokens in what is logged are hidden.
"""

import json
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from detreg.data.dataset import Dataset
from detreg.errors import NotFoundError, describe_failure, summarize_error
from detreg.memory import translate_memory_errors
from detreg.mlflow_errors import retry_on_conflict, translate_mlflow_errors
from detreg.redaction import redact
from detreg.version import __version__

FAILURE = "detreg.failure"
TEMPLATE = "detreg.template"
DIGEST = "detreg.dataset_digest"
PARENT = "detreg.parent_eid"
START = "detreg.start"
WARNING = "detreg.warning"
VERSION = "detreg.version"
STUDY = "detreg.study"
TRIAL = "detreg.trial"
PRUNED = "detreg.pruned"
CHECKPOINT = "detreg.checkpoint"
"""Holds a StoredCheckpoints as JSON."""

# MLflow's limits.
MAX_TAG_LENGTH = 5000
MAX_METRICS_PER_REQUEST = 1000
MAX_RUNS_PER_REQUEST = 1000


@dataclass(frozen=True)
class StoredCheckpoints:
    """The two checkpoints of a run that are uploaded completely.

    `last` and `best` are the names of the artifacts; `epoch` is the last epoch that both know of.
    """

    epoch: int
    last: str
    best: str


@dataclass
class Run:
    """A handle on one MLflow run.

    `folder` is a local folder for its files, which is removed when the run ends.
    """

    id: str
    folder: Path
    _unsent: list[Metric] = field(default_factory=list)

    def log_params(self, texts: Mapping[str, str]) -> None:
        """Log the parameters that are not logged yet.

        `mlflow run` has logged its own ones before, and MLflow refuses a second value.
        """
        logged = _get_client().get_run(self.id).data.params
        params = [Param(name, redact(value)) for name, value in texts.items() if name not in logged]
        _get_client().log_batch(self.id, params=params)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics in one request. NaN and infinity are left out: MLflow reads NaN as 1.8e308.

        A tracking server that does not answer costs nothing but a line on stderr; the values are
        sent with the next call.
        """
        now = int(time.time() * 1000)
        for name, value in values.items():
            if math.isfinite(value):
                self._unsent.append(Metric(name, float(value), now, step))

        try:
            for first in range(0, len(self._unsent), MAX_METRICS_PER_REQUEST):
                batch = self._unsent[first : first + MAX_METRICS_PER_REQUEST]
                _get_client().log_batch(self.id, metrics=batch)
            # Only now: MLflow stores a metric once that is sent twice with the same timestamp.
            self._unsent.clear()
        except MlflowException as error:
            message = f"metrics wait for the tracking server: {summarize_error(error)}"
            print(message, file=sys.stderr, flush=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a value that is longer than MLflow takes is cut."""
        run_tags = [RunTag(name, redact(value)[:MAX_TAG_LENGTH]) for name, value in tags.items()]
        # A sweep may tag the run of a lost worker while that worker tags it too.
        retry_on_conflict(lambda: _get_client().log_batch(self.id, tags=run_tags))

    def tag_checkpoints(self, stored: StoredCheckpoints) -> None:
        """Record which checkpoints are complete, once both are uploaded."""
        self.set_tags({CHECKPOINT: json.dumps(asdict(stored))})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder's content, to the run's artifacts under `folder`."""
        if path.is_dir():
            _get_client().log_artifacts(self.id, str(path), folder)
        else:
            _get_client().log_artifact(self.id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Upload a text as the artifact `name`."""
        _get_client().log_text(self.id, redact(text), name)

    def log_dataset(self, dataset: Dataset) -> None:
        """Log a dataset as an input: its name and digest, and in its profile classes and counts."""
        counts = {}
        for name, split in dataset.splits.items():
            counts[name] = {"images": split.images, "boxes": split.boxes}
        profile = {"format": dataset.format, "splits": counts, "repairs": dict(dataset.repairs)}

        logged = LoggedDataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="local",
            source=json.dumps({"uri": str(dataset.folder)}),
            schema=json.dumps({"classes": dataset.classes}),
            profile=json.dumps(profile),
        )
        context = InputTag("mlflow.data.context", "training")
        dataset_input = DatasetInput(logged, [context])
        # The workers of a sweep log the same dataset at the same time.
        retry_on_conflict(lambda: _get_client().log_inputs(self.id, [dataset_input]))


@contextmanager
def start_run(
    name: str | None,
    tags: Mapping[str, str],
    *,
    run_id: str | None = None,
    parent: str | None = None,
) -> Iterator[Run]:
    """Start an MLflow run, or the one that `mlflow run` has made for this process.

    A new run is nested in the active one if there is one. `run_id` resumes an existing run;
    `parent` nests the new run in one of another process. The run ends as FINISHED, FAILED or
    KILLED, with the reason in a tag. Raises UnreachableError where the tracking store does not
    answer.
    """
    try:
        with (
            translate_mlflow_errors("MLflow does not find the run, its parent or its experiment"),
            translate_memory_errors(),
            tempfile.TemporaryDirectory(prefix="detreg-") as folder,
        ):
            nested = mlflow.active_run() is not None
            experiment = _get_client().get_run(parent).info.experiment_id if parent else None
            started = mlflow.start_run(
                run_id,
                experiment_id=experiment,
                run_name=name,
                nested=nested,
                parent_run_id=parent,
                log_system_metrics=run_id is None,  # several machines may work on one run
            )
            run = Run(started.info.run_id, Path(folder))
            run.set_tags({VERSION: __version__, **tags})

            yield run

            run.log_metrics({})
        mlflow.end_run("FINISHED")
    except BaseException as error:
        # The run is ended here, not by whoever started the process: `mlflow run` would end it as
        # FINISHED or FAILED, and nobody would say why.
        active = mlflow.active_run()
        if active is not None:
            _tag_failure(active.info.run_id, error)
        mlflow.end_run("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def tag_failure_before_start(error: BaseException) -> None:
    """Tag the run that `mlflow run` made for this process, if start_run has not taken it up yet."""
    # mlflow.start_run removes the variable, so it is set only before that.
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        _tag_failure(run_id, error)


def get_run(eid: str) -> MlflowRun:
    """Return the MLflow run of an eid.

    Raises NotFoundError for one that is unknown or deleted, UnreachableError without an answer.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", eid):
        raise NotFoundError(
            f"{eid!r} is not the id of an MLflow run (32 hexadecimal digits): "
            "copy it from the run's page or output"
        )
    with translate_mlflow_errors(
        f"no run {eid} in {get_tracking_uri()}: check the id and MLFLOW_TRACKING_URI"
    ):
        run = _get_client().get_run(eid)
    if run.info.lifecycle_stage == "deleted":
        raise NotFoundError(
            f"run {eid} is deleted: restore it (mlflow runs restore --run-id {eid}) or name another"
        )
    return run


def end_run(eid: str, failure: str = "") -> None:
    """End a run whose process is gone; one that has ended stays as it is.

    It ends as KILLED with `failure` as the reason, or as FINISHED without one.
    """
    if get_run(eid).info.status != "RUNNING":
        return
    if failure:
        Run(eid, Path()).set_tags({FAILURE: failure})
    _get_client().set_terminated(eid, "KILLED" if failure else "FINISHED")


def list_running_children(parent: str) -> list[MlflowRun]:
    """Return the runs nested in `parent`, a sweep's for example, whose status is RUNNING."""
    experiment = get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    return list(
        _get_client().search_runs([experiment], condition, max_results=MAX_RUNS_PER_REQUEST)
    )


def find_checkpoints(eid: str) -> StoredCheckpoints | None:
    """Return the checkpoints that a run has stored, or None. Raises as get_run."""
    tag = get_run(eid).data.tags.get(CHECKPOINT)
    if not tag:
        return None
    content = json.loads(tag)
    return StoredCheckpoints(content["epoch"], content["last"], content["best"])


def download_artifact(eid: str, artifact: str, folder: Path) -> Path:
    """Copy a run's artifact into a local folder, and return its path.

    Raises NotFoundError where the run has no artifact of that name.
    """
    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=eid, artifact_path=artifact, dst_path=str(folder)
        )
    except (MlflowException, OSError) as error:
        raise NotFoundError(
            f"run {eid} has no artifact {artifact} that can be read: {summarize_error(error)}"
        ) from error
    return Path(path)


def get_tracking_uri() -> str:
    """Return the URI of the tracking store in use, which may hold a password: hide it in texts."""
    return str(mlflow.get_tracking_uri())


def _get_client() -> MlflowClient:
    """Return a client of the tracking store in use, which may change while the process runs."""
    return MlflowClient()


def _tag_failure(run_id: str, error: BaseException) -> None:
    """Tag a run with why it failed; warn where the tracking store does not answer."""
    try:
        Run(run_id, Path()).set_tags({FAILURE: describe_failure(error)})
    except Exception as second:
        # The first error is the one to raise, so a second one is only a warning.
        warnings.warn(
            f"the reason could not be written to the run: {summarize_error(second)}",
            stacklevel=2,
        )

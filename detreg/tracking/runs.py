"""MLflow runs: the only place that writes to them.

A run works inside `mlflow run`, from the command line and from Python, with any tracking store. Its
id is the eid. Tags that start with `detreg.` are detreg's; `detreg.failure` holds the reason of a
run that did not finish. Passwords and tokens in what is logged are hidden.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from detreg.errors import NotFoundError, UndeliveredError, describe_failure, summarize_error
from detreg.memory import translate_memory_errors
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.signals import UrgentInterrupt
from detreg.tracking.active_run import begin_run
from detreg.tracking.leftovers import close_if_dead, settle_left_runs
from detreg.tracking.project_runs import Runner, keep_killed
from detreg.tracking.records import CHECKPOINT as CHECKPOINT
from detreg.tracking.records import DEATH, End
from detreg.tracking.records import FAILURE as FAILURE
from detreg.tracking.run import Run as Run
from detreg.tracking.run import StoredCheckpoints as StoredCheckpoints
from detreg.tracking.run import get_time
from detreg.tracking.sender import PATIENCE, Patience
from detreg.version import __version__

TEMPLATE = "detreg.template"
DIGEST = "detreg.dataset_digest"
MASKS_DIGEST = "detreg.masks_digest"
PARENT = "detreg.parent_eid"
START = "detreg.start"
WARNING = "detreg.warning"
LEFT_OUT = "detreg.left_out_images"
"""How many images of the dataset were left out (on_bad_image=skip)."""
MICRO_BATCH = "detreg.micro_batch"
"""Images of a forward pass, where the GPU had no memory for all of a step."""
VERSION = "detreg.version"
OPERATING_POINT = "detreg.operating_point"
"""At which score the model of the run is used, in a sentence."""
STUDY = "detreg.study"
TRIAL = "detreg.trial"
PRUNED = "detreg.pruned"

MAX_RUNS_PER_REQUEST = 1000
"""MLflow's limit."""


@contextmanager
def start_run(
    name: str | None,
    tags: Mapping[str, str],
    *,
    run_id: str | None = None,
    parent: str | None = None,
    must_be_delivered: bool = True,
) -> Iterator[Run]:
    """Start an MLflow run, or the one that `mlflow run` has made for this process.

    A new run is nested in the active one if there is one. `run_id` resumes an existing run;
    `parent` nests the new run in one of another process. The run ends as FINISHED, FAILED or
    KILLED, with the reason in a tag.

    Raises UnreachableError where the tracking store does not answer at the start, and
    UndeliveredError where it does not at the end, unless `must_be_delivered` is False.
    """
    all_tags = {VERSION: __version__, **tags}
    runner = Runner.find() if run_id is None else None
    active = begin_run(name, all_tags, run_id, parent)
    try:
        with (
            translate_mlflow_errors("MLflow does not find the run, its parent or its experiment"),
            translate_memory_errors(),
        ):
            yield active.run
    except UndeliveredError:
        # All is done, and what could not be registered is in the journal.
        active.end("FINISHED", Patience(0, 0))
        raise
    except BaseException as error:
        # The run is ended here, not by whoever started the process: `mlflow run` would end it as
        # FINISHED or FAILED, and nobody would say why.
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        patience = Patience(0, 0) if isinstance(error, UrgentInterrupt) else PATIENCE
        undelivered = active.end(status, patience, describe_failure(error))
        if undelivered:
            print(f"detreg: {undelivered}", file=sys.stderr, flush=True)
        elif status == "KILLED" and runner is not None:
            keep_killed(active.run.id, runner)
        raise

    undelivered = active.end("FINISHED", PATIENCE)
    if undelivered and must_be_delivered:
        raise UndeliveredError(undelivered)
    if undelivered:
        print(undelivered, file=sys.stderr, flush=True)


def settle_run(eid: str) -> None:
    """Complete a run whose process is gone: deliver what it has left here, and end it.

    Its last checkpoint, if it is newer than the uploaded one, is uploaded. A run whose process
    lives stays as it is. Raises as get_run.
    """
    for settlement in settle_left_runs(eid):
        if settlement.problem:
            message = f"run {eid} cannot be completed from {settlement.folder}"
            print(f"{message}: {settlement.problem}", file=sys.stderr, flush=True)
    with translate_mlflow_errors(f"run {eid} is gone"):
        close_if_dead(get_run(eid))


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

    It ends as KILLED with `failure` as the reason, or as FINISHED without one, also where it was
    closed because its process is gone.
    """
    found = get_run(eid)
    is_running = found.info.status == "RUNNING"
    was_closed_as_dead = found.data.tags.get(FAILURE, "").startswith(DEATH)
    run = Run(eid, Path())
    if failure and is_running:
        run.set_tags({FAILURE: failure})
        run.write(End("KILLED", get_time()))
    elif not failure and (is_running or was_closed_as_dead):
        run.write(End("FINISHED", get_time()))


def list_running_children(parent: str) -> list[MlflowRun]:
    """Return the runs nested in `parent`, a sweep's for example, whose status is RUNNING."""
    experiment = get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    return list(
        _get_client().search_runs([experiment], condition, max_results=MAX_RUNS_PER_REQUEST)
    )


def find_latest_run(parent: str, tags: Mapping[str, str]) -> MlflowRun | None:
    """Return the latest run with these tags in the experiment of `parent`, or None."""
    experiment = get_run(parent).info.experiment_id
    conditions = [f"tags.`{tag}` = '{value}'" for tag, value in tags.items()]
    found = _get_client().search_runs(
        [experiment],
        " and ".join(conditions),
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


def find_checkpoints(eid: str) -> StoredCheckpoints | None:
    """Return the checkpoints that a run has stored, or None. Raises as get_run."""
    tag = get_run(eid).data.tags.get(CHECKPOINT)
    if not tag:
        return None
    content = json.loads(tag)
    step = content.get("step", 0)  # runs of detreg 0.1 have none
    return StoredCheckpoints(content["epoch"], content["last"], content["best"], step)


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

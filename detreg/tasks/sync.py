"""Delivers what runs of this cache have written while MLflow was away."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient

from detreg.inference.model_files import MODEL_NAME
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.promotion import make_promotion
from detreg.serving.packaging import log_model
from detreg.tracking import runs
from detreg.tracking.leftovers import Settlement, close_dead_runs, settle_left_runs
from detreg.tracking.records import Registration, Target
from detreg.tracking.registered_model import add_descriptions
from detreg.tracking.registry import register
from detreg.tracking.run_folders import list_run_folders


@dataclass(frozen=True)
class SyncReport:
    """What became of each run, a line for each; whether something is still not delivered."""

    lines: tuple[str, ...]
    has_problems: bool


def sync_runs(run_id: str | None = None) -> SyncReport:
    """Deliver the journals of all runs of this cache, or of one, and close dead runs.

    To call it again is harmless. Raises NotFoundError where the cache has nothing of that run, and
    MLflow neither.
    """
    waiting = list_run_folders(run_id)
    settlements = settle_left_runs(run_id, _log_and_register, of_any_store=True)
    lines = [_describe(settlement) for settlement in settlements]
    has_problems = any(settlement.problem for settlement in settlements)

    settled = {settlement.folder for settlement in settlements}
    for folder in waiting:
        if folder not in settled and folder.is_dir():
            lines.append(f"run {folder.name} is being written: its process delivers it")

    if run_id is not None and not waiting:
        state = runs.get_run(run_id).info.status
        lines.append(f"run {run_id}: nothing waits in this cache; MLflow shows it as {state}")
    if run_id is None:
        lines += _close_dead_runs()
    return SyncReport(tuple(lines or ["nothing waits in this cache"]), has_problems)


def _describe(settlement: Settlement) -> str:
    if settlement.problem:
        place = f"it is kept in {settlement.folder}"
        return f"run {settlement.run_id} is not delivered: {settlement.problem}; {place}"
    return f"run {settlement.run_id} is delivered"


def _close_dead_runs() -> list[str]:
    """Close the dead runs of all experiments; return a line for each."""
    with translate_mlflow_errors("the tracking store has no experiments"):
        experiments = [found.experiment_id for found in MlflowClient().search_experiments()]
        closed = close_dead_runs(experiments)
    return [f"run {run_id} is closed as KILLED: its process is gone" for run_id in closed]


def _log_and_register(target: Target, registration: Registration) -> None:
    """Register the model of a run, unless that has been done before."""
    with _use_store(target.client.tracking_uri):
        version = register(
            registration.name,
            _find_logged_model(target) or _log_model(target, registration),
            target.run_id,
            score=math.nan if registration.score is None else registration.score,
            dataset_digest=registration.dataset_digest,
            tags=registration.tags,
            promotion=make_promotion(target.run_id, target.folder, registration),
        )
        with translate_mlflow_errors(f"{version.name} is gone"):
            add_descriptions(version.name, version.version, registration)
    print(f"registered {version.name} version {version.version} as {version.alias}", flush=True)


def _find_logged_model(target: Target) -> str | None:
    """Return the URI of the run's model, where it was logged before the server went away."""
    experiment = target.client.get_run(target.run_id).info.experiment_id
    found = target.client.search_logged_models(
        [experiment], filter_string=f"source_run_id = '{target.run_id}'"
    )
    for model in found:
        if model.name == MODEL_NAME and str(model.status) == "READY":
            return str(model.model_uri)
    return None


def _log_model(target: Target, registration: Registration) -> str:
    # The record after this one ends the run again, with its own status and time.
    with mlflow.start_run(target.run_id, log_system_metrics=False):
        return str(log_model(target.folder / registration.path).model_uri)


@contextmanager
def _use_store(uri: str) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)

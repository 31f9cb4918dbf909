"""The trainings of a template that have ended well, with what they trained on and how they scored.

A run counts where it trained all its epochs from the initial weights that its hyperparameters
name: neither pruned, nor continued from another run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import Run as MlflowRun

from detreg.data.traits import DatasetTraits
from detreg.defaults import PUBLISHED
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.tracking import runs

MAX_PAST_RUNS = 1000
"""How many runs are looked at, the latest first."""


@dataclass(frozen=True)
class PastRun:
    """A training that has ended.

    texts: its hyperparameters and options by name, with a number where `auto` was given.
    mAP: on the val split, from 0 to 1.
    """

    eid: str
    dataset_name: str
    dataset_digest: str
    traits: DatasetTraits
    texts: Mapping[str, str]
    mAP: float


def list_past_runs(template: str) -> list[PastRun]:
    """Return the latest trainings of a template in all experiments, the latest first.

    Raises UnreachableError where the tracking store does not answer.
    """
    condition = f"tags.`{runs.TEMPLATE}` = '{template}' and attributes.status = 'FINISHED'"
    client = MlflowClient()
    with translate_mlflow_errors("MLflow does not find its experiments"):
        experiments = [found.experiment_id for found in client.search_experiments()]
        found_runs = client.search_runs(
            experiments, condition, max_results=MAX_PAST_RUNS, order_by=["start_time DESC"]
        )
    past_runs = [_read_run(run) for run in found_runs]
    return [run for run in past_runs if run is not None]


def find_dataset_origin(eid: str) -> str | None:
    """Return what the user gave as `data` to a run, None where the run has logged none.

    Raises NotFoundError for a run that is unknown, UnreachableError without an answer.
    """
    dataset = _find_dataset(runs.get_run(eid))
    if dataset is None:
        return None
    try:
        origin = json.loads(dataset.source)["uri"]
    except (KeyError, TypeError, ValueError):  # what another tool has logged
        return None
    return origin if isinstance(origin, str) else None


def _read_run(run: MlflowRun) -> PastRun | None:
    """Return what a run has trained, or None where it does not count or lacks something."""
    tags, metrics = run.data.tags, run.data.metrics
    is_trial = runs.TRIAL in tags
    # The run of a sweep has the tags of its trials. A trial that was resumed is whole.
    is_sweep = runs.STUDY in tags and not is_trial
    is_continued = runs.PARENT in tags and not is_trial
    if is_sweep or is_continued or runs.PRUNED in tags:
        return None

    mAP = metrics.get("val/mAP_best", metrics.get("mAP"))
    dataset = _find_dataset(run)
    traits = None if dataset is None else _read_traits(dataset)
    if mAP is None or dataset is None or traits is None:
        return None

    # Runs that did not log this yet were trained as published.
    texts = {"recipe": PUBLISHED} | run.data.params
    for name, text in run.data.params.items():
        if name.endswith(".resolved"):
            texts[name.removesuffix(".resolved")] = text
    return PastRun(run.info.run_id, dataset.name, dataset.digest, traits, texts, mAP)


def _find_dataset(run: MlflowRun) -> LoggedDataset | None:
    """Return the dataset that a run has logged as what it trained on."""
    if run.inputs is None:
        return None
    for entry in run.inputs.dataset_inputs:
        for tag in entry.tags:
            if tag.key == "mlflow.data.context" and tag.value == "training":
                return entry.dataset
    return None


def _read_traits(dataset: LoggedDataset) -> DatasetTraits | None:
    """Return the traits in a dataset's profile; runs of detreg 0.1 and other tools have none."""
    try:
        profile = json.loads(dataset.profile or "{}")
        return DatasetTraits.from_json(profile["traits"])
    except (KeyError, TypeError, ValueError):
        return None

"""Which experiment of MLflow a run goes to: that of its dataset, unless another one is chosen."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME
from mlflow.exceptions import MlflowException
from mlflow.tracking import fluent
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from detreg.data.dataset import Dataset
from detreg.errors import NotFoundError
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.model_names import simplify_name
from detreg.tracking.markdown import quote_code


@contextmanager
def use_dataset_experiment(dataset: Dataset) -> Iterator[None]:
    """Let the runs that start in the block go to the experiment with the name of a dataset.

    It is created where there is none. Nothing is done where the user has chosen another one.
    Raises NotFoundError where the experiment is deleted, and UnreachableError.
    """
    name = simplify_name(dataset.name)
    if not name or _is_chosen():
        yield
        return

    # In the environment and not by mlflow.set_experiment, which nothing takes back: a program that
    # trains with detreg may have runs of its own.
    os.environ[MLFLOW_EXPERIMENT_ID.name] = _find_or_create(name, dataset)
    try:
        yield
    finally:
        os.environ.pop(MLFLOW_EXPERIMENT_ID.name, None)


def _is_chosen() -> bool:
    """Whether the next run has an experiment, by the environment, the program or `mlflow run`."""
    if MLFLOW_EXPERIMENT_ID.get() or MLFLOW_EXPERIMENT_NAME.get() or "MLFLOW_RUN_ID" in os.environ:
        return True
    # Names in Databricks are paths in its workspace.
    is_on_databricks = mlflow.get_tracking_uri().startswith("databricks")
    has_active = fluent._active_experiment_id is not None or mlflow.active_run() is not None
    return is_on_databricks or has_active


def _find_or_create(name: str, dataset: Dataset) -> str:
    client = MlflowClient()
    with translate_mlflow_errors(f"the experiment {name} is gone"):
        found = client.get_experiment_by_name(name)
        if found is None:
            _create(name, dataset)
            found = client.get_experiment_by_name(name)
        assert found is not None
    if found.lifecycle_stage == "deleted":
        raise NotFoundError(
            f"experiment {name} is deleted: restore it "
            f"(mlflow experiments restore -x {found.experiment_id}), or name another in "
            "MLFLOW_EXPERIMENT_NAME"
        )
    return found.experiment_id


def _create(name: str, dataset: Dataset) -> None:
    """Create the experiment, unless another process is faster."""
    note = f"Trained by detreg on the dataset {quote_code(dataset.origin)}"
    try:
        MlflowClient().create_experiment(name, tags={MLFLOW_RUN_NOTE: note})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

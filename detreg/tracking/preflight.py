"""Refuses a training that could not be logged or registered at its end, before it begins."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from sqlalchemy.exc import SQLAlchemyError

from detreg.disk_space import check_folders
from detreg.errors import DiskError, NotFoundError, UnreachableError, summarize_error
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.mlflow_stores import SQLITE_SCHEME, create_missing_stores
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking.registered_model import has_model
from detreg.tracking.run_folders import resolve_runs_folder

# Up to five checkpoints lie in a run's folder: two that are being uploaded, two
# newer ones, and one that is written whole before it replaces one of them. Uploads go to two
# artifact folders in turn.
CHECKPOINTS_IN_RUN_FOLDER = 5
CHECKPOINTS_IN_ARTIFACTS = 4

BYTES_PER_VALUE = 4
SQLITE_LOCK_TIMEOUT = 120.0
"""Seconds for which another process may be writing to a SQLite database."""
MLFLOW_TABLE = "alembic_version"


def check_stores(model_names: Iterable[str] = ()) -> None:
    """Refuse what could not be logged or registered under these names.

    The databases are created where they are SQLite files that are missing. Raises DiskError,
    UnreachableError, and NotFoundError for an experiment.
    """
    tracking_uri, registry_uri = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        create_missing_stores()
    except (OSError, SQLAlchemyError, MlflowException) as error:
        raise DiskError(
            f"MLflow's database at {tracking_uri} cannot be created ({summarize_error(error)}): "
            "go to a folder that can be written, or set MLFLOW_TRACKING_URI"
        ) from error

    for uri in {tracking_uri, registry_uri}:
        if uri.startswith(SQLITE_SCHEME):
            _check_sqlite_write(uri)

    try:
        with translate_mlflow_errors("MLFLOW_EXPERIMENT_ID names no experiment of MLflow"):
            _check_experiment()
            for name in model_names:
                has_model(name)
    except MlflowException as error:
        # A login that is refused, a database of another release, a store that MLflow has given up.
        raise UnreachableError(
            f"MLflow at {tracking_uri} cannot be used: {summarize_error(error)}"
        ) from error


def check_disks(template: Template, params: CommonParams, trainings: int = 1) -> None:
    """Raise DiskError unless the disks take the checkpoints of so many trainings at once.

    They are those of the runs' folders in the cache, and of the experiment's artifacts where these
    are local. A little is written into the temporary folder.
    """
    checkpoint = estimate_checkpoint(template, params)
    needed = {
        resolve_runs_folder(): trainings * CHECKPOINTS_IN_RUN_FOLDER * checkpoint,
        Path(tempfile.gettempdir()): 0,
    }
    artifacts = find_local_artifacts()
    if artifacts is not None:
        needed[artifacts] = trainings * CHECKPOINTS_IN_ARTIFACTS * checkpoint
    check_folders(needed)


def estimate_checkpoint(template: Template, params: CommonParams) -> int:
    """Return about how many bytes a checkpoint has: weights, momentum and averaged weights."""
    base_model = template.get_base_model(params)
    values = base_model.parameters * 1_000_000
    copies = 2 if base_model.recipe.ema_momentum is None else 3
    return int(values * copies * BYTES_PER_VALUE)


def find_local_artifacts() -> Path | None:
    """Return the folder of the experiment's artifacts; None where they are not on this machine."""
    location = _get_experiment().artifact_location
    return Path(local_file_uri_to_path(location)) if is_local_uri(location) else None


def _check_sqlite_write(uri: str) -> None:
    """Raise DiskError unless the database takes a write, which is rolled back."""
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": SQLITE_LOCK_TIMEOUT})
    try:
        # What is no database of MLflow, it refuses itself, with a better message.
        if sqlalchemy.inspect(engine).has_table(MLFLOW_TABLE):
            with engine.connect() as connection:
                probe_database(connection)
    except SQLAlchemyError as error:
        reason = summarize_error(error.__cause__ or error)
        raise DiskError(
            f"MLflow's database {uri} cannot be written ({reason}): make the file and its folder "
            "writable, or set MLFLOW_TRACKING_URI to another one"
        ) from error
    finally:
        engine.dispose()


def probe_database(connection: sqlalchemy.Connection) -> None:
    """Change a row of a table that every database of MLflow has, and roll that back."""
    statement = f"UPDATE {MLFLOW_TABLE} SET version_num = version_num"
    connection.execute(sqlalchemy.text(statement))
    connection.rollback()


def _get_experiment() -> Experiment:
    """Return the experiment of the next run: MLflow's default where none is chosen."""
    return MlflowClient().get_experiment(_get_experiment_id() or "0")


def _check_experiment() -> None:
    experiment = _get_experiment()
    if experiment.lifecycle_stage == "deleted":
        raise NotFoundError(
            f"experiment {experiment.name} is deleted: restore it "
            f"(mlflow experiments restore -x {experiment.experiment_id}) or name another"
        )

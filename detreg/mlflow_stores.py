"""The SQLite files of MLflow's tracking store and registry.

MLflow creates and migrates a database when it is first used, and two processes that do so at once
in the same file both die. So detreg creates it before.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy

from detreg.environment import resolve_cache_folder, set_mlflow_defaults
from detreg.sqlite_files import create_sqlite_file, find_sqlite_file

set_mlflow_defaults()  # MLflow reads some of them when it is imported

import mlflow  # noqa: E402
from mlflow.store.db.utils import _initialize_tables  # noqa: E402
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402

SQLITE_SCHEME = "sqlite:"


def create_missing_stores() -> None:
    """Create the databases in use that are SQLite files and not there.

    Any number of processes may call this at once. Raises OSError.
    """
    for uri in {mlflow.get_tracking_uri(), mlflow.get_registry_uri()}:
        path = find_sqlite_file(uri) if uri.startswith(SQLITE_SCHEME) else None
        if path is not None:
            create_sqlite_file(path, _create_tables)


def _create_tables(url: str) -> None:
    """Create the tables and the default experiment, as MLflow does at its first request.

    Raises OSError.
    """
    path = find_sqlite_file(url)
    assert path is not None  # whoever asks for the tables has looked

    kept = resolve_cache_folder() / f"mlflow-{mlflow.__version__}.db"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        create_sqlite_file(kept, _create_empty_tables)
        _copy_database(kept, path)
    # A cache that is full or read-only, or a file in it that is damaged.
    except (OSError, sqlite3.Error):
        path.unlink(missing_ok=True)
        _create_empty_tables(url)

    store = SqlAlchemyStore(url, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database that nobody writes to. Raises OSError, and sqlite3.Error if it is damaged."""
    with closing(sqlite3.connect(source)) as file:
        problems = [problem for (problem,) in file.execute("PRAGMA quick_check")]
    if problems != ["ok"]:
        raise sqlite3.DatabaseError(problems[0])
    shutil.copyfile(source, target)


def _create_empty_tables(url: str) -> None:
    """Create all tables of MLflow in an empty database.

    MLflow makes them in a hundred changes, from release to release. In a file SQLite waits for the
    disk after each of them, for seconds in all: here they are made in memory. Raises OSError.
    """
    path = find_sqlite_file(url)
    assert path is not None  # as above
    engine = sqlalchemy.create_engine("sqlite://")
    _initialize_tables(engine)
    try:
        with engine.connect() as connection, closing(sqlite3.connect(path)) as file:
            in_memory = connection.connection.driver_connection
            assert isinstance(in_memory, sqlite3.Connection)
            in_memory.backup(file)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    engine.dispose()

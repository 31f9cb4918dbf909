"""Databases that are created by several at once, each held just before it would create them."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.store.db import utils

from detreg import mlflow_stores, sqlite_files
from detreg.errors import DiskError
from detreg.mlflow_stores import create_missing_stores
from detreg.sqlite_files import create_sqlite_file, find_sqlite_file
from detreg.sweeps.storage import open_storage
from detreg.tracking.preflight import check_stores

COUNT = 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[object]]:
    """Return a function that runs another in several threads.

    All threads find that the database is missing before any of them goes on.
    """
    barrier = threading.Barrier(COUNT)
    local = threading.local()
    has_content = sqlite_files._has_content

    def look_and_wait(path: Path) -> bool:
        found = has_content(path)
        if not hasattr(local, "has_looked"):
            local.has_looked = True
            barrier.wait()
        return found

    monkeypatch.setattr(sqlite_files, "_has_content", look_and_wait)

    def run(action: Callable[[], object]) -> list[object]:
        with ThreadPoolExecutor(COUNT) as pool:
            futures = [pool.submit(action) for _ in range(COUNT)]
            return [future.result() for future in futures]

    return run


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use MLflow's default store of an empty folder, and return the folder."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield tmp_path
    mlflow.set_tracking_uri(before)


def write_tables(url: str) -> None:
    Path(url.removeprefix("sqlite:///")).write_text("tables")


def test_one_creates_the_database_and_the_others_wait(
    tmp_path: Path, at_once: Callable[[Callable[[], object]], list[object]]
) -> None:
    created: list[str] = []

    def create_tables(url: str) -> None:
        created.append(url)
        write_tables(url)

    at_once(lambda: create_sqlite_file(tmp_path / "new.db", create_tables))
    assert len(created) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new.db"]


def test_what_is_interrupted_leaves_no_half_made_database(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    def create_half(url: str) -> None:
        Path(url.removeprefix("sqlite:///")).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_sqlite_file(path, create_half)
    assert not path.exists()

    path.touch()  # opening a database leaves an empty file
    create_sqlite_file(path, write_tables)
    assert path.read_text() == "tables"


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        create_sqlite_file(tmp_path / "missing" / "new.db", write_tables)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////data/a b.db", Path("/data/a b.db")),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:a.db?mode=ro&uri=true", None),
        ("sqlite://", None),
        ("postgresql://host/database", None),
    ],
)
def test_the_file_of_a_url(url: str, path: Path | None) -> None:
    assert find_sqlite_file(url) == path


def test_several_create_mlflows_default_store_at_once(
    empty_store: Path, at_once: Callable[[Callable[[], object]], list[object]]
) -> None:
    at_once(create_missing_stores)
    (experiment,) = MlflowClient().search_experiments()
    assert experiment.artifact_location == str(empty_store / "mlruns" / "0")
    assert [path.name for path in empty_store.iterdir()] == ["mlflow.db"]


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache, and return its folder."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DETREG_CACHE", str(cache))
    return cache


def test_mlflows_tables_are_made_once_and_in_memory(
    empty_store: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[str] = []
    make_tables = utils._initialize_tables

    def count(engine: sqlalchemy.Engine) -> None:
        made_in.append(str(engine.url))
        make_tables(engine)

    monkeypatch.setattr(mlflow_stores, "_initialize_tables", count)
    monkeypatch.setattr(utils, "_initialize_tables", count)
    create_missing_stores()
    (empty_store / "mlflow.db").unlink()
    create_missing_stores()
    assert made_in == ["sqlite://"]
    assert [path.name for path in own_cache.iterdir()] == [f"mlflow-{mlflow.__version__}.db"]


def test_damaged_tables_in_the_cache_are_not_used(empty_store: Path, own_cache: Path) -> None:
    (own_cache / f"mlflow-{mlflow.__version__}.db").write_bytes(b"damaged" * 1000)
    create_missing_stores()
    (experiment,) = MlflowClient().search_experiments()
    assert experiment.artifact_location == str(empty_store / "mlruns" / "0")


@pytest.mark.usefixtures("own_cache")
def test_a_disk_that_takes_no_tables_is_told(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", fail)  # SQLAlchemy has its own name for it
    with pytest.raises(DiskError, match=r"disk is full.*MLFLOW_TRACKING_URI"):
        check_stores()
    assert not (empty_store / "mlflow.db").exists()


def test_several_create_optunas_database_at_once(
    tmp_path: Path, at_once: Callable[[Callable[[], object]], list[object]]
) -> None:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    assert at_once(lambda: open_storage(url, 30).get_all_studies()) == [[]] * COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["sweeps.db"]


PROCESS = """
import pathlib, sys, time
from mlflow import MlflowClient
from mlflow.store.db import utils
from detreg import sqlite_files
from detreg.mlflow_stores import create_missing_stores

has_content = sqlite_files._has_content
def look_and_wait(path):
    found = has_content(path)
    sqlite_files._has_content = has_content
    pathlib.Path(sys.argv[1]).touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return found

sqlite_files._has_content = look_and_wait
create_missing_stores()
print(len(MlflowClient().search_experiments()))
"""


@pytest.mark.soak
def test_three_processes_create_mlflows_default_store_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(mlflow_stores.__file__).parents[1])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, f"ready-{number}"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(COUNT)
        ]
        while len(list(folder.glob("ready-*"))) < COUNT:
            assert all(process.poll() is None for process in processes)
        (folder / "go").touch()
        assert [process.communicate()[0] for process in processes] == ["1\n"] * COUNT

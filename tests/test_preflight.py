"""What would fail at the end of a training is refused before it begins."""

import errno
import os
import shutil
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import TINY
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

from detreg import cli, pipeline
from detreg.disk_space import check_folders, check_output_file
from detreg.errors import DetregError, DiskError, NotFoundError, UnreachableError, UsageError
from detreg.model_names import find_name_problem
from detreg.sweeps.request import make_request
from detreg.sweeps.sweep import run_sweep
from detreg.templates import TEMPLATES
from detreg.tracking import preflight
from detreg.tracking.preflight import check_disks, check_stores, estimate_checkpoint

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def in_store(store: str) -> Iterator[str]:
    """Use the module's store, and put it back afterwards."""
    yield store
    mlflow.set_tracking_uri(store)


@pytest.fixture
def count_runs(in_store: str) -> Callable[[], int]:
    experiment = MlflowClient(in_store).get_experiment_by_name("tests")
    assert experiment is not None
    return lambda: len(MlflowClient(in_store).search_runs([experiment.experiment_id]))


def set_free_space(patch: pytest.MonkeyPatch, free: int) -> None:
    patch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))


def refuse_writes(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a folder and what is in it refuse writes, as a disk that is mounted read-only."""
    temporary_file = tempfile.TemporaryFile

    def write(dir: Path) -> Any:
        if dir.is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return temporary_file(dir=dir)

    patch.setattr(tempfile, "TemporaryFile", write)


@pytest.mark.parametrize("name", ["yolox", "boats 2", "bob's boats", "x" * 256])
def test_names_that_mlflow_takes(name: str) -> None:
    assert find_name_problem(name) is None


def test_an_empty_name_is_refused() -> None:
    assert "must not be empty" in str(find_name_problem(" "))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a/b", "nor contain '/', ':' or '@', got 'a/b'"),
        ("a:b", "nor contain"),
        ("a@b", "nor contain"),
        ("..", "relative path"),
        ("x" * 257, "at most 256 characters"),
        ("'\"", "quotes of both kinds"),
    ],
)
def test_a_name_is_refused_with_all_other_problems(name: str, rule: str) -> None:
    values = {"registered_model_name": name, "num_epochs": 0}
    with pytest.raises(UsageError) as caught:
        pipeline.parse_settings(TEMPLATES["yolox"], values)
    assert len(caught.value.problems) == 2
    assert rule in caught.value.problems[1]

    with pytest.raises(UsageError, match="registered_model_name"):
        make_request((TEMPLATES["yolox"],), {"registered_model_name": name})


def test_a_disk_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_space(monkeypatch, 10_000_000)
    here, there = Path.cwd(), Path.cwd() / "not" / "there"
    check_folders({here: 4_000_000, there: 6_000_000})
    with pytest.raises(DiskError) as caught:
        check_folders({here: 4_000_000, there: 6_000_001})
    message = f"the disk of {here}, {there} has 10 MB free, but about 10 MB are needed: free some"
    assert message in caught.value.problems[0]


def test_a_folder_that_refuses_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folders({tmp_path: 0})
    refuse_writes(monkeypatch, tmp_path)
    with pytest.raises(DiskError, match=r"new cannot be written \(Read-only file system\): make"):
        check_folders({tmp_path / "new": 0})


def test_an_output_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_file(tmp_path / "new" / "model.onnx")
    with pytest.raises(UsageError, match="is a folder: name a file in it"):
        check_output_file(tmp_path)
    refuse_writes(monkeypatch, tmp_path)
    with pytest.raises(DiskError, match="cannot be written"):
        check_output_file(tmp_path / "model.onnx")


@pytest.mark.parametrize("words", [["export", "yolox"], ["export", "boats.onnx"]])
def test_export_refuses_its_output_before_anything_is_loaded(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "detreg.tasks.export_checkpoint", None)
    monkeypatch.setitem(sys.modules, "detreg.tasks.copy_model", None)
    assert cli.run([*words, "--out", str(tmp_path)]) == 2
    refuse_writes(monkeypatch, tmp_path)
    assert cli.run([*words, "--out", str(tmp_path / "model.onnx")]) == 74


def test_a_checkpoint_holds_weights_momentum_and_average() -> None:
    yolox, ssd = TEMPLATES["yolox"], TEMPLATES["ssd"]
    nano = yolox.base_models["yolox_nano"].parameters * 1e6
    lite = ssd.base_models["ssdlite_mobilenetv2"].parameters * 1e6
    assert estimate_checkpoint(yolox, yolox.params(base_model="yolox_nano")) == int(nano * 12)
    assert estimate_checkpoint(ssd, ssd.params()) == int(lite * 8)


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    set_free_space(patch, 1_000_000)


def stop_server(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")


def stop_registry(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    patch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")


def make_database_read_only(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("attempt to write a readonly database"))

    patch.setattr(preflight, "probe_database", fail)


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (fill_disk, DiskError, "has 1 MB free, but about"),
        (stop_server, UnreachableError, r"127\.0\.0\.1"),
        (stop_registry, UnreachableError, r"127\.0\.0\.1"),
        (make_database_read_only, DiskError, r"cannot be written \(.*readonly database\)"),
    ],
)
def test_a_training_is_refused_before_its_run_and_before_torch(
    tiny: Path,
    count_runs: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    error: type[DetregError],
    message: str,
) -> None:
    before = count_runs()
    monkeypatch.setitem(sys.modules, "detreg.training_run", None)  # what imports torch
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(error, match=message):
            pipeline.train("yolox", data=str(tiny), **TINY)
    assert count_runs() == before


def test_a_training_says_which_images_it_leaves_out(
    tiny: Path,
    tmp_path: Path,
    in_store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    image = min(broken.rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:100])
    values = {"data": str(broken), "on_bad_image": "skip", **TINY}

    # Both end after the data was accepted, and before torch is imported.
    set_free_space(monkeypatch, 0)
    with pytest.raises(DiskError):
        pipeline.train("yolox", **values)
    with pytest.raises(DiskError):
        run_sweep(make_request((TEMPLATES["yolox"],), values))
    assert capsys.readouterr().out.count(f"left out: {image.relative_to(broken)} (in ") == 2


def test_local_artifacts_are_checked(
    in_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = TEMPLATES["yolox"]
    check_disks(template, template.params())
    artifacts = preflight.find_local_artifacts()
    assert artifacts is not None
    refuse_writes(monkeypatch, artifacts.parent)
    with pytest.raises(DiskError, match="artifacts cannot be written"):
        check_disks(template, template.params())


def test_a_real_database_that_is_read_only_is_refused(in_store: str) -> None:
    file = in_store.removeprefix("sqlite:///")
    check_stores(["new"])
    mlflow.set_tracking_uri(f"sqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(DiskError, match="readonly database"):
        check_stores()


def test_a_deleted_experiment_is_refused(in_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient()
    experiment = client.create_experiment("deleted")
    client.delete_experiment(experiment)
    monkeypatch.setattr(preflight, "_get_experiment_id", lambda: experiment)
    with pytest.raises(NotFoundError, match="mlflow experiments restore"):
        check_stores()
    monkeypatch.setattr(preflight, "_get_experiment_id", lambda: "999")
    with pytest.raises(NotFoundError, match="names no experiment"):
        check_stores()

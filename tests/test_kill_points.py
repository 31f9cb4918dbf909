"""A training that is killed or interrupted at any named point is continued bit for bit.

All points, with and without processes that load images: some minutes, so CI leaves it out. It
prints a table: `make soak`, or `pytest -m soak -s tests/test_kill_points.py`.
"""

import hashlib
import json
import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import TINY
from faulty_training import SIGNALS, IntoStop, Point, train_with_fault
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from detreg.tracking import runs
from detreg.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.soak

VALUES = TINY | {
    "num_epochs": 3,
    "min_samples_per_epoch": 20,  # five steps
    "random_resize_upper": 96,
    "per_item_lrate": 1e-6,
}
BEFORE_CHECKPOINT = (Point.RUN_STARTED, Point.JOB_LOGGED, Point.FIRST_STEP)


@dataclass(frozen=True)
class Case:
    """What happens to a training: a signal, or SIGKILL without a number, at a point."""

    point: Point | IntoStop
    workers: int
    number: int | None = None

    def __str__(self) -> str:
        name = signal.Signals(self.number).name if self.number else "SIGKILL"
        return f"{name} {self.point}, {self.workers} workers"

    @property
    def leaves_nothing(self) -> bool:
        return self.number is None and self.point in BEFORE_CHECKPOINT


KILLS = [Case(point, workers) for point in [*Point, *IntoStop] for workers in (0, 2)]
INTERRUPTIONS = [
    *(Case(Point.WITHIN_EPOCH, workers, number) for workers in (0, 2) for number in SIGNALS),
    Case(Point.FIRST_STEP, 2, signal.SIGINT),
    Case(Point.LAST_STEP, 0, signal.SIGTERM),
    Case(Point.IN_SCORING, 2, signal.SIGHUP),
    Case(Point.BEFORE_UPLOAD, 0, signal.SIGINT),
    Case(Point.TRAINED, 2, signal.SIGTERM),
    Case(Point.COMPARED, 0, signal.SIGINT),
]


@dataclass(frozen=True)
class Outcome:
    """What a training leaves, by which two are compared."""

    tensors: str
    metrics: dict[tuple[str, int], frozenset[float]]


class Trainer:
    """Trains in processes that are forked from one that has imported everything."""

    def __init__(self, store: str, data: Path, weights: Path, folder: Path) -> None:
        self.store = store
        self.data = data
        self.weights = weights
        self.folder = folder
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["faulty_training"])

    def train(self, case: Case | None, workers: int, name: str, eid: str = "") -> int:
        """Train to the end, or to the case's fault; return the exit code, negative for a kill."""
        experiment = MlflowClient().get_experiment_by_name(name)
        assert experiment is not None
        values = VALUES | {
            "data": self.data,
            "num_workers": workers,
            "registered_model_name": name,
        }
        values |= {"continue_from_eid": eid} if eid else {"load_from": self.weights}
        words = ["train", "yolox", "--json"]
        for key, value in values.items():
            words += [f"--{key}", str(value)]

        point, number = (case.point, case.number) if case else (None, None)
        environment = {
            "MLFLOW_TRACKING_URI": self.store,
            "MLFLOW_EXPERIMENT_ID": experiment.experiment_id,
            "OMP_NUM_THREADS": "1",
        }
        arguments = (words, point, number, environment, self.log_of(name))
        process = self.context.Process(target=train_with_fault, args=arguments)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@pytest.fixture(scope="module")
def trainer(
    store: str, tiny: Path, dense_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trainer]:
    folder = tmp_path_factory.mktemp("logs")
    before = os.environ.get("PYTHONPATH", "")
    tests = Path(__file__).parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent), before])
    yield Trainer(store, tiny, dense_checkpoint, folder)
    os.environ["PYTHONPATH"] = before


def make_experiment(name: str, folder: Path) -> None:
    mlflow.create_experiment(name, artifact_location=(folder / name).as_uri())


def list_runs(name: str) -> list[MlflowRun]:
    """Return the runs of an experiment, oldest first."""
    experiment = MlflowClient().get_experiment_by_name(name)
    assert experiment is not None
    found = MlflowClient().search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time ASC"]
    )
    return list(found)


def describe(name: str, folder: Path) -> Outcome:
    """Hash the tensors of the last run's checkpoints, and collect the metrics of all runs."""
    found = list_runs(name)
    eid = found[-1].info.run_id
    stored = runs.find_checkpoints(eid)
    assert stored is not None

    hasher = hashlib.sha256()
    for artifact in (stored.last, stored.best):
        path = runs.download_artifact(eid, artifact, folder / eid)
        checkpoint = load_checkpoint(path)
        hasher.update(json.dumps([entry.to_row() for entry in checkpoint.history]).encode())
        add_tensors(hasher, [checkpoint.state_dict, checkpoint.training])

    values: dict[tuple[str, int], set[float]] = defaultdict(set)
    for run in found:
        for key in run.data.metrics:
            if key.startswith("system/"):
                continue
            for entry in MlflowClient().get_metric_history(run.info.run_id, key):
                values[key, entry.step].add(entry.value)
    metrics = {place: frozenset(found) for place, found in values.items()}
    return Outcome(hasher.hexdigest(), metrics)


def add_tensors(hasher: Any, content: Any) -> None:
    """Add everything in nested lists and dicts to a hash, tensors by their bytes."""
    if isinstance(content, dict):
        for key, value in content.items():
            hasher.update(str(key).encode())
            add_tensors(hasher, value)
    elif isinstance(content, list | tuple):
        for value in content:
            add_tensors(hasher, value)
    elif hasattr(content, "numpy"):
        hasher.update(content.numpy().tobytes())
    else:
        hasher.update(repr(content).encode())


@pytest.fixture(scope="module")
def expected(trainer: Trainer) -> Outcome:
    """Train without a fault; with it, the processes that load images make no difference."""
    make_experiment("whole", trainer.folder)
    assert trainer.train(None, 0, "whole") == 0, trainer.log_of("whole").read_text()
    return describe("whole", trainer.folder)


@pytest.mark.parametrize("case", KILLS + INTERRUPTIONS, ids=str)
def test_a_continued_training_equals_a_whole_one(
    case: Case, trainer: Trainer, expected: Outcome
) -> None:
    name = f"case-{(KILLS + INTERRUPTIONS).index(case)}"
    make_experiment(name, trainer.folder)
    exit_code = trainer.train(case, case.workers, name)
    log = trainer.log_of(name)
    wanted = 128 + case.number if case.number else -signal.SIGKILL
    assert exit_code == wanted, log.read_text()

    (run,) = list_runs(name)
    if case.number:
        assert run.info.status == "KILLED"
        assert "Traceback" not in log.read_text()
        assert f"--continue_from_eid {run.info.run_id}" in log.read_text()

    eid = "" if case.leaves_nothing else run.info.run_id
    stored = runs.find_checkpoints(run.info.run_id)
    assert (stored is None) == case.leaves_nothing
    assert trainer.train(None, case.workers, name, eid) == 0, log.read_text()

    outcome = describe(name, trainer.folder)
    assert outcome.tensors == expected.tensors
    assert outcome.metrics == expected.metrics
    assert len(MlflowClient().search_model_versions(f"name = '{name}'")) == 1

    kept = f"epoch {stored.epoch} step {stored.step}" if stored else "nothing"
    print(f"| {case} | {exit_code} | {kept} | bit-equal |")

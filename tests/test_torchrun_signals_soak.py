"""Processes that train together stop within the epoch for a signal, and go on to the last bit."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import paused_training
import psutil
import pytest
from compared_runs import assert_same_checkpoints, get_metrics
from conftest import TINY, free_port
from faulty_training import Point
from mlflow import MlflowClient

from detreg.tracking import runs
from detreg.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.soak

VALUES = TINY | {"min_samples_per_epoch": 20, "num_workers": 1, "random_resize_upper": 96}
"""Two epochs of five steps."""


class Launcher:
    """Starts commands that begin with `torchrun`."""

    def __init__(self, store: str, folder: Path) -> None:
        experiment = MlflowClient().get_experiment_by_name("tests")
        assert experiment is not None
        self.environment = {
            **os.environ,
            **paused_training.prepare(folder),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_EXPERIMENT_ID": experiment.experiment_id,
        }

    def start(self, words: list[str], pause: dict[str, str]) -> "subprocess.Popen[str]":
        program, *rest = words
        assert program == "torchrun"
        place = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *place, *rest],
            env=self.environment | pause,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, words: list[str]) -> str:
        process = self.start(words, {})
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output


@pytest.fixture(scope="module")
def launcher(store: str, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(store, tmp_path_factory.mktemp("launcher"))


@pytest.fixture(scope="module")
def words(tiny: Path, dense_checkpoint: Path) -> list[str]:
    """Return the command that trains from the beginning."""
    words = ["torchrun", "--nproc_per_node=2", "-m", "detreg", "train", "yolox"]
    for name, value in {**VALUES, "data": tiny, "load_from": dense_checkpoint}.items():
        words += [f"--{name}", str(value)]
    return words


@pytest.fixture(scope="module")
def whole(launcher: Launcher, words: list[str]) -> str:
    """Train without an interruption; return the run's id."""
    return find_eid(launcher.run(words))


def find_eid(output: str) -> str:
    found = re.search(r"^MLflow run \(eid\) (\w+)", output, re.MULTILINE)
    assert found, output
    return found[1]


def find_process(launcher: int, rank: int) -> psutil.Process:
    for child in psutil.Process(launcher).children():
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"torchrun has no process {rank}")


@pytest.mark.parametrize(
    ("number", "point", "rank", "progress"),
    [
        (signal.SIGTERM, Point.WITHIN_EPOCH, None, (1, 3)),
        (signal.SIGINT, Point.FIRST_STEP, None, (0, 1)),
        (signal.SIGHUP, Point.IN_SCORING, None, (1, 5)),
        # Only the second process gets it.
        (signal.SIGTERM, Point.WITHIN_EPOCH, 1, (1, 3)),
    ],
    ids=["kill torchrun", "Ctrl-C", "closed terminal in scoring", "kill the second process"],
)
def test_processes_stop_after_the_same_step(
    launcher: Launcher,
    words: list[str],
    whole: str,
    tmp_path: Path,
    number: signal.Signals,
    point: Point,
    rank: int | None,
    progress: tuple[int, int],
) -> None:
    pause_file = tmp_path / "pause"
    process = launcher.start(words, paused_training.pause(point, pause_file, rank or 0))
    paused_training.wait(pause_file, process)
    if rank is None:
        process.send_signal(number)  # torchrun sends it on to both
    else:
        find_process(process.pid, rank).send_signal(number)
    output, _ = process.communicate()

    eid = find_eid(output)
    epoch, step = progress
    kept = f"run {eid} keeps its training up to step {step} of epoch {epoch + 1} of 2"
    assert output.count(kept) == 1, output
    assert "while it stopped" not in output
    run = runs.get_run(eid)
    assert run.info.status == "KILLED", output
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    last = load_checkpoint(runs.download_artifact(eid, stored.last, tmp_path))
    assert last.progress == progress

    found = re.search(r"^detreg: to continue: (torchrun .+)$", output, re.MULTILINE)
    assert found, output
    continued_output = launcher.run(shlex.split(found[1]))
    assert f"Resumes run {eid} after step {step} of epoch {epoch + 1} of 2" in continued_output
    continued = find_eid(continued_output)
    assert_same_checkpoints(continued, whole, tmp_path)
    assert get_metrics(eid, continued) == get_metrics(whole)
    print(f"\n{number.name} at {point}: step {step} of epoch {epoch + 1}, bit-equal")

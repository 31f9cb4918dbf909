"""A training by `mlflow run` that a signal stops within an epoch, and that is continued.

The training waits in the middle of its second epoch until the signal has come. `kill` reaches
`mlflow run` alone; a terminal reaches the training too.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paused_training
import pytest
from compared_runs import assert_same_checkpoints, get_metrics
from conftest import TINY
from faulty_training import Point

from detreg.tracking import runs
from detreg.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[1]
VALUES = TINY | {"min_samples_per_epoch": 20, "num_workers": 2, "random_resize_upper": 96}
"""Two epochs of five steps."""


class Project:
    """Runs `mlflow run` as a user does, in the folder of the project."""

    def __init__(self, store: str, folder: Path) -> None:
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **paused_training.prepare(folder),
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_EXPERIMENT_NAME": "tests",
        }

    def start(self, words: list[str], pause_file: Path | None = None) -> "subprocess.Popen[str]":
        environment = dict(self.environment)
        if pause_file is not None:
            environment |= paused_training.pause(Point.WITHIN_EPOCH, pause_file)
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=accept_signals,
        )

    def run(self, words: list[str]) -> str:
        process = self.start(words)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output


def accept_signals() -> None:
    """Undo what a shell and `nohup` do: what they start ignores Ctrl-C and SIGHUP."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def project(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    yield Project(store, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def words(tiny: Path) -> list[str]:
    """Return the command that trains from the beginning."""
    words = ["mlflow", "run", ".", "-e", "yolox", "--env-manager", "local"]
    for name, value in {**VALUES, "data": tiny}.items():
        words += ["-P", f"{name}={value}"]
    return words


@pytest.fixture(scope="module")
def whole(project: Project, words: list[str]) -> str:
    """Train without an interruption; return the run's id."""
    return find_eid(project.run(words))


def find_eid(output: str) -> str:
    found = re.search(r"^MLflow run \(eid\) (\w+)", output, re.MULTILINE)
    assert found, output
    return found[1]


@pytest.mark.parametrize(
    ("number", "is_terminal"),
    [
        (signal.SIGTERM, False),
        (signal.SIGINT, False),
        (signal.SIGHUP, False),
        (signal.SIGINT, True),
        (signal.SIGHUP, True),
    ],
    ids=["kill", "kill -INT", "kill -HUP", "Ctrl-C", "closed terminal"],
)
def test_a_signal_stops_within_the_epoch(
    project: Project,
    words: list[str],
    whole: str,
    tmp_path: Path,
    number: signal.Signals,
    is_terminal: bool,
) -> None:
    pause_file = tmp_path / "pause"
    process = project.start(words, pause_file)
    paused_training.wait(pause_file, process)
    if is_terminal:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    # Until the training has ended too, which has the same output.
    output, _ = process.communicate()

    eid = find_eid(output)
    assert "Traceback" not in output
    assert f"run {eid} keeps its training up to step 3 of epoch 2 of 2" in output
    assert process.returncode != 0
    # `mlflow run` makes it FAILED at its end, and detreg makes it KILLED again.
    while runs.get_run(eid).info.status != "KILLED":
        time.sleep(0.5)
    failure = runs.get_run(eid).data.tags["detreg.failure"]
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    assert (stored.epoch, stored.step) == (1, 3)
    last = load_checkpoint(runs.download_artifact(eid, stored.last, tmp_path))
    assert last.progress == (1, 3)

    found = re.search(r"^detreg: to continue: (mlflow run .+)$", output, re.MULTILINE)
    assert found, output
    continued_output = project.run(shlex.split(found[1]))
    assert f"Resumes run {eid} after step 3 of epoch 2 of 2" in continued_output
    continued = find_eid(continued_output)
    assert_same_checkpoints(continued, whole, tmp_path)
    assert get_metrics(eid, continued) == get_metrics(whole)
    print(
        f"\n{number.name}, {'terminal' if is_terminal else 'mlflow run'}: exit "
        f"{process.returncode}, {failure}, bit-equal"
    )

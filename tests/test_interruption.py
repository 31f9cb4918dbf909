"""A training that signals stop again and again ends as one that was left alone."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from compared_runs import assert_same_checkpoints, get_metrics
from conftest import TINY
from faulty_training import Point, inject, interrupt
from mlflow import MlflowClient

from detreg import cli
from detreg.signals import STOP_SIGNALS
from detreg.tracking import runs

VALUES = TINY | {"min_samples_per_epoch": 20, "num_workers": 2, "random_resize_upper": 96}
"""Two epochs of five steps."""

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # Whoever starts the tests may ignore them: a shell in the background, `nohup`.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_words(data: Path, **values: Any) -> list[str]:
    words = ["train", "yolox", "--json"]
    for name, value in {**VALUES, "data": data, **values}.items():
        words += [f"--{name}", str(value)]
    return words


def find_eid(output: str) -> str:
    found = re.search(r"^MLflow run \(eid\) (\w+)", output, re.MULTILINE)
    assert found, output
    return found[1]


def find_command(errors: str, eid: str) -> list[str]:
    """Return the words of the command that an interrupted training says continues it."""
    found = re.search(r"^detreg: to continue: detreg (.+)$", errors, re.MULTILINE)
    assert found, errors
    words = shlex.split(found[1])
    assert words[:4] == ["train", "yolox", "--continue_from_eid", eid]
    return words


def test_a_training_that_signals_stop_equals_a_whole_one(
    store: str, tiny: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Before the first checkpoint, while an epoch is scored, and while the model is compared."""
    assert cli.run(make_words(tiny)) == 0
    captured = capsys.readouterr()
    whole = find_eid(captured.err)
    assert json.loads(captured.out)["run_id"] == whole

    words = make_words(tiny)
    eids = []
    for point, number, progress in (
        (Point.FIRST_STEP, signal.SIGTERM, (0, 1)),
        (Point.IN_SCORING, signal.SIGHUP, (1, 5)),
        (Point.COMPARED, signal.SIGINT, (2, 0)),
    ):
        with inject(point, partial(interrupt, number)):
            assert cli.run(words) == 128 + number
        captured = capsys.readouterr()
        assert not captured.out
        eid = find_eid(captured.err)
        eids.append(eid)

        run = runs.get_run(eid)
        assert run.info.status == "KILLED"
        assert run.data.tags["detreg.failure"] in ("terminated", "hung up", "interrupted")
        stored = runs.find_checkpoints(eid)
        assert stored is not None, captured.err
        assert (stored.epoch, stored.step) == progress
        words = [*find_command(captured.err, eid), "--json"]

    # All epochs are done: what is missing is done, and nothing is trained again.
    assert cli.run(words) == 0
    output = capsys.readouterr().err
    assert f"Finishes run {eids[-1]}, which has trained its 2 epochs" in output
    eids.append(find_eid(output))
    assert runs.get_run(eids[-1]).data.tags["detreg.parent_eid"] == eids[-2]
    assert not MlflowClient().get_metric_history(eids[-1], "train/loss")

    assert_same_checkpoints(eids[-1], whole, tmp_path)
    assert get_metrics(*eids) == get_metrics(whole)


TRAIN_AND_INTERRUPT_GROUP = """
import os, signal, sys
from detreg import cli
from faulty_training import Point, inject

with inject(Point.FIRST_STEP, lambda: os.killpg(0, signal.SIGINT)):
    sys.exit(cli.run(sys.argv[1:]))
"""


def test_ctrl_c_in_a_terminal_stops_the_processes_of_the_loader_quietly(
    store: str, tiny: Path, tmp_path: Path
) -> None:
    """A terminal sends it to all of them."""
    experiment = MlflowClient().get_experiment_by_name("tests")
    assert experiment is not None
    tests = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN_AND_INTERRUPT_GROUP, *make_words(tiny, num_epochs=1)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_EXPERIMENT_ID": experiment.experiment_id,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=accept_ctrl_c,
    )
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert not output
    assert "Traceback" not in errors
    eid = find_eid(errors)
    assert find_command(errors, eid)
    assert f"run {eid} keeps its training up to step 1 of epoch 1 of 1" in errors
    assert runs.get_run(eid).info.status == "KILLED"


def accept_ctrl_c() -> None:
    """Undo what a shell does: what it starts in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

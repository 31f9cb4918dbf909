"""A training with masks: what it logs, what it goes by, and what continues it."""

import contextlib
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from compared_runs import assert_same_checkpoints, get_metrics
from conftest import SMALL
from faulty_training import Point, inject, interrupt

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.options import RunOptions
from detreg.params import build
from detreg.signals import SignalExit
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.job import log_job, prepare_job

# Convolutions of 256 channels take a CPU some seconds for each step.
pytestmark = pytest.mark.soak

AfterEpoch = Callable[[int, float], bool]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("masks")
    write_sample(folder / "drawn", images=12, size=(96, 64), masks=True)
    return load_dataset(folder / "drawn", folder / "cache", masks=True)


def end_training(epoch: int, score: float) -> bool:
    return True


def find_progress(eid: str) -> tuple[int, int]:
    """Return the finished epochs of a run's last checkpoint, and the steps after them."""
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    return stored.epoch, stored.step


def train(
    dataset: Dataset, name: str, *, after_epoch: AfterEpoch | None = None, **values: Any
) -> str:
    """Train two epochs of two steps, unless something ends them before; return the run's id."""
    template = TEMPLATES[name]
    small = {key: value for key, value in SMALL[name].items() if key != "num_workers"}
    params = build(template.params, small | {"masks": True} | values)
    job = prepare_job(template, params, RunOptions(num_workers=0), dataset)
    with runs.start_run(None, job.tags) as run:
        log_job(run, job)
        with contextlib.suppress(SignalExit):
            engine.fit(job, run.folder, run, after_epoch)
    return run.id


@pytest.mark.parametrize("name", ["msc10", "faster_rcnn"])
def test_a_training_with_masks_that_is_continued_equals_a_whole_one(
    dataset: Dataset, store: str, name: str, tmp_path: Path
) -> None:
    """Stopped within its first epoch, and after it."""
    whole = train(dataset, name)
    with inject(Point.FIRST_STEP, partial(interrupt, signal.SIGTERM)):
        within = train(dataset, name)
    after = train(dataset, name, continue_from_eid=within, after_epoch=end_training)
    last = train(dataset, name, continue_from_eid=after)

    assert [find_progress(eid) for eid in (within, after, last)] == [(0, 1), (1, 0), (2, 0)]
    assert_same_checkpoints(last, whole, tmp_path)
    metrics = get_metrics(whole)
    assert get_metrics(within, after, last) == metrics
    assert {("val/segm_mAP", 2), ("val/mAP", 2), ("train/loss_mask", 2)} <= metrics.keys()


def test_a_parent_without_masks_gives_its_weights(
    dataset: Dataset, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = train(dataset, "msc10", masks=False, after_epoch=end_training)
    capsys.readouterr()
    train(dataset, "msc10", continue_from_eid=parent, after_epoch=end_training)
    printed = capsys.readouterr().out
    assert f"Starts a new training from the best weights of run {parent}" in printed
    assert "hyperparameters differ: masks was False, now True" in printed

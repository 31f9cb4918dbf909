"""Runs a job's training with MMEngine's Runner."""

import contextlib
import gc
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from detreg import torchrun
from detreg.errors import MemoryExhaustedError, NotFoundError
from detreg.templates.common_params import CommonParams
from detreg.tracking import runs
from detreg.tracking.runs import Run
from detreg.training.batch_norms import freeze_statistics, normalize_single_values
from detreg.training.checkpoints import load_checkpoint, save_checkpoint
from detreg.training.distributed import SyncedDDP, join_processes
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.hooks import EpochHook, LearningRateHook, ReseedHook, RestoreHook
from detreg.training.job import Job
from detreg.training.network import build_network, silence_libraries
from detreg.training.transfer import transfer_weights

# What was imported is no garbage. MMEngine collects garbage before each training, and would look
# through all of it for seconds.
gc.freeze()


@dataclass(frozen=True)
class FitResult:
    """The end of a training. `checkpoint` is the best one; `history` has one entry for each epoch."""

    checkpoint: Path
    best_epoch: int
    best_mAP: float
    history: tuple[EpochMetrics, ...]


@join_processes()
def fit(
    job: Job,
    folder: Path,
    run: Run | None,
    after_epoch: Callable[[int, float], bool] | None = None,
) -> FitResult:
    """Train a job, with its files in `folder`, and log to `run`.

    A process that trains with the first one has no run. `after_epoch` gets the number of each epoch
    and its val mAP; where it returns True, training ends.

    Raises StoppedError when the loss is NaN or infinite, MemoryExhaustedError, and DataError where
    the initial weights do not fit.
    """
    # Numbers too small for the usual format make a CPU several times slower, and a network with
    # random weights has many.
    torch.set_flush_denormal(True)

    runner = _build_runner(job, folder)
    _prepare_batch_norms(runner.model, job.params)

    weights = job.initial_weights
    epochs = EpochHook(
        run,
        folder,
        job.dataset.classes,
        job.options.patience,
        weights.resume,
        weights.weights,
        after_epoch,
    )
    factor = job.template.get_base_model(job.params).recipe.schedule.factor
    runner.register_hook(ReseedHook(job.options.seed))
    runner.register_hook(LearningRateHook(job.params.learning_rate, factor))
    runner.register_hook(RestoreHook(lambda model: _fill(model, job), weights.resume))
    runner.register_hook(epochs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.train()
        epochs.upload_kept()
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryExhaustedError(
            f"the GPU has no memory left at batch_size={job.params.batch_size} and "
            f"image_size={job.params.image_size}: lower one of them, or set amp=true"
        ) from error
    except RuntimeError as error:
        # Some losses refuse NaN before the loss can be looked at.
        if all(bool(parameter.isfinite().all()) for parameter in runner.model.parameters()):
            raise
        raise epochs.diverged(runner) from error
    finally:
        if epochs.bar is not None:
            epochs.bar.close()
        if sys.exception() and torchrun.get_world_size() > 1:
            torchrun.ignore_signals()  # the launcher's would cut the upload short
        # After a failure or an interruption too, so that it can be resumed. That failure is what is
        # reported, and not a second one here.
        with contextlib.suppress(Exception):
            epochs.upload_kept()
    return FitResult(
        folder / "best.pth", epochs.best_epoch, epochs.best_mAP, tuple(epochs.history)
    )


def check_initial_weights(job: Job) -> None:
    """Raise DataError where a job's initial weights do not fit, before its run begins."""
    if job.initial_weights.weights is not None:
        _transfer(build_network(job.config.model, None), job)


def load_fit_result(run_id: str, folder: Path) -> FitResult:
    """Return the end of a training that an earlier run has kept, with its files in `folder`.

    Raises NotFoundError where the run has no checkpoint.
    """
    stored = runs.find_checkpoints(run_id)
    if stored is None:
        raise NotFoundError(
            f"run {run_id} has no checkpoint: it was not created by detreg, or ended before its "
            "first epoch"
        )
    best = load_checkpoint(runs.download_artifact(run_id, stored.best, folder / "best"))
    last = load_checkpoint(runs.download_artifact(run_id, stored.last, folder / "last"))

    path = folder / "best.pth"
    save_checkpoint(path, best)
    return FitResult(path, last.best_epoch, last.best_mAP, last.history)


class _Runner(Runner):
    """MMEngine's runner without what it writes about itself.

    To ask compilers for their versions and to format the configuration takes seconds.
    """

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass

    def dump_config(self) -> None:
        """Do nothing: the configuration is an artifact of the run."""


def _build_runner(job: Job, folder: Path) -> Runner:
    config = job.config.copy()
    config.work_dir = str(folder / "work")
    with silence_libraries():
        runner = _Runner.from_cfg(config)
        # The loops are built when they are first asked for. They read the annotations, of which
        # pycocotools prints much.
        _ = runner.train_loop
        _ = runner.val_loop
    return runner


def _prepare_batch_norms(network: nn.Module, params: CommonParams) -> None:
    """Let the network's batch norms take what this training gives them."""
    # Batch norms over several processes have the values of all of them.
    if not isinstance(network, SyncedDDP):
        normalize_single_values(network)
    if params.learning_rate == 0:
        freeze_statistics(network)


def _fill(network: nn.Module, job: Job) -> None:
    """Fill a network with a job's initial weights, and print what was taken of them."""
    if job.initial_weights.weights is not None:
        for sentence in _transfer(network, job):
            print(f"  {sentence}", flush=True)


def _transfer(network: nn.Module, job: Job) -> list[str]:
    weights = job.initial_weights.weights
    assert weights is not None  # both callers have looked
    layers = job.template.get_class_layers(job.params)
    return transfer_weights(network, weights, job.dataset.classes, layers)

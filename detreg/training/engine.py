"""Runs a job's training with MMEngine's Runner."""

import contextlib
import gc
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from detreg import torchrun
from detreg.errors import NotFoundError, summarize_error
from detreg.memory import find_memory_error
from detreg.signals import (
    ANNOUNCEMENT,
    DeferredSignals,
    defer_signals,
    ignore_signals,
    print_problems,
)
from detreg.templates.common_params import CommonParams
from detreg.tracking import runs
from detreg.tracking.runs import Run
from detreg.training.batch_norms import freeze_statistics, normalize_single_values
from detreg.training.checkpointing import BEST, LAST, CheckpointingHook, CheckpointUploader
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.distributed import (
    SharedSignals,
    SyncedDDP,
    is_connection_lost,
    join_processes,
)
from detreg.training.epoch_hooks import (
    CallbackHook,
    EarlyStopHook,
    LossMeter,
    MetricLogHook,
    ProgressHook,
    make_divergence_error,
)
from detreg.training.epoch_metrics import EpochMetrics, TrainingHistory
from detreg.training.hooks import LearningRateHook, ReseedHook, RestoreHook
from detreg.training.job import Job
from detreg.training.loader_processes import end_processes, prepare_processes
from detreg.training.network import build_network, silence_libraries
from detreg.training.stopping import StopHook
from detreg.training.train_loop import describe_shrink
from detreg.training.transfer import transfer_weights

# What was imported is no garbage. MMEngine collects garbage before each training, and would look
# through all of it for seconds.
gc.freeze()


@dataclass(frozen=True)
class FitResult:
    """The end of a training: the file of its best checkpoint, and one entry for each epoch.

    `best_score` is that of the job's metric.
    """

    checkpoint: Path
    best_epoch: int
    best_score: float
    history: tuple[EpochMetrics, ...]


@join_processes()
def fit(
    job: Job,
    folder: Path,
    run: Run | None,
    after_epoch: Callable[[int, float], bool] | None = None,
) -> FitResult:
    """Train a job, with its files in `folder`, and log to `run`.

    A process that trains with the first one has no run, and writes nothing. `after_epoch` gets the
    number of each epoch and its score on val; where it returns True, training ends. Where the job
    takes over a training that has ended, nothing is trained.

    A signal ends the training after its step, with a checkpoint, and raises its exception then.
    Raises StoppedError when the loss is NaN or infinite, MemoryExhaustedError, and DataError where
    the initial weights do not fit.
    """
    if job.initial_weights.is_trained:
        return _take_over_training(job, folder, run)

    # Numbers too small for the usual format make a CPU several times slower, and a network with
    # random weights has many.
    torch.set_flush_denormal(True)

    runner = _build_runner(job, folder)
    _prepare_batch_norms(runner.model, job.params)
    runner.train_loop.on_shrink = lambda size: _report_shrink(runner, job, run, size)

    resume = job.initial_weights.resume
    history = _begin_history(resume, job.metric)
    losses = LossMeter(resume)
    # Without a run these two are missing: all processes train and decide, the first one writes.
    saver, progress = None, None
    if run is not None:
        # There is none where the run was stopped within its first epoch.
        has_parent_best = resume is not None and resume.best_epoch > 0
        parent_best = job.initial_weights.weights if has_parent_best else None
        saver = CheckpointingHook(run, folder, job.dataset.classes, history, parent_best)
        losses.describe_resume = saver.describe_resume
        progress = ProgressHook(losses, history)

    # In the order in which they act: see epoch_hooks.py.
    _register_hooks(
        runner,
        *_make_step_hooks(job),
        losses,
        MetricLogHook(run, losses, history),
        saver,
        progress,
        EarlyStopHook(job.options.patience or 0, history),
    )

    with _stop_after_step(runner, losses, saver) as signals:
        if after_epoch:
            runner.register_hook(CallbackHook(after_epoch, history, signals))
        try:
            _train(runner, job, losses.describe_resume)
            if saver:
                saver.upload_pending()
        finally:
            if progress:
                progress.close()
            if sys.exception() and not signals.is_urgent:
                _upload_after_failure(saver)
    return FitResult(folder / BEST, history.best_epoch, history.best_score, tuple(history.entries))


def _register_hooks(runner: Runner, *hooks: Hook | None) -> None:
    """Register the hooks that are there, in this order."""
    for hook in hooks:
        if hook is not None:
            runner.register_hook(hook)


@contextlib.contextmanager
def _stop_after_step(
    runner: Runner, losses: LossMeter, saver: CheckpointingHook | None
) -> Iterator[DeferredSignals]:
    """Let a signal stop the training in the block after a step, with a checkpoint of that step.

    Processes that train together stop after the same step.
    """
    loaders = (runner.train_dataloader, runner.val_dataloader)
    for loader in loaders:
        prepare_processes(loader)

    announcement = ANNOUNCEMENT
    if torchrun.get_rank() > 0:
        announcement = ""
    elif torchrun.get_world_size() > 1:
        # A second Ctrl-C would end the launcher only.
        announcement = "stops after the step under way"
    try:
        with defer_signals(announcement, is_expected=is_connection_lost) as signals:
            runner.register_hook(StopHook(SharedSignals(signals), losses, saver))
            yield signals
    finally:
        for loader in loaders:
            end_processes(loader)


def _upload_after_failure(saver: CheckpointingHook | None) -> None:
    """Upload what was saved before a failure or an interruption, so that it can be resumed from.

    That failure is what is raised, and not a second one here.
    """
    if torchrun.get_world_size() > 1:
        ignore_signals()  # the launcher's would cut the upload short
    if saver is None:
        return
    try:
        saver.upload_pending()
    except Exception as error:
        print_problems([f"the last checkpoint is not uploaded: {summarize_error(error)}"])


def _take_over_training(job: Job, folder: Path, run: Run | None) -> FitResult:
    """Make the checkpoints of an ended training those of `run`, so that it can be continued too."""
    last, best = job.initial_weights.resume, job.initial_weights.weights
    assert last is not None  # see InitialWeights.is_trained
    assert best is not None
    if run is not None:
        save_checkpoint(folder / LAST, last)
        save_checkpoint(folder / BEST, best)
        CheckpointUploader(run, folder).upload(last.progress)
    return FitResult(folder / BEST, last.best_epoch, last.best_score, last.history)


def _begin_history(resume: Checkpoint | None, metric: str) -> TrainingHistory:
    if resume is None:
        return TrainingHistory(metric=metric)
    return TrainingHistory(list(resume.history), resume.best_epoch, resume.best_score, metric)


def _make_step_hooks(job: Job) -> list[Hook]:
    """Return the hooks that do not depend on what becomes of the training."""
    return [
        ReseedHook(job.options.seed),
        LearningRateHook(job.params.learning_rate, job.recipe.schedule.factor),
        RestoreHook(lambda network: _fill(network, job), job.initial_weights.resume),
    ]


def _train(runner: Runner, job: Job, describe_resume: Callable[[], str]) -> None:
    """Run the training, and turn what the libraries raise into errors that a user can act on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.train()
    except Exception as error:
        without_memory = find_memory_error(error, job.texts)
        if without_memory is not None:
            raise without_memory from error
        # Some losses refuse NaN before LossMeter can look at the loss.
        if isinstance(error, RuntimeError) and not _has_finite_weights(runner.model):
            raise make_divergence_error(runner.epoch + 1, describe_resume()) from error
        raise


def _report_shrink(runner: Runner, job: Job, run: Run | None, micro_batch: int) -> None:
    """Say that fewer images are trained at a time from here on, on the terminal and in the run."""
    line = describe_shrink(runner.model, micro_batch, job.params.images_per_step)
    print(line, file=sys.stderr, flush=True)
    if run is not None:
        run.set_tags({runs.MICRO_BATCH: str(micro_batch)})


def _has_finite_weights(network: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in network.parameters())


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
            f"run {run_id} has no checkpoint: it was not created by detreg, or ended before it "
            "saved one"
        )
    best = load_checkpoint(runs.download_artifact(run_id, stored.best, folder / "best"))
    last = load_checkpoint(runs.download_artifact(run_id, stored.last, folder / "last"))

    path = folder / BEST
    save_checkpoint(path, best)
    return FitResult(path, last.best_epoch, last.best_score, last.history)


class _Runner(Runner):
    """MMEngine's runner without what it writes about itself.

    To ask compilers for their versions and to format the configuration takes seconds.
    """

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass

    def dump_config(self) -> None:
        """Do nothing: the configuration is an artifact of the run."""

    def build_visualizer(self, visualizer: object = None) -> "_NoVisualizer":  # noqa: ARG002
        """Return what draws nothing: MMEngine's imports matplotlib."""
        return _NoVisualizer()


class _NoVisualizer:
    """What the runner shows its configuration to."""

    def add_config(self, config: object) -> None:
        """Do nothing."""


def _build_runner(job: Job, folder: Path) -> Runner:
    config = job.config.copy()
    config.work_dir = str(folder / "work")
    # MMEngine names a training by the second, and takes two that start in one second for the same.
    config.experiment_name = uuid.uuid4().hex
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

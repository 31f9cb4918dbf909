"""What happens in and after each epoch: losses, metrics, progress, an early end.

One hook for each. All of them run after EMAHook has put the network back (priority VERY_LOW), and
among themselves in the order in which the engine registers them:

    LossMeter          averages the losses, and stops where they are NaN or infinite
    MetricLogHook      completes the epoch's metrics, adds them to the history, logs them
    CheckpointingHook  saves and uploads the checkpoints (checkpointing.py)
    ProgressHook       shows a bar on a terminal, and a line for each epoch
    EarlyStopHook      ends the training when patience is over
    StopHook           ends the training where a signal has come (stopping.py), in all processes
    CallbackHook       tells the caller, who may end the training too

The metrics are logged before the checkpoint is saved: a kill in between repeats the epoch. In the
other order its metrics would be lost.
"""

import math
import sys
import time
from collections.abc import Callable

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from tqdm import tqdm

from detreg.errors import StoppedError
from detreg.progress import can_redraw
from detreg.signals import DeferredSignals
from detreg.tracking.runs import Run
from detreg.training.checkpoints import Checkpoint
from detreg.training.epoch_metrics import EpochMetrics, TrainingHistory
from detreg.training.hooks import count_steps
from detreg.training.loss_sums import LossSums, find_loss_sums

CHECK_INTERVAL = 10
"""Steps between two looks at the losses; each makes the GPU wait."""


class LossMeter(Hook):
    """Averages the losses of an epoch, and stops a training whose loss is NaN or infinite.

    `means` holds the mean losses of the epoch so far, over all processes. It is renewed every
    CHECK_INTERVAL steps and at the last step. `sums` are the sums of this process. `resume` is the
    checkpoint that is resumed from, which may hold the sums of an epoch's first steps.
    `describe_resume` returns how the training can be resumed from before the failure; it is an
    empty text where nothing was saved.
    """

    priority = "VERY_LOW"

    def __init__(self, resume: Checkpoint | None = None) -> None:
        self.describe_resume: Callable[[], str] = lambda: ""
        self.means: dict[str, float] = {}
        # Kept on the device, so that no step waits for them.
        self.sums: dict[str, Tensor] = {}
        self._steps = 0
        self._resume = resume

    def before_train_epoch(self, runner: Runner) -> None:
        """Start from zero, or from the sums of the steps that an epoch is resumed after."""
        self.means = {}
        self.sums = {}
        self._steps = count_steps(runner)
        if not self._steps:
            return

        assert self._resume is not None  # no other epoch begins in its middle
        assert self._resume.training is not None
        device = next(runner.model.parameters()).device
        sums = find_loss_sums(self._resume.training, runner.rank, runner.world_size)
        for name, value in sums.items():
            self.sums[name] = value.to(device)
        # None may follow: the epoch may have been stopped before it was scored.
        self.means = self._compute_means()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002
        data_batch: object = None,  # noqa: ARG002
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Add a step's losses. Raises StoppedError where a mean is NaN or infinite."""
        self._add(outputs or {})
        if is_check_due(runner):
            self.check(runner)

    def check(self, runner: Runner) -> None:
        """Renew the means. Raises StoppedError where one is NaN or infinite."""
        self.means = self._compute_means()
        if not all(math.isfinite(value) for value in self.means.values()):
            raise make_divergence_error(runner.epoch + 1, self.describe_resume())

    def gather_sums(self) -> list[LossSums]:
        """Return the sums of each process; all processes call this at the same step."""
        own = {name: value.cpu() for name, value in self.sums.items()}
        gathered: list[LossSums] = all_gather_object(own)
        return gathered

    def _add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            if name in self.sums:
                self.sums[name] = self.sums[name] + value.detach()
            else:
                self.sums[name] = value.detach().clone()
        self._steps += 1

    def _compute_means(self) -> dict[str, float]:
        """Average over steps and processes; all processes call this at the same step."""
        sums = torch.stack(list(self.sums.values()))
        all_reduce(sums, op="mean")
        values = [value / self._steps for value in sums.tolist()]
        return dict(zip(self.sums, values, strict=True))


class MetricLogHook(Hook):
    """Completes the metrics of an epoch, adds them to the history and logs them to the run.

    A process that trains with the first one has no run, and keeps the same history.
    """

    priority = "VERY_LOW"

    def __init__(self, run: Run | None, losses: LossMeter, history: TrainingHistory) -> None:
        self.run = run
        self.losses = losses
        self.history = history

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the epoch that was just scored, which `runner.epoch` counts already."""
        # Groups with a smaller rate of their own are not what per_item_lrate names.
        rate = max(group["lr"] for group in runner.optim_wrapper.param_groups)
        scores = {name.removeprefix("val/"): value for name, value in (metrics or {}).items()}
        entry = EpochMetrics(runner.epoch, {**self.losses.means, "lr": rate}, scores)
        self.history.add(entry)
        if self.run:
            values = entry.to_metrics() | entry.to_first_charts()
            self.run.log_metrics(values, step=entry.epoch)


class ProgressHook(Hook):
    """Shows a bar for each epoch on a terminal, and prints a line after each."""

    priority = "VERY_LOW"

    def __init__(self, losses: LossMeter, history: TrainingHistory) -> None:
        self.losses = losses
        self.history = history
        self._started_at = time.monotonic()
        self._earlier_steps = 0
        self._bar: tqdm[None] | None = None

    def before_train(self, runner: Runner) -> None:
        """Note how many steps an earlier run has done, which RestoreHook has set."""
        self._earlier_steps = runner.iter

    def before_train_epoch(self, runner: Runner) -> None:
        """Open a bar on a terminal or in a notebook; a log file gets none."""
        if can_redraw(sys.stderr):
            self._bar = tqdm(
                total=len(runner.train_dataloader),
                initial=count_steps(runner),
                desc=f"epoch {runner.epoch + 1}/{runner.max_epochs}",
                leave=False,
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002
        data_batch: object = None,  # noqa: ARG002
        outputs: object = None,  # noqa: ARG002
    ) -> None:
        """Move the bar, and renew its numbers when the losses are."""
        if self._bar is None:
            return
        self._bar.update()
        if is_check_due(runner):
            loss = self.losses.means["loss"]
            best = max(self.history.best_score, 0)
            left = self._estimate_time_left(runner, runner.iter + 1)
            self._bar.set_postfix_str(
                f"loss {loss:.3f}, best {self.history.metric} {best:.3f}, {left} left"
            )

    def after_train_epoch(self, runner: Runner) -> None:  # noqa: ARG002
        """Close the bar."""
        self.close()

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Print the epoch's line."""
        entry = self.history.entries[-1]
        best = " (best)" if self.history.is_last_best else ""
        left = self._estimate_time_left(runner, runner.iter)
        print(
            f"epoch {entry.epoch}/{runner.max_epochs}  loss {entry.train['loss']:.3f}  "
            f"{self.history.metric} {self.history.last_score:.3f}{best}  {left} left",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Remove the bar, also where training has failed within an epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _estimate_time_left(self, runner: Runner, steps: int) -> str:
        """Return the time to the end of training, `minutes:seconds`, after `steps` of all steps."""
        done = steps - self._earlier_steps
        # An epoch that is only to be scored has no steps.
        seconds_per_step = (time.monotonic() - self._started_at) / max(done, 1)
        seconds = int(seconds_per_step * (runner.max_iters - steps))
        return f"{seconds // 60}:{seconds % 60:02d}"


class EarlyStopHook(Hook):
    """Ends a training after `patience` epochs without a better score; 0 never does.

    Every process decides this from the same history, so that all end together.
    """

    priority = "VERY_LOW"

    def __init__(self, patience: int, history: TrainingHistory) -> None:
        self.patience = patience
        self.history = history

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Let the loop end after this epoch where patience is over."""
        epochs_since_best = runner.epoch - self.history.best_epoch
        if self.patience and epochs_since_best >= self.patience:
            print(
                f"Stops: no better {self.history.metric} for {self.patience} epochs (patience)",
                file=sys.stderr,
                flush=True,
            )
            runner.train_loop.stop_training = True


class CallbackHook(Hook):
    """Tells the caller of a training the number of each epoch and its score on val.

    Where `after_epoch` returns True, the training ends. It may wait, for a database say, and the
    epoch's checkpoint is saved: so a signal ends it at once.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        after_epoch: Callable[[int, float], bool],
        history: TrainingHistory,
        signals: DeferredSignals,
    ) -> None:
        self.after_epoch = after_epoch
        self.history = history
        self.signals = signals

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Call back."""
        entry = self.history.entries[-1]
        with self.signals.let_through():
            is_over = self.after_epoch(entry.epoch, self.history.last_score)
        if is_over:
            runner.train_loop.stop_training = True


def is_check_due(runner: Runner) -> bool:
    """Return whether the losses are looked at after the step under way."""
    step = count_steps(runner) + 1
    return step % CHECK_INTERVAL == 0 or step == len(runner.train_dataloader)


def make_divergence_error(epoch: int, resume_advice: str) -> StoppedError:
    """Return the error of a training whose loss or weights are NaN or infinite."""
    message = (
        f"the loss is NaN or infinite in epoch {epoch}: halve per_item_lrate (or set "
        "precision=fp32) and start again"
    )
    if resume_advice:
        message += f", or {resume_advice}"
    return StoppedError(message)

"""What happens around training steps: learning rate, seeds, progress, metrics, checkpoints, early stop.

MMEngine's own hooks for these are left out because a continued training must be exact, a checkpoint whole, and what is scored,
kept and exported the same weights. Order within a moment is by priority; all of these run after EMAHook has put the network back.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor
from tqdm import tqdm

from detreg.errors import StoppedError, summarize_error
from detreg.tracking.runs import Run, StoredCheckpoints
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.distributed import unwrap
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.seeding import derive_seeds, seed_everything

UPLOAD_SHARE = 0.05
"""Uploads of checkpoints during training take at most this share of its time."""
FINITE_CHECK_INTERVAL = 10
"""Steps between two looks at the loss; each makes the GPU wait."""


class ReseedHook(Hook):
    """Seeds what is random in the network before each step; pictures have seeds of their own, and leave random states behind."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002
        """Seeds by the step's number, each process differently."""
        seed_everything(*derive_seeds(self.seed, runner.iter, runner.rank))


class LearningRateHook(Hook):
    """Sets the learning rate of each step as a function of progress alone."""

    priority = "VERY_HIGH"

    def __init__(self, rate: float, factor: Callable[[float, int], float]) -> None:
        self.rate = rate
        self.factor = factor
        self.ratios: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Read each group's own ratio to the rate, such as 1/3 of YOLOF's backbone.

        MMEngine has just built the optimizer with them; a checkpoint that is resumed brings the rates of its last step, after this.
        """
        groups = runner.optim_wrapper.param_groups
        self.ratios = [group["lr"] / self.rate if self.rate else 1.0 for group in groups]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002
        """Set every group's rate."""
        rate = self.rate * self.factor(runner.iter / runner.max_iters, runner.max_iters)
        for group, ratio in zip(runner.optim_wrapper.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio


class RestoreHook(Hook):
    """Puts a checkpoint's weights, optimiser and epoch into the runner before the first step of a continued training."""

    priority = "VERY_LOW"

    def __init__(self, fill: Callable[[torch.nn.Module], None], resume: Checkpoint | None) -> None:
        self.fill = fill
        self.resume = resume

    def before_train(self, runner: Runner) -> None:
        """Fills the network, and its average with the same weights or with those of the checkpoint."""
        model, average = unwrap(runner.model), averaged(runner)
        if self.resume is None or self.resume.training is None:
            self.fill(model)
            if average is not None:
                average.module.load_state_dict(model.state_dict())
            return
        training = self.resume.training
        model.load_state_dict(training.get("state_dict") or self.resume.state_dict)
        if average is not None:
            average.module.load_state_dict(self.resume.state_dict)
            average.steps.fill_(training["ema_steps"])
        runner.optim_wrapper.load_state_dict(training["optimizer"])
        runner.train_loop._epoch = self.resume.epoch
        runner.train_loop._iter = self.resume.epoch * len(runner.train_dataloader)


def averaged(runner: Runner) -> Any:
    """The moving average of the weights (its `module` and its `steps`), where the template keeps one."""
    return next((hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)), None)


@dataclass
class _Losses:
    """Sums of an epoch's losses, kept on the device so that no step waits for them."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, outputs: dict[str, Tensor]) -> None:
        for name, value in outputs.items():
            self.sums[name] = (
                self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
            )
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Over the steps so far and all processes, which call this at the same step."""
        sums = torch.stack(list(self.sums.values()))
        all_reduce(sums, op="mean")
        return {
            f"train/{name}": value / self.steps
            for name, value in zip(self.sums, sums.tolist(), strict=True)
        }


class EpochHook(Hook):
    """After each epoch: shows and logs its metrics, keeps the last and the best checkpoint, stops when patience is over.

    Without a run, in a process that only helps the first one, it does no more than stop when the first does.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        run: Run | None,
        folder: Path,
        classes: tuple[str, ...],
        patience: int,
        before: Checkpoint | None,
        best: Checkpoint | None,
        after_epoch: Callable[[int, float], bool] | None = None,
    ):
        self.run = run
        self.folder = folder
        self.classes = classes
        self.patience = patience
        self.after_epoch = after_epoch
        self.history: list[EpochMetrics] = list(before.history) if before else []
        self.best_epoch = before.best_epoch if before else 0
        self.best_mAP = before.best_mAP if before else -1.0
        self.best = best if before else None
        self.losses = _Losses()
        self.bar: tqdm[Any] | None = None
        self.uploads = 0
        self.uploaded_epoch = self.kept_epoch = 0
        self.uploaded_at, self.upload_seconds = time.monotonic(), 0.0
        self.begun = time.monotonic()
        self.begun_epoch = before.epoch if before else 0

    def before_train(self, runner: Runner) -> None:  # noqa: ARG002
        """Writes the parent's best checkpoint where this training's would be, until a better one comes."""
        if self.run and self.best is not None:
            save_checkpoint(self.folder / "best.pth", self.best)

    def before_train_epoch(self, runner: Runner) -> None:
        """A bar per epoch on a terminal."""
        self.losses = _Losses()
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=len(runner.train_dataloader),
                desc=f"epoch {runner.epoch + 1}/{runner.max_epochs}",
                leave=False,
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:  # noqa: ARG002
        """Adds up the losses; now and then, and at the last step, makes sure that they are numbers."""
        self.losses.add(outputs)
        if self.bar is not None:
            self.bar.update()
        if (batch_idx + 1) % FINITE_CHECK_INTERVAL == 0 or batch_idx + 1 == len(
            runner.train_dataloader
        ):
            means = self.losses.means()
            if self.bar is not None:
                left = self._left(runner, runner.iter + 1)
                self.bar.set_postfix_str(
                    f"loss {means['train/loss']:.3f}, best mAP {max(self.best_mAP, 0):.3f}, {left} left"
                )
            if not all(np.isfinite(value) for value in means.values()):
                raise self.diverged(runner)

    def diverged(self, runner: Runner) -> StoppedError:
        """The error for a training whose loss or weights are no longer numbers."""
        kept = ""
        if self.run and self.kept_epoch:
            kept = f", or continue from run {self.run.id}, whose checkpoint of epoch {self.kept_epoch} is good"
        return StoppedError(
            f"the loss is NaN or infinite in epoch {runner.epoch + 1}: halve per_item_lrate (or set amp=false) and start again{kept}"
        )

    def after_train_epoch(self, runner: Runner) -> None:  # noqa: ARG002
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """`runner.epoch` counts the epoch that was just scored."""
        metrics = metrics or {}
        # Groups with a smaller rate of their own are not what per_item_lrate names.
        rate = {"train/lr": max(group["lr"] for group in runner.optim_wrapper.param_groups)}
        values = {**self.losses.means(), **rate, **metrics}
        self.history.append(EpochMetrics.from_row({"epoch": runner.epoch, **values}))
        score = metrics.get("val/mAP", 0.0)
        if better := score > self.best_mAP:
            self.best_mAP, self.best_epoch = score, runner.epoch
        if self.run:
            # In this order, a kill in between repeats the epoch; in the other, its metrics would be lost.
            self.run.log_metrics(values, step=runner.epoch)
            self._keep(self.run, runner, better)
            loss = values["train/loss"]
            line = f"epoch {runner.epoch}/{runner.max_epochs}  loss {loss:.3f}  mAP {score:.3f}{' (best)' if better else ''}"
            print(f"{line}  {self._left(runner, runner.iter)} left", file=sys.stderr, flush=True)
        if self.patience and runner.epoch - self.best_epoch >= self.patience:
            print(
                f"Stops: no better mAP for {self.patience} epochs (patience)",
                file=sys.stderr,
                flush=True,
            )
            runner.train_loop.stop_training = True
        if self.after_epoch is not None and self.after_epoch(runner.epoch, score):
            runner.train_loop.stop_training = True

    def upload_kept(self) -> None:
        """Uploads the checkpoints of the last finished epoch, unless they are there already."""
        if self.run and self.kept_epoch > self.uploaded_epoch:
            self._upload(self.run)

    def _left(self, runner: Runner, steps: int) -> str:
        """The time to the end of training, in minutes and seconds, after `steps` of all steps are done."""
        done = steps - self.begun_epoch * len(runner.train_dataloader)
        seconds = (time.monotonic() - self.begun) / done * (runner.max_iters - steps)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _keep(self, run: Run, runner: Runner, better: bool) -> None:
        average = averaged(runner)
        network = unwrap(runner.model).state_dict()
        training: dict[str, Any] = {"optimizer": runner.optim_wrapper.state_dict()}
        scored = network
        if average is not None:
            scored = average.module.state_dict()
            training |= {"state_dict": dict(network), "ema_steps": int(average.steps)}
        state = (
            dict(scored),
            self.classes,
            runner.epoch,
            self.best_epoch,
            self.best_mAP,
            tuple(self.history),
        )
        save_checkpoint(self.folder / "last.pth", Checkpoint(*state, training=training))
        if better:
            save_checkpoint(self.folder / "best.pth", Checkpoint(*state))
        self.kept_epoch = runner.epoch
        if (time.monotonic() - self.uploaded_at) * UPLOAD_SHARE >= self.upload_seconds:
            try:
                self._upload(run)
            except Exception as error:  # the next epoch, or the end, tries again
                print(
                    f"the checkpoints wait for the artifact store: {summarize_error(error)}",
                    file=sys.stderr,
                    flush=True,
                )

    def _upload(self, run: Run) -> None:
        """Uploads both checkpoints beside the previous ones, then says in a tag which are whole: a kill in between loses nothing."""
        begun = time.monotonic()
        slot = f"checkpoints/{self.uploads % 2}"
        for name in ("last.pth", "best.pth"):
            run.log_file(self.folder / name, slot)
        run.tag_checkpoints(
            StoredCheckpoints(self.kept_epoch, last=f"{slot}/last.pth", best=f"{slot}/best.pth")
        )
        self.uploads += 1
        self.uploaded_epoch = self.kept_epoch
        self.uploaded_at = time.monotonic()
        self.upload_seconds = self.uploaded_at - begun

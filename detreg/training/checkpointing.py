"""Saves checkpoints after each epoch and where a training is stopped, and uploads them to the run.

MMEngine's own hook is left out, because a checkpoint must be whole, and what is scored, saved and
exported must be the same weights.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from detreg.tracking.runs import Run, StoredCheckpoints
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.distributed import unwrap
from detreg.training.epoch_metrics import TrainingHistory
from detreg.training.hooks import find_average
from detreg.training.loss_sums import LossSums, pack_loss_sums

LAST = "last.pth"
BEST = "best.pth"
UPLOAD_SHARE = 0.05
"""Uploads of checkpoints during training take at most this share of its time."""


@dataclass
class CheckpointUploader:
    """Uploads a run's checkpoints so that a kill at any moment loses none that was uploaded.

    Uploads go to two artifact folders in turn. After both files are there, a tag of the run names
    them; until then it names those of the other folder.
    """

    run: Run
    folder: Path
    uploaded: tuple[int, int] = (0, 0)
    """The epoch and the step of the checkpoint that was uploaded last."""
    _uploads: int = 0
    _started_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether an upload that takes as long as the last one stays within UPLOAD_SHARE.

        While one is under way, or waits for a server that is away, there is no other one: so the
        disk holds at most three versions of the checkpoints.
        """
        if self.run.is_uploading:
            return False
        elapsed = time.monotonic() - self._started_at
        # Two files of about the same size.
        return elapsed * UPLOAD_SHARE >= 2 * self.run.upload_seconds

    def upload(self, progress: tuple[int, int]) -> None:
        """Upload both checkpoints, the last being that of `progress`, in the background.

        Before the first epoch is scored there is no best one, and the last stands for it.
        """
        self._started_at = time.monotonic()
        slot = f"checkpoints/{self._uploads % 2}"
        best = find_best(self.folder)
        for name in (LAST, BEST) if best == BEST else (LAST,):
            self.run.log_file(self.folder / name, slot)

        epoch, step = progress
        self.run.tag_checkpoints(
            StoredCheckpoints(epoch, last=f"{slot}/{LAST}", best=f"{slot}/{best}", step=step)
        )

        self._uploads += 1
        self.uploaded = progress


class CheckpointingHook(Hook):
    """Saves the last and the best checkpoint after each epoch, and uploads them now and then.

    StopHook lets it save within an epoch too (`save_step`). `saved` is the epoch and the step of
    the checkpoint that was saved last, (0, 0) before the first one. `parent_best` is the best
    checkpoint of the training that is resumed, None for a new one.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        run: Run,
        folder: Path,
        classes: tuple[str, ...],
        history: TrainingHistory,
        parent_best: Checkpoint | None,
    ) -> None:
        self.run = run
        self.folder = folder
        self.classes = classes
        self.history = history
        self.parent_best = parent_best
        self.saved = (0, 0)
        self.uploader = CheckpointUploader(run, folder)

    def before_train(self, runner: Runner) -> None:  # noqa: ARG002
        """Write the parent's best checkpoint as this training's, until a better one comes."""
        if self.parent_best is not None:
            save_checkpoint(self.folder / BEST, self.parent_best)

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Save the epoch that was just scored, and upload it if that is due."""
        last = self._make_checkpoint(runner, runner.epoch)
        # The best one first: a kill between the two repeats this epoch and saves it again. In the
        # other order its weights would be lost, and `last` would say that they are the best.
        if self.history.is_last_best:
            save_checkpoint(self.folder / BEST, replace(last, training=None))
        save_checkpoint(self.folder / LAST, last)
        self._note_saved(last.progress)
        if self.uploader.is_due:
            self.uploader.upload(self.saved)

    def save_step(
        self, runner: Runner, epoch: int, step: int, loss_sums: Sequence[LossSums]
    ) -> None:
        """Save a training that stops after `step` steps of the epoch after `epoch` finished ones.

        `loss_sums` are the sums of the losses of these steps in each process.
        """
        last = self._make_checkpoint(runner, epoch)
        training = {**(last.training or {}), **pack_loss_sums(loss_sums)}
        save_checkpoint(self.folder / LAST, replace(last, step=step, training=training))
        self._note_saved((epoch, step))

    def upload_pending(self) -> None:
        """Upload the checkpoints that were saved last, unless they are there already."""
        if self.saved > self.uploader.uploaded:
            self.uploader.upload(self.saved)

    def describe_resume(self) -> str:
        """Return how to resume from the last saved epoch, or an empty text before the first one."""
        epoch, _ = self.saved
        if not epoch:
            return ""
        return (
            f"resume with continue_from_eid={self.run.id}, whose checkpoint of epoch {epoch} is "
            "good"
        )

    def _note_saved(self, progress: tuple[int, int]) -> None:
        self.saved = progress
        epoch, step = progress
        self.run.note_saved_checkpoints(epoch, LAST, find_best(self.folder), step)

    def _make_checkpoint(self, runner: Runner, epoch: int) -> Checkpoint:
        """Return the state of the training, of which `epoch` epochs are finished."""
        network_state = unwrap(runner.model).state_dict()
        average = find_average(runner)
        training: dict[str, Any] = {
            "optimizer": runner.optim_wrapper.state_dict(),
            "micro_batch": runner.train_loop.micro_batch,
        }
        if average is None:
            scored_state = network_state
        else:
            scored_state = average.module.state_dict()
            training["state_dict"] = dict(network_state)
            training["ema_steps"] = int(average.steps)

        return Checkpoint(
            state_dict=dict(scored_state),
            classes=self.classes,
            epoch=epoch,
            best_epoch=self.history.best_epoch,
            best_score=self.history.best_score,
            history=tuple(self.history.entries),
            training=training,
        )


def find_best(folder: Path) -> str:
    """Return the name of the best checkpoint's file; before the first epoch it is the last one."""
    return BEST if (folder / BEST).exists() else LAST

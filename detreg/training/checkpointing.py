"""Saves checkpoints after each epoch, and uploads them to the run.

MMEngine's own hook is left out, because a checkpoint must be whole, and what is scored, saved and
exported must be the same weights.
"""

import time
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
    uploaded_epoch: int = 0
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

    def upload(self, epoch: int) -> None:
        """Upload both checkpoints, which are those of `epoch`, in the background."""
        self._started_at = time.monotonic()
        slot = f"checkpoints/{self._uploads % 2}"
        for name in (LAST, BEST):
            self.run.log_file(self.folder / name, slot)
        self.run.tag_checkpoints(
            StoredCheckpoints(epoch, last=f"{slot}/{LAST}", best=f"{slot}/{BEST}")
        )

        self._uploads += 1
        self.uploaded_epoch = epoch


class CheckpointingHook(Hook):
    """Saves the last and the best checkpoint after each epoch, and uploads them now and then.

    `parent_best` is the best checkpoint of the training that is resumed, None for a new one.
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
        self.saved_epoch = 0
        self.uploader = CheckpointUploader(run, folder)

    def before_train(self, runner: Runner) -> None:  # noqa: ARG002
        """Write the parent's best checkpoint as this training's, until a better one comes."""
        if self.parent_best is not None:
            save_checkpoint(self.folder / BEST, self.parent_best)

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Save the epoch that was just scored, and upload it if that is due."""
        self._save(runner)
        if self.uploader.is_due:
            self.uploader.upload(self.saved_epoch)

    def upload_pending(self) -> None:
        """Upload the checkpoints of the last saved epoch, unless they are there already."""
        if self.saved_epoch > self.uploader.uploaded_epoch:
            self.uploader.upload(self.saved_epoch)

    def describe_resume(self) -> str:
        """Return how to resume from the last saved epoch, or an empty text before the first one."""
        if not self.saved_epoch:
            return ""
        return (
            f"resume with continue_from_eid={self.run.id}, whose checkpoint of epoch "
            f"{self.saved_epoch} is good"
        )

    def _save(self, runner: Runner) -> None:
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

        last = Checkpoint(
            state_dict=dict(scored_state),
            classes=self.classes,
            epoch=runner.epoch,
            best_epoch=self.history.best_epoch,
            best_mAP=self.history.best_mAP,
            history=tuple(self.history.entries),
            training=training,
        )
        # A kill between the two leaves this epoch to resume from, and the best one before it.
        save_checkpoint(self.folder / LAST, last)
        if self.history.is_last_best:
            save_checkpoint(self.folder / BEST, replace(last, training=None))
        self.saved_epoch = runner.epoch
        self.run.note_saved_checkpoints(self.saved_epoch, LAST, BEST)

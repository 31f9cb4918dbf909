"""Stops a training for a signal, with a checkpoint from which it resumes exactly."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from detreg.signals import Stopped
from detreg.training.checkpointing import CheckpointingHook
from detreg.training.distributed import SharedSignals
from detreg.training.epoch_hooks import LossMeter
from detreg.training.hooks import count_steps, find_average_hook


class StopHook(Hook):
    """Ends the training after the step in which a signal has come, and saves a checkpoint first.

    It comes after all hooks that count steps. Processes that train together stop after the same
    step, the first one that any of them has got a signal in; only the one with a `saver` saves.
    """

    priority = "VERY_LOW"

    def __init__(
        self, signals: SharedSignals, losses: LossMeter, saver: CheckpointingHook | None
    ) -> None:
        self.signals = signals
        self.losses = losses
        self.saver = saver

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002
        data_batch: object = None,  # noqa: ARG002
        outputs: object = None,  # noqa: ARG002
    ) -> None:
        """Stop within the epoch. Raises StoppedError where the loss is NaN or infinite."""
        if self.signals.check():
            # What is saved here replaces the checkpoint of the last epoch, so it must be good.
            self.losses.check(runner)
            self._save_and_stop(runner, runner.epoch, count_steps(runner) + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002
        data_batch: object = None,  # noqa: ARG002
        outputs: object = None,  # noqa: ARG002
    ) -> None:
        """Stop while the epoch is scored: it is scored anew when the training is resumed."""
        if not self.signals.check():
            return

        # EMAHook has put the average into the network, and puts it back after scoring.
        average_hook = find_average_hook(runner)
        if average_hook:
            average_hook.after_val_epoch(runner)
        # The loop counts the epoch as finished already.
        self._save_and_stop(runner, runner.epoch - 1, len(runner.train_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:  # noqa: ARG002
        """Stop after an epoch, whose checkpoint has just been saved."""
        if self.signals.check():
            raise Stopped

    def _save_and_stop(self, runner: Runner, epoch: int, step: int) -> None:
        loss_sums = self.losses.gather_sums()
        if self.saver is not None:
            self.saver.save_step(runner, epoch, step, loss_sums)
        # A process that ends takes the others with it, and one of them may still be saving.
        self.signals.wait_for_all()
        raise Stopped

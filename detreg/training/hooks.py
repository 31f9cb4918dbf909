"""What happens around the steps of a training: seeds, learning rate, the weights it starts from.

MMEngine's own hooks for these are left out, because a resumed training must be exact.
"""

from collections.abc import Callable
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from torch import nn

from detreg.training.checkpoints import Checkpoint
from detreg.training.distributed import unwrap
from detreg.training.seeding import derive_seeds, seed_everything


class ReseedHook(Hook):
    """Seeds what is random in the network before each step.

    Images have seeds of their own, and loading them leaves the random states of the main process
    changed when it has no workers.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:  # noqa: ARG002
        """Seed by the step's number, each process differently."""
        seed_everything(*derive_seeds(self.seed, runner.iter, runner.rank))


class LearningRateHook(Hook):
    """Sets the learning rate of each step as a function of progress alone.

    `rate` is the template's learning rate of a step. `factor` gets the progress from 0 to 1 and the
    number of all steps, and returns what the rate is multiplied by.
    """

    priority = "VERY_HIGH"

    def __init__(self, rate: float, factor: Callable[[float, int], float]) -> None:
        self.rate = rate
        self.factor = factor
        self.ratios: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Read each group's own ratio to the rate, such as 1/3 of YOLOF's backbone.

        MMEngine has just built the optimizer with them. A checkpoint that is resumed brings the
        rates of its last step, after this.
        """
        groups = runner.optim_wrapper.param_groups
        self.ratios = [group["lr"] / self.rate if self.rate else 1.0 for group in groups]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:  # noqa: ARG002
        """Set every group's rate."""
        progress = runner.iter / runner.max_iters
        rate = self.rate * self.factor(progress, runner.max_iters)
        for group, ratio in zip(runner.optim_wrapper.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio


class RestoreHook(Hook):
    """Puts the state that a training starts from into the runner, before the first step.

    `fill` puts the initial weights of a new training into the network. `resume` is the last
    checkpoint of a training that is resumed.
    """

    priority = "VERY_LOW"

    def __init__(self, fill: Callable[[nn.Module], None], resume: Checkpoint | None) -> None:
        self.fill = fill
        self.resume = resume

    def before_train(self, runner: Runner) -> None:
        """Fill the network and its average; for a resumed training also optimizer and counters."""
        if self.resume is None or self.resume.training is None:
            self._start(runner)
        else:
            _resume(runner, self.resume, self.resume.training)

    def _start(self, runner: Runner) -> None:
        network = unwrap(runner.model)
        self.fill(network)
        average = find_average(runner)
        if average is not None:
            average.module.load_state_dict(network.state_dict())


def _resume(runner: Runner, checkpoint: Checkpoint, training: dict[str, Any]) -> None:
    # Where an average is kept, the checkpoint's state_dict is the average's.
    network_state = training.get("state_dict") or checkpoint.state_dict
    unwrap(runner.model).load_state_dict(network_state)
    average = find_average(runner)
    if average is not None:
        average.module.load_state_dict(checkpoint.state_dict)
        average.steps.fill_(training["ema_steps"])

    runner.optim_wrapper.load_state_dict(training["optimizer"])
    # So that the same steps are divided as without the interruption; earlier versions divided none.
    runner.train_loop.resume(training.get("micro_batch"))
    # The loop has no other way to set them. The schedule and all seeds follow from these counters.
    runner.train_loop._epoch = checkpoint.epoch
    runner.train_loop._iter = checkpoint.epoch * len(runner.train_dataloader) + checkpoint.step
    runner.train_dataloader.sampler.resume(checkpoint.epoch, checkpoint.step)


def find_average(runner: Runner) -> ExponentialMovingAverage | None:
    """Return the moving average of the weights, where the template keeps one."""
    hook = find_average_hook(runner)
    return hook.ema_model if hook else None


def find_average_hook(runner: Runner) -> EMAHook | None:
    """Return the hook that averages the weights, where the template has one."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            return hook
    return None


def count_steps(runner: Runner) -> int:
    """Return the steps of the epoch before the one under way, also where the epoch was resumed.

    `batch_idx`, which MMEngine gives to the hooks, counts from the step that was resumed at.
    """
    steps: int = runner.iter - runner.epoch * len(runner.train_dataloader)
    return steps

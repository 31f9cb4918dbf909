"""How a base model is trained: its published optimizer, learning rate and schedule.

A schedule depends on the progress of a training alone, so a resumed training takes exactly the
rates of an uninterrupted one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from detreg.templates.config import Config


@dataclass(frozen=True)
class Schedule:
    """A schedule of so many epochs, which is scaled to the length of a training."""

    epochs: int
    factor: Callable[[float, int], float]
    """From progress in [0, 1) and the number of all steps to the factor of the learning rate."""
    plain_epochs: int = 0
    """Of `epochs`, the last ones with neither Mosaic nor MixUp."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base model is trained: as it was published, or as a template changes that.

    What nobody published is trained as detreg says.
    """

    learning_rate: float
    """Of a step with `batch_size` images."""
    batch_size: int
    """The number of images in a step, over all GPUs, that `learning_rate` is for."""
    optimizer: Config
    """MMEngine's optimizer wrapper without the learning rate."""
    schedule: Schedule
    ema_momentum: float | None = None
    """Momentum of the averaged weights that are scored and exported; None averages nothing."""
    frozen_stages: int = 0
    """Stages of a backbone with loaded weights that are not trained."""

    @property
    def per_item_lrate(self) -> float:
        """The learning rate for each image of a step."""
        return self.learning_rate / self.batch_size


def step_schedule(epochs: int, drops: tuple[int, ...], warmup: int) -> Schedule:
    """Declare a schedule that divides the rate by ten after each of the epochs `drops`.

    The warm-up is linear over `warmup` steps.
    """

    def compute_factor(progress: float, steps: int) -> float:
        number_of_drops = sum(progress >= drop / epochs for drop in drops)
        return _compute_warmup_factor(progress, steps, warmup) * 0.1**number_of_drops

    return Schedule(epochs, compute_factor)


def cosine_schedule(epochs: int, warmup: int) -> Schedule:
    """Declare half a cosine down to nothing, constant within each of the published epochs.

    The warm-up is linear over `warmup` steps.
    """

    def compute_factor(progress: float, steps: int) -> float:
        # A product such as 7 / 120 * 120 may be a little less than the integer in floating point.
        epochs_done = math.floor(progress * epochs + 1e-9)
        warmup_factor = _compute_warmup_factor(progress, steps, warmup)
        return warmup_factor * 0.5 * (1 + math.cos(math.pi * (epochs_done / epochs)))

    return Schedule(epochs, compute_factor)


def _compute_warmup_factor(progress: float, steps: int, warmup: int) -> float:
    """Return the factor of a linear warm-up over `warmup` steps, at most a tenth of a training."""
    share = min(warmup / steps, 0.1)
    if progress >= share:
        return 1.0
    return 0.001 + 0.999 * progress / share

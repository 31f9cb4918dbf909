"""What more images would bring: a curve through the mAP of trainings on parts of a train split.

The curve is a power law, mAP(n) = limit - gain * n ** -exponent, as learning curves of many tasks
are (arXiv:1712.00409). Few points tell its three numbers badly, so no single curve is taken: each
resample draws one of the exponents that fit, and the interval holds what all of these predict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.bootstrap import (
    Interval,
    MatchedDetections,
    compute_interval,
    draw_image_counts,
)

Floats = npt.NDArray[np.float64]

EXPONENTS = np.linspace(0.1, 1.2, 23)
"""Found between 0.07 and 0.35 for large datasets; the first hundred images bring more."""
USUAL_NOISE = 0.02
"""Standard deviation of the mAP over seeds, where a single one cannot tell it (docs/train.md)."""
LEAST_NOISE = 0.005
MIN_POINTS = 3


@dataclass(frozen=True)
class Trained:
    """A training on a part of the train split: its images, its seed, and what it finds on val."""

    images: int
    seed: int
    detections: MatchedDetections


@dataclass(frozen=True)
class Prediction:
    """The mAP, from 0 to 1, that is expected of a training on so many images, over all seeds."""

    images: int
    mAP: float
    interval: Interval


@dataclass(frozen=True)
class LearningCurve:
    """What trainings on parts have reached, on many resamples of their val images and seeds.

    sizes: float64 (points,), numbers of training images, ascending.
    points: float64 (points, resamples), the mAP over all seeds of a size, from 0 to 1.
    noise: the standard deviation of a point over seeds.
    """

    sizes: Floats
    points: Floats
    noise: float

    @classmethod
    def measure(cls, trainings: Sequence[Trained]) -> "LearningCurve":
        """Resample the val images, the same for all trainings, and the seeds of each size.

        Raises ValueError for trainings on fewer than MIN_POINTS numbers of images.
        """
        groups = _group_by_images(trainings)
        if len(groups) < MIN_POINTS:
            raise ValueError(f"a curve needs {MIN_POINTS} numbers of images, got {sorted(groups)}")

        rng = np.random.default_rng(0)
        counts = draw_image_counts(len(trainings[0].detections.image_ids))
        noise = _estimate_noise(list(groups.values()))
        points = []
        for group in groups.values():
            resampled = [training.detections.score_resamples(counts).mean_ap for training in group]
            noise_of_mean = noise / len(group) ** 0.5
            mean = np.mean(np.nan_to_num(resampled), axis=0)
            points.append(mean + rng.normal(0, noise_of_mean, len(mean)))

        fewest_seeds = min(map(len, groups.values()))
        sizes = np.array(list(groups), dtype=np.float64)
        return cls(sizes, np.stack(points), noise / fewest_seeds**0.5)

    def predict(self, images: int) -> Prediction:
        """Predict the mAP of trainings on so many images."""
        predicted = predict_power_law(self.sizes, self.points, images, self.noise)
        interval = compute_interval(predicted)
        assert interval is not None  # no point is NaN
        return Prediction(images, float(np.median(predicted)), interval)


def score_means(trainings: Sequence[Trained]) -> dict[int, float]:
    """Return the mean mAP over seeds by the number of images, fewest first."""
    means = {}
    for images, group in _group_by_images(trainings).items():
        means[images] = float(np.mean([score_training(training) for training in group]))
    return means


def score_training(training: Trained) -> float:
    """Return the val mAP of a training; 0 where there is no object to find."""
    return float(np.nan_to_num(training.detections.score_split().mean_ap[0]))


def predict_power_law(sizes: Floats, points: Floats, size: float, noise: float) -> Floats:
    """Predict the value at `size` from values (points, resamples) at `sizes` (points,).

    For each exponent the limit, at most 1, and the gain, at least 0, come from least squares; which
    exponent a resample takes is drawn by how well it fits, where `noise` is the standard deviation
    of a point. Returns (resamples,).
    """
    predicted, errors = [], []
    for exponent in EXPONENTS:
        steps = sizes**-exponent
        limit, gain = _fit_line(steps, points)
        residuals = points - (limit - gain * steps[:, None])
        errors.append((residuals**2).sum(axis=0))
        predicted.append(limit - gain * size**-exponent)

    all_errors = np.stack(errors)
    likelihood = np.exp(-(all_errors - all_errors.min(axis=0)) / (2 * noise**2))
    cumulative = np.cumsum(likelihood / likelihood.sum(axis=0), axis=0)
    random = np.random.default_rng(1).random(points.shape[1])  # the same at each size
    drawn = (cumulative < random).sum(axis=0)
    chosen = np.minimum(drawn, len(EXPONENTS) - 1)
    values = np.stack(predicted)[chosen, np.arange(points.shape[1])]
    return np.clip(values, 0, 1)


def _fit_line(steps: Floats, points: Floats) -> tuple[Floats, Floats]:
    """Fit points (points, resamples) by limit - gain * steps; both are (resamples,)."""
    centered = steps - steps.mean()
    gain = -(centered[:, None] * (points - points.mean(axis=0))).sum(axis=0) / (centered**2).sum()
    gain = np.maximum(gain, 0)
    limit = points.mean(axis=0) + gain * steps.mean()

    # More than 1 no mAP can be: then the curve ends at 1.
    gain_to_one = (steps[:, None] * (1 - points)).sum(axis=0) / (steps**2).sum()
    is_over = limit > 1
    return np.where(is_over, 1.0, limit), np.where(is_over, gain_to_one, gain)


def _estimate_noise(groups: Sequence[Sequence[Trained]]) -> float:
    """Return the standard deviation of a training's mAP over seeds, the same for all sizes."""
    squares, degrees = 0.0, 0
    for group in groups:
        scores = np.array([score_training(training) for training in group])
        squares += float(((scores - scores.mean()) ** 2).sum())
        degrees += len(group) - 1
    if degrees == 0:
        return USUAL_NOISE
    return max(LEAST_NOISE, float((squares / degrees) ** 0.5))


def _group_by_images(trainings: Sequence[Trained]) -> dict[int, list[Trained]]:
    groups: dict[int, list[Trained]] = {}
    for training in sorted(trainings, key=lambda training: training.images):
        groups.setdefault(training.images, []).append(training)
    return groups

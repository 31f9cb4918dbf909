"""How fast an exported model is on this machine, measured within a time limit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.ground_truth import GroundTruth
from detreg.inference.detector import Detector
from detreg.inference.images import read_image

BATCH_SIZES = (1, 8)
TIME_LIMIT = 0.6
"""Seconds for each batch size, warm-up aside: enough for a figure, too little for a benchmark."""
MIN_RUNS = 3
MAX_RUNS = 200
MAX_SECONDS = 10.0
"""A larger batch whose fewest runs would take longer is left out: a training waits for this."""


@dataclass(frozen=True)
class BatchSpeed:
    """The milliseconds that a batch took, from images in memory to boxes: median and 99 %."""

    batch_size: int
    runs: int
    median: float
    percentile_99: float


@dataclass(frozen=True)
class ModelSpeed:
    """What ran, where, and how fast. num_bytes is the size of the file, None where not known."""

    device: str
    batches: tuple[BatchSpeed, ...]
    num_bytes: int | None = None


def measure_speed(
    detector: Detector, truth: GroundTruth, num_bytes: int | None = None
) -> ModelSpeed | None:
    """Time a detector on a split's first image, None where there is none.

    A slow model is timed with one image at a time only.
    """
    first = next(iter(truth.images.values()), None)
    if first is None:
        return None
    # Images of different sizes would not run together.
    image = read_image(first.file)
    batches: list[BatchSpeed] = []
    for batch_size in BATCH_SIZES:
        if batches and _estimate_seconds(batches[-1], batch_size) > MAX_SECONDS:
            break
        batches.append(_time_batch(detector, [image] * batch_size))
    return ModelSpeed(detector.device, tuple(batches), num_bytes)


def _estimate_seconds(smaller: BatchSpeed, batch_size: int) -> float:
    """Return the time of a batch's warm-up and fewest runs, if each image takes the same."""
    seconds_per_image = smaller.median / 1000 / smaller.batch_size
    return (1 + MIN_RUNS) * batch_size * seconds_per_image


def _time_batch(detector: Detector, batch: Sequence[npt.NDArray[np.uint8]]) -> BatchSpeed:
    # The first run of a shape allocates its memory, and on a GPU chooses its kernels.
    detector.batch(batch)

    milliseconds: list[float] = []
    end = time.perf_counter() + TIME_LIMIT
    while len(milliseconds) < MAX_RUNS:
        if len(milliseconds) >= MIN_RUNS and time.perf_counter() >= end:
            break
        start = time.perf_counter()
        detector.batch(batch)
        milliseconds.append(1000 * (time.perf_counter() - start))
    median, percentile_99 = np.percentile(milliseconds, [50, 99]).tolist()
    return BatchSpeed(len(batch), len(milliseconds), median, percentile_99)

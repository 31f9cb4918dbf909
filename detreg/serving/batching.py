"""Runs images of different requests together when they wait at the same time."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detreg.inference.detections import Detections
from detreg.inference.preprocessing import PreparedImage

BATCH_SIZES = (8, 4, 2, 1)
"""Few sizes, since each is compared with single runs once, and cuDNN prepares each anew."""

RunBatch = Callable[[Sequence[PreparedImage]], list[Detections]]
"""Runs the network on images whose inputs have the same size."""


@dataclass(eq=False)
class _Job:
    """An image that waits, and then what became of it."""

    image: PreparedImage
    detections: Detections | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.detections is not None or self.error is not None


class BatchRunner:
    """Runs the network for many threads, one batch after another.

    A batch is what waits at that moment, oldest first, and never waits for more. An answer does not
    depend on what ran beside it: a batch of a new shape is run both together and one by one, and
    only if all results are equal to the last bit are batches of this shape run together again.
    """

    def __init__(self, run: RunBatch, max_batch_size: int | None = None) -> None:
        self._run = run
        limit = max_batch_size or BATCH_SIZES[0]
        self._batch_sizes = tuple(size for size in BATCH_SIZES if size <= limit)
        self._waiting: list[_Job] = []
        self._waiting_lock = threading.Lock()
        self._session_lock = threading.Lock()
        self._is_exact: dict[tuple[int, ...], bool] = {}

    @property
    def num_waiting(self) -> int:
        """The images that wait for their batch."""
        return len(self._waiting)

    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Return all detections of each image. Raises what running its batch raised."""
        jobs = [_Job(image) for image in images]
        with self._waiting_lock:
            self._waiting += jobs

        # The thread that gets the lock runs the oldest batch, whoever it belongs to. The others
        # wait here, and find their jobs done or become the next to run one.
        for job in jobs:
            while not job.is_done:
                with self._session_lock:
                    if not job.is_done:
                        self._run_jobs(self._take_batch())
        return [_get_detections(job) for job in jobs]

    def _take_batch(self) -> list[_Job]:
        """Take the oldest jobs that can run together: those whose inputs have one size."""
        with self._waiting_lock:
            shape = self._waiting[0].image.pixels.shape
            alike = [job for job in self._waiting if job.image.pixels.shape == shape]
            size = next(size for size in self._batch_sizes if size <= len(alike))
            batch = alike[:size]
            taken = set(map(id, batch))
            self._waiting = [job for job in self._waiting if id(job) not in taken]
        return batch

    def _run_jobs(self, jobs: Sequence[_Job]) -> None:
        try:
            found = self._run_exactly([job.image for job in jobs])
        except Exception as error:
            for job in jobs:
                job.error = error
            return
        for job, detections in zip(jobs, found, strict=True):
            job.detections = detections

    def _run_exactly(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Return what running the images one by one returns."""
        shape = (len(images), *images[0].pixels.shape)
        if len(images) == 1 or self._is_exact.get(shape):
            return self._run(images)

        one_by_one = [self._run([image])[0] for image in images]
        if shape not in self._is_exact:
            together = self._run(images)
            pairs = zip(together, one_by_one, strict=True)
            self._is_exact[shape] = all(_are_equal(first, second) for first, second in pairs)
        return one_by_one


def _get_detections(job: _Job) -> Detections:
    if job.detections is None:
        raise job.error or RuntimeError("The job has not run")
    return job.detections


def _are_equal(first: Detections, second: Detections) -> bool:
    """Tell whether two results are equal to the last bit."""
    others = _list_arrays(second)
    return all(map(np.array_equal, _list_arrays(first), others))


def _list_arrays(detections: Detections) -> list[NDArray[np.generic]]:
    arrays: list[NDArray[np.generic]] = [*detections.arrays.values()]
    return arrays if detections.masks is None else [*arrays, detections.masks.probabilities]

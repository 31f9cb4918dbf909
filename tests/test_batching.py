"""Requests that wait at the same time run together, and answer as if each were alone."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_detector import draw_image, write_toy_model

from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.preprocessing import PreparedImage
from detreg.serving.batching import BatchRunner


def make_image(score: float, side: int = 4) -> PreparedImage:
    """Return an image that the network below finds one box with this score in."""
    pixels = np.full((side, side, 3), round(score * 100), np.uint8)
    return PreparedImage(pixels, (1.0, 1.0), (side, side))


def run_toy(images: Sequence[PreparedImage]) -> list[Detections]:
    found = []
    for image in images:
        score = np.array([image.pixels[0, 0, 0] / 100], np.float32)
        box = np.array([[0, 0, 1, 1]], np.float32)
        found.append(Detections(box, score, np.zeros(1, np.int64), ("boat",)))
    return found


class HeldNetwork:
    """Runs nothing before it is opened, and keeps the number of images of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.is_open = threading.Event()

    def run(self, images: Sequence[PreparedImage]) -> list[Detections]:
        self.batches.append(len(images))
        assert self.is_open.wait(600)
        return run_toy(images)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_waits_runs_together_and_never_waits_for_more() -> None:
    network = HeldNetwork()
    runner = BatchRunner(network.run)
    scores = [number / 20 for number in range(1, 13)]
    with ThreadPoolExecutor(12) as threads:
        try:
            first = threads.submit(runner.detect, [make_image(scores[0])])
            wait_until(lambda: network.batches == [1])
            others = [threads.submit(runner.detect, [make_image(score)]) for score in scores[1:]]
            wait_until(lambda: runner.num_waiting == 11)
        finally:
            network.is_open.set()
        found = [future.result(600) for future in [first, *others]]

    assert [each[0].scores.tolist() for each in found] == [
        [np.float32(round(score * 100) / 100)] for score in scores
    ]
    # A batch of a new shape is compared with single runs: 8 of them and 8 together, 2 and 2.
    assert network.batches == [1, *[1] * 8, 8, *[1] * 2, 2, 1]

    network.batches.clear()
    runner.detect([make_image(0.5) for _ in range(11)])
    assert network.batches == [8, 2, 1]


def test_only_inputs_of_one_size_run_together() -> None:
    network = HeldNetwork()
    network.is_open.set()
    runner = BatchRunner(network.run)
    images = [make_image(0.1), make_image(0.2, side=8), make_image(0.3), make_image(0.4, side=8)]
    for _ in range(2):
        network.batches.clear()
        found = runner.detect(images)
    assert network.batches == [2, 2]
    assert [round(float(each.scores[0]), 1) for each in found] == [0.1, 0.2, 0.3, 0.4]


def test_a_batch_that_is_not_equal_to_single_runs_is_not_used() -> None:
    batches: list[int] = []

    def run(images: Sequence[PreparedImage]) -> list[Detections]:
        batches.append(len(images))
        found = run_toy(images)
        if len(images) == 1:
            return found
        # The least difference that a float32 can have.
        return [replace(each, scores=np.nextafter(each.scores, np.float32(2))) for each in found]

    runner = BatchRunner(run)
    images = [make_image(0.5), make_image(0.25)]
    for _ in range(2):
        assert [each.scores.tolist() for each in runner.detect(images)] == [[0.5], [0.25]]
    assert batches == [1, 1, 2, 1, 1]


def test_a_graph_of_a_fixed_batch_gets_no_larger_one() -> None:
    network = HeldNetwork()
    network.is_open.set()
    runner = BatchRunner(network.run, max_batch_size=3)
    for _ in range(2):
        network.batches.clear()
        runner.detect([make_image(0.5) for _ in range(5)])
    assert network.batches == [2, 2, 1]


def test_a_failure_reaches_every_request_of_the_batch_and_no_other() -> None:
    def run(images: Sequence[PreparedImage]) -> list[Detections]:
        if any(image.pixels[0, 0, 0] == 13 for image in images):
            raise RuntimeError("out of memory")
        return run_toy(images)

    runner = BatchRunner(run)
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.detect([make_image(0.5), make_image(0.13)])
    assert len(runner.detect([make_image(0.5)])) == 1


@pytest.mark.parametrize("batch", ["n", "2"])
def test_many_threads_get_what_the_detector_finds(tmp_path: Path, batch: str) -> None:
    detector = Detector.load(write_toy_model(tmp_path / "toy.onnx", shape=(batch, "h", "w")))
    images = [draw_image(90, 70, (5, 6, 20 + number, 30), 210 + number) for number in range(40)]
    runner = BatchRunner(detector.run, detector.session.input_shape.batch)
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda image: runner.detect([detector.prepare(image)]), images))

    for image, (detections,) in zip(images, found, strict=True):
        expected = detector(image)
        np.testing.assert_array_equal(detections.filter(0.3).boxes, expected.boxes)
        np.testing.assert_array_equal(detections.filter(0.3).scores, expected.scores)

"""Served batches of every template's network answer as single runs do, to the last bit.

Whether a batch of a size runs together is decided by its first batch alone (serving/batching.py),
so further batches are compared here. It prints what runs together on this machine.
"""

from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from dense_networks import fill_with_dense_weights

from detreg.data.dataset import load_dataset
from detreg.export.graph import export_onnx
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.inference.preprocessing import PreparedImage
from detreg.pipeline import parse_settings
from detreg.serving.batching import BATCH_SIZES, BatchRunner
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.network import build_network

pytestmark = pytest.mark.soak

BATCHES = 5
"""Of each size; the first one decides."""
# Pyramids of the RetinaNets reach down to a stride of 128.
SIZES = ("128", "192,160")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_batches_equal_single_runs(name: str, size: str, tiny: Path, tmp_path: Path) -> None:
    detector = export_dense_detector(name, size, tiny, tmp_path)
    runner = BatchRunner(detector.run)
    random = np.random.default_rng(0)
    found = 0
    for batch_size in BATCH_SIZES:
        for _ in range(BATCHES):
            images = [draw_image(detector, random) for _ in range(batch_size)]
            for image, detections in zip(images, runner.detect(images), strict=True):
                (expected,) = detector.run([image])
                assert_equal(detections, expected)
                found += len(expected)
    assert found > 40
    together = [shape[0] for shape, is_exact in runner._is_exact.items() if is_exact]
    print(f"\n{name} {size}: batches of {together} run together, {found} detections compared")


def export_dense_detector(name: str, size: str, data: Path, folder: Path) -> Detector:
    """Return a detector with random weights that finds much."""
    template, dataset = TEMPLATES[name], load_dataset(data)
    values = SMALL[name] | {"image_size": size, "keep_aspect_ratio": False}
    params, options = parse_settings(template, values)
    config = compose(template, template.resolve(params), dataset, options)
    network = fill_with_dense_weights(template, params, build_network(config.model, None), config)
    card = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)
    input_spec = template.get_base_model(params).input
    path = export_onnx(network, template.decoder, input_spec, card, folder / "model.onnx")
    return Detector.load(path)


def draw_image(detector: Detector, random: np.random.Generator) -> PreparedImage:
    """Return noise with a rectangle, as the network gets it."""
    pixels = random.integers(0, 256, (90, 110, 3), np.uint8)
    left, top = random.integers(0, 60, 2)
    pixels[top : top + 25, left : left + 40] = random.integers(0, 256, 3)
    return detector.prepare(pixels)


def assert_equal(actual: Detections, expected: Detections) -> None:
    others = expected.arrays
    for name, array in actual.arrays.items():
        np.testing.assert_array_equal(array, others[name])

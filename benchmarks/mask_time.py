"""Measure what masks add to the time of the exported graph, at each default size.

    python benchmarks/mask_time.py                   all templates with masks, with random weights
    python benchmarks/mask_time.py faster_rcnn       one of them

The graph of boxes and that of boxes and masks have the same weights and find the same objects:
20 of them in one image, all that the list has room for. Both run in turns in one thread of the CPU;
the figures are the least of ten runs, in the processor's own time, whatever else it does.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from detreg.export.graph import export_onnx
from detreg.inference.from_template import make_card, make_preprocessing
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.compose import compose_network, load_published_config
from detreg.training.network import build_network

CLASSES = ("a", "b", "c")
LIGHT = {"msc10": {"base_model": "mobilenetv2_100"}}
"""Base models that are smaller than the default ones."""
SOURCES = ("pretrained_weights", "pretrain_base_data")

OBJECTS = 20
IMAGE_SIZE = (640, 480)
"""Width and height of the image before it is resized."""
WARM_UP_RUNS = 1
RUNS = 11


def export_both(template: Template, folder: Path) -> tuple[list[Path], tuple[int, int]]:
    """Export a fresh network without and with its masks.

    Returns the files, and the (width, height) of their input.
    """
    no_weights = {name: "none" for name in SOURCES if name in get_params(template.params)}
    light: dict[str, Any] = LIGHT.get(template.name, {})
    values = {**light, **no_weights, "frozen_stages": 0}
    torch.manual_seed(0)
    complete = build_from(template, build(template.params, {**values, "masks": True}))

    paths = []
    for masks in (False, True):
        params = build(template.params, {**values, "masks": masks})
        network = build_from(template, params)
        network.load_state_dict(complete.state_dict(), strict=masks)
        card = make_card(template, params, CLASSES, 0.05, None, None)
        input_spec = template.get_base_model(params).input
        path = folder / f"masks-{masks}.onnx"
        paths.append(export_onnx(network, template.decoder, input_spec, card, path))
    return paths, make_preprocessing(template, params).compute_input_size(*IMAGE_SIZE)


def build_from(template: Template, params: CommonParams) -> Any:
    """Build a network that finds as many objects as there may be."""
    published = load_published_config(template, params)
    network: Any = build_network(compose_network(template, params, published, len(CLASSES)), None)
    # Random weights score nothing over the usual threshold, or everything.
    selection = network.test_cfg.get("rcnn", network.test_cfg)
    selection.score_thr = 0.0
    selection.max_per_img = OBJECTS
    return network


def open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(paths: list[Path], size: tuple[int, int]) -> list[float]:
    """Return the milliseconds of a run of each graph on random pixels."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    sessions = [open_session(path) for path in paths]
    times = np.zeros((RUNS, len(sessions)))
    for run in range(RUNS):
        for place, session in enumerate(sessions):
            begun = time.process_time()
            outputs = session.run(None, {"images": pixels})
            times[run, place] = time.process_time() - begun
            found = int((outputs[1] > 0).sum())
            if found != OBJECTS:
                raise SystemExit(f"{found} objects instead of {OBJECTS} have a score")
    least: list[float] = (times[WARM_UP_RUNS:].min(axis=0) * 1e3).tolist()
    return least


def main(names: list[str]) -> None:
    """Print a row for each template."""
    print("| template | input | boxes, ms | boxes and masks, ms | added |")
    print("|---|---|---|---|---|")
    with_masks = [name for name, entry in TEMPLATES.items() if "masks" in get_params(entry.params)]
    for name in names or with_masks:
        with tempfile.TemporaryDirectory() as folder:
            paths, size = export_both(TEMPLATES[name], Path(folder))
            boxes, both = measure(paths, size)
        width, height = size
        cells = (f"`{name}`", f"{width}x{height}", f"{boxes:.0f}", f"{both:.0f}")
        print(f"| {' | '.join(cells)} | {both / boxes - 1:.1%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

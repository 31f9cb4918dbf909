"""Measure the share of decoding and NMS in the exported graph's time, at each default size.

    python benchmarks/decode_time.py                 all templates with random weights
    python benchmarks/decode_time.py ssd             one of them

Reads onnxruntime's profile on one image of the default image_size: medians of twenty runs after
two, on the CPU. What runs before the first node of a module prepares pixels; the network is what
lies inside a module, and RoIAlign; the rest is decoding and NMS.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnxruntime as ort

from detreg.export.graph import export_onnx
from detreg.inference.from_template import make_card, make_preprocessing
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training.compose import compose_network, load_published_config
from detreg.training.network import build_network

CLASSES = ("a", "b", "c")
LIGHT = {"yolox": {"base_model": "yolox_s"}, "msc10": {"base_model": "mobilenetv2_100"}}
"""Base models that are smaller than the default ones."""
SOURCES = ("pretrained_weights", "pretrain_base_data")

IMAGE_SIZE = (640, 480)
"""Width and height of the image before it is resized."""
WARM_UP_RUNS = 2
RUNS = 22


class Node(TypedDict):
    """What is read of an event of onnxruntime's profile; `dur` is in microseconds."""

    cat: str
    name: str
    dur: int


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run."""

    total: float
    pixels: float
    decoding: float

    @property
    def decoding_share(self) -> float:
        return self.decoding / self.total


def export_template(template: Template, folder: Path) -> tuple[Path, tuple[int, int]]:
    """Export a fresh network, and return the file and the (width, height) of its input."""
    no_weights = {name: "none" for name in SOURCES if name in get_params(template.params)}
    values = {**LIGHT.get(template.name, {}), **no_weights, "frozen_stages": 0}
    params = build(template.params, values)

    published = load_published_config(template, params)
    config = compose_network(template, params, published, len(CLASSES))
    network = build_network(config, None)

    card = make_card(template, params, CLASSES, 0.05, None, None)
    input_spec = template.get_base_model(params).input
    path = export_onnx(network, template.decoder, input_spec, card, folder / "model.onnx")
    return path, make_preprocessing(template, params).compute_input_size(*IMAGE_SIZE)


def measure(path: Path, size: tuple[int, int], folder: Path) -> Times:
    """Profile a graph on random pixels, and return the medians of its runs."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    for _ in range(RUNS):
        session.run(None, {"images": pixels})

    nodes = read_nodes(Path(session.end_profiling()))
    per_run = len(nodes) // RUNS
    times = []
    for first in range(WARM_UP_RUNS * per_run, len(nodes), per_run):
        times.append(split_times(nodes[first : first + per_run]))
    total, before, decoding = np.median(times, axis=0) / 1e3
    return Times(total, before, decoding)


def read_nodes(profile: Path) -> list[Node]:
    """Return the executions of nodes in a profile, in the order in which they ran."""
    events: list[Node] = json.loads(profile.read_text())
    nodes = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.append(event)
    return nodes


def split_times(nodes: list[Node]) -> tuple[int, int, int]:
    """Return microseconds of one run: in total, before the network, and of decoding and NMS."""
    # A node of the network is called /backbone/conv1/Conv, one outside it /TopK.
    is_network = [node["name"].count("/") > 1 or "RoiAlign" in node["name"] for node in nodes]
    first = is_network.index(True)

    total = before = decoding = 0
    for place, node in enumerate(nodes):
        total += node["dur"]
        if place < first:
            before += node["dur"]
        elif not is_network[place]:
            decoding += node["dur"]
    return total, before, decoding


def main(names: list[str]) -> None:
    """Print a row for each template."""
    heads = (
        "template",
        "input",
        "graph, ms",
        "preparing pixels, ms",
        "decoding and NMS, ms",
        "share of these",
    )
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")

    for name in names or list(TEMPLATES):
        with tempfile.TemporaryDirectory() as folder:
            path, size = export_template(TEMPLATES[name], Path(folder))
            times = measure(path, size, Path(folder))
        cells = (
            f"`{name}`",
            f"{size[0]}x{size[1]}",
            f"{times.total:.0f}",
            f"{times.pixels:.1f}",
            f"{times.decoding:.1f}",
            f"{times.decoding_share:.1%}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

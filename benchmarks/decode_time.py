"""The share of decoding and NMS in the exported graph's time, at each template's default size.

    python benchmarks/decode_time.py                 all templates with random weights
    python benchmarks/decode_time.py ssd             one of them

onnxruntime's profile on one picture of the default image_size, medians of twenty runs after two, on the CPU. What runs before the first
node of a module prepares pixels; the network is what lies inside a module, and RoIAlign; the rest is decoding and NMS.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template

LIGHT = {"yolox": {"base_model": "yolox_s"}, "msc10": {"base_model": "mobilenetv2_100"}}
RUNS = 22
SOURCES = ("pretrained_weights", "pretrain_base_data")


def export(template: Template, folder: Path) -> tuple[Path, tuple[int, int]]:
    """The graph of a fresh network of three classes, and the (width, height) of its input for a 640x480 picture."""
    from detreg.export.graph import export_onnx
    from detreg.inference.from_template import make_card, make_preprocessing
    from detreg.training.compose import compose_network, load_published_config
    from detreg.training.network import build_network

    none = {name: "none" for name in SOURCES if name in get_params(template.params)}
    params = build(template.params, {**LIGHT.get(template.name, {}), **none, "frozen_stages": 0})
    classes = ("a", "b", "c")
    model = build_network(
        compose_network(template, params, load_published_config(template, params), len(classes)),
        None,
    )
    about = make_card(template, params, classes, 0.05, None, None)
    prep = make_preprocessing(template, params)
    input_spec = template.get_base_model(params).input
    path = export_onnx(model, template.decoder, input_spec, about, folder / "model.onnx")
    return path, prep.compute_input_size(640, 480)


def profiled(path: Path, size: tuple[int, int], folder: Path) -> tuple[float, float, float]:
    """Milliseconds of a run: of everything, of preparing pixels, and of decoding and NMS."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).integers(0, 256, (1, size[1], size[0], 3), dtype=np.uint8)
    for _ in range(RUNS):
        session.run(None, {"images": picture})
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    nodes = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    per_run = len(nodes) // RUNS
    runs = [nodes[first : first + per_run] for first in range(2 * per_run, len(nodes), per_run)]
    whole, pixels, rest = np.median([parts(run) for run in runs], axis=0) / 1e3
    return whole, pixels, rest


def parts(nodes: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Microseconds of one run: of everything, of preparing pixels, and of decoding and NMS."""
    # A node of the network is called /backbone/conv1/Conv, one outside it /TopK.
    inside = [event["name"].count("/") > 1 or "RoiAlign" in event["name"] for event in nodes]
    first = inside.index(True)
    outside = [
        event["dur"]
        for event, within in zip(nodes[first:], inside[first:], strict=True)
        if not within
    ]
    return (
        sum(event["dur"] for event in nodes),
        sum(event["dur"] for event in nodes[:first]),
        sum(outside),
    )


def main(names: list[str]) -> None:
    """Prints a row for each template."""
    print(
        "| template | input | graph, ms | preparing pixels, ms | decoding and NMS, ms | share of these |\n|---|---|---|---|---|---|"
    )
    for name in names or list(TEMPLATES):
        with tempfile.TemporaryDirectory() as folder:
            path, size = export(TEMPLATES[name], Path(folder))
            whole, pixels, rest = profiled(path, size, Path(folder))
        print(
            f"| `{name}` | {size[0]}x{size[1]} | {whole:.0f} | {pixels:.1f} | {rest:.1f} | {rest / whole:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])

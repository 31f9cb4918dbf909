"""The exported graph against MMDetection's own predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import SMALL
from cuda_kernels import CUDA_KERNELS
from dense_networks import fill_with_dense_weights

from detreg.data.dataset import load_dataset
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.graph import export_onnx
from detreg.export.parity import measure_parity
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.inference.onnx_graph.operators import OPSET
from detreg.inference.outputs import REQUIRED_OUTPUTS
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.network import build_network, predict

NO_KERNEL_NEEDED = {"Constant"}
"""Folded into the graph before it runs."""

KEEP_RATIO = {"image_size": 64, "max_aspect_ratio": 1.5, "keep_aspect_ratio": True}
EXACT = {"image_size": "96,64", "keep_aspect_ratio": False}
# The pyramids of the RetinaNets reach down to a stride of 128.
WIDE = KEEP_RATIO | {"image_size": 128}
RETINANETS = ("inception_v4", "inception_v2", "msc10")

Case = tuple[str, dict[str, Any]]
CASES: list[Case] = [
    *((name, WIDE if name in RETINANETS else KEEP_RATIO) for name in TEMPLATES),
    *((name, EXACT) for name in TEMPLATES),
    ("yolox", {"image_size": 64, "max_aspect_ratio": 1.0}),
    ("ssd", {"base_model": "ssd300_vgg16", "image_size": 320, "keep_aspect_ratio": False}),
    (
        "faster_rcnn",
        KEEP_RATIO | {"use_perclass_regression": False, "anchor_ratios": "0.5,1,2,4"},
    ),
    (
        "msc10",
        WIDE
        | {
            "base_model": "efficientnet_b0",
            "use_perclass_regression": True,
            "use_focal_loss": False,
        },
    ),
    ("msc10", WIDE | {"base_model": "convnext_tiny"}),
    ("msc10", WIDE | {"base_model": "resnet50", "anchor_ratios": "0.3,3"}),
]


def name_case(case: Case) -> str:
    name, values = case
    return "-".join([name, *map(str, values.values())])


@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_the_file_finds_what_the_network_finds(case: Case, tiny: Path, tmp_path: Path) -> None:
    """Random weights, scaled until detections are many; and every operator has a CUDA kernel."""
    name, values = case
    template, dataset = TEMPLATES[name], load_dataset(tiny)
    params, options = parse_settings(template, SMALL[name] | values)
    config = compose(template, template.resolve(params), dataset, options)
    network = fill_with_dense_weights(template, params, build_network(config.model, None), config)
    trained = dict(predict(network, config.val_dataloader, dataset.classes))

    card = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)
    input_spec = template.get_base_model(params).input
    path = export_onnx(network, template.decoder, input_spec, card, tmp_path / "model.onnx")
    detector = Detector.load(path)
    assert detector.card == card

    truth = GroundTruth.load(dataset.splits["val"].annotations)
    parity = measure_parity(truth, predict_split(detector, truth), trained)
    matched, total = parity.matches.matched, parity.matches.total
    # With pytest's -s this is the table in docs/export.md.
    print(f"\n{name} {values}: {matched} of {total} matched, mAP {parity.map_difference:+.5f}")
    assert total > 40
    assert matched >= 0.999 * total
    assert abs(parity.map_difference) <= 0.001

    model = onnx.load(path)
    names = [output.name for output in model.graph.output]
    assert names == [output.name for output in REQUIRED_OUTPUTS]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not find_operators_without_cuda_kernel(model)


def find_operators_without_cuda_kernel(model: onnx.ModelProto) -> set[str]:
    """Return operators, with their version, that onnxruntime would run on the CPU beside a GPU."""
    found = set()
    for graph in iterate_graphs(model.graph):
        for node in graph.node:
            schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=OPSET)
            if not has_cuda_kernel(node.op_type, schema.since_version):
                found.add(f"{node.op_type}-{schema.since_version}")
    return found


def has_cuda_kernel(operator: str, version: int) -> bool:
    if operator in NO_KERNEL_NEEDED:
        return True
    for first, last in CUDA_KERNELS.get(operator, []):
        # A range without an end holds for its first version alone.
        if first <= version <= (last or first):
            return True
    return False


def iterate_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from iterate_graphs(attribute.g)


def test_cuda_kernels_differ_by_version() -> None:
    """Newer versions of RoiAlign, Pad and TopK ran on the CPU without a warning."""
    node = onnx.helper.make_node("StringNormalizer", ["x"], ["y"])
    graph = onnx.helper.make_graph([node, onnx.helper.make_node("Relu", ["x"], ["z"])], "g", [], [])
    model = onnx.helper.make_model(graph)
    assert find_operators_without_cuda_kernel(model) == {"StringNormalizer-10"}
    assert has_cuda_kernel("TopK", 11)
    assert not has_cuda_kernel("TopK", 24)

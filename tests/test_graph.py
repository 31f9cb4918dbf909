"""The exported graph against MMDetection's own predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import SMALL
from cuda_kernels import CUDA_KERNELS
from dense_networks import fill_with_dense_weights

from detreg.data.dataset import load_dataset
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.decode.selection import DecodedBoxes, select_detections
from detreg.export.graph import OPSET, export_onnx
from detreg.export.parity import measure_parity
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.network import build_network, predict

NO_KERNEL_NEEDED = {"Constant"}
"""Folded into the graph before it runs."""
KEPT = {"image_size": 64, "max_aspect_ratio": 1.5, "keep_aspect_ratio": True}
EXACT = {"image_size": "96,64", "keep_aspect_ratio": False}
WIDE = {"image_size": 128, "max_aspect_ratio": 1.5, "keep_aspect_ratio": True}
RETINANETS = ("inception_v4", "inception_v2", "msc10")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, WIDE if name in RETINANETS else KEPT) for name in TEMPLATES),
    *((name, EXACT) for name in TEMPLATES),
    ("yolox", {"image_size": 64, "max_aspect_ratio": 1.0}),
    ("ssd", {"base_model": "ssd300_vgg16", "image_size": 320, "keep_aspect_ratio": False}),
    ("faster_rcnn", {**KEPT, "use_perclass_regression": False, "anchor_ratios": "0.5,1,2,4"}),
    (
        "msc10",
        {
            **WIDE,
            "base_model": "efficientnet_b0",
            "use_perclass_regression": True,
            "use_focal_loss": False,
        },
    ),
    ("msc10", {**WIDE, "base_model": "convnext_tiny"}),
    ("msc10", {**WIDE, "base_model": "resnet50", "anchor_ratios": "0.3,3"}),
]


@pytest.mark.parametrize(
    ("name", "values"),
    CASES,
    ids=[f"{name}-{'-'.join(map(str, values.values()))}" for name, values in CASES],
)
def test_the_file_finds_what_the_network_finds(
    name: str, values: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    """Random weights, pushed until detections are many; and every operator of the file has a CUDA kernel."""
    template = TEMPLATES[name]
    params, options = parse_settings(template, SMALL[name] | values)
    dataset = load_dataset(tiny)
    config = compose(template, template.resolve(params), dataset, options)
    network = fill_with_dense_weights(template, params, build_network(config.model, None), config)
    trained = dict(predict(network, config.val_dataloader, dataset.classes))
    about = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)
    detector = Detector.load(
        export_onnx(
            network,
            template.decoder,
            template.get_base_model(params).input,
            about,
            tmp_path / "model.onnx",
        )
    )
    truth = GroundTruth.load(dataset.splits["val"].annotations)
    exported = predict_split(detector, truth)
    parity = measure_parity(truth, exported, trained)
    matched, total = parity.matches.matched, parity.matches.total
    print(
        f"\n{name} {values}: {matched} of {total} matched, mAP {parity.map_difference:+.5f}"
    )  # the table in docs/export.md, with pytest's -s
    assert total > 40 and matched >= 0.999 * total
    assert abs(parity.map_difference) <= 0.001
    assert detector.card == about
    model = onnx.load(tmp_path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not without_cuda_kernel(model)


def without_cuda_kernel(model: onnx.ModelProto) -> set[str]:
    """Operators, with their version, that onnxruntime would run on the CPU beside a GPU."""
    found = set()
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        version = onnx.defs.get_schema(node.op_type, max_inclusive_version=OPSET).since_version
        ranges = CUDA_KERNELS.get(node.op_type, [])
        if node.op_type not in NO_KERNEL_NEEDED and not any(
            first <= version <= (last or first) for first, last in ranges
        ):
            found.add(f"{node.op_type}-{version}")
    return found


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def test_the_list_of_cuda_kernels_is_told_apart_by_version() -> None:
    """A newer RoiAlign, Pad and TopK fell back to the CPU without a word."""
    node = onnx.helper.make_node("StringNormalizer", ["x"], ["y"])
    graph = onnx.helper.make_graph([node, onnx.helper.make_node("Relu", ["x"], ["z"])], "g", [], [])
    assert without_cuda_kernel(onnx.helper.make_model(graph)) == {"StringNormalizer-10"}


def test_select_equals_mmcvs_batched_nms() -> None:
    from mmcv.ops import batched_nms  # after detreg.training, which brings the operators

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 400, 2, generator=generator) * 60
    boxes = torch.cat(
        (corner, corner + 5 + torch.rand(2, 400, 2, generator=generator) * 30), dim=-1
    )
    scores, labels = (
        torch.rand(2, 400, generator=generator),
        torch.randint(0, 5, (2, 400), generator=generator),
    )
    found_boxes, found_scores, found_labels = select_detections(
        DecodedBoxes(boxes, scores, labels),
        score_threshold=0.3,
        iou_threshold=0.5,
        max_detections=300,
    )
    for image in range(2):
        valid = scores[image] > 0.3
        wanted, keep = batched_nms(
            boxes[image][valid],
            scores[image][valid],
            labels[image][valid],
            {"type": "nms", "iou_threshold": 0.5},
        )
        count = int((found_scores[image] > 0).sum())
        assert count == len(keep) and (found_scores[image, count:] == 0).all()
        np.testing.assert_allclose(found_scores[image, :count], wanted[:, 4])
        np.testing.assert_allclose(found_boxes[image, :count], wanted[:, :4], atol=1e-4)
        assert torch.equal(found_labels[image, :count], labels[image][valid][keep])

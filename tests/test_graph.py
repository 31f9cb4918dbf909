"""The exported graph against MMDetection's own predictions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import dense

from detreg.data.dataset import load
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.graph import OPSET, export, select
from detreg.export.parity import compare, matched
from detreg.inference.detector import Detector
from detreg.pipeline import settings
from detreg.templates import TEMPLATES
from detreg.training.compose import card, compose
from detreg.training.engine import build_network, predict


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize(
    "sizes", [{"image_size": 64}, {"image_size": 64, "max_aspect_ratio": 1.5}, {"image_size": "96,64", "keep_aspect_ratio": False}]
)
def test_the_file_finds_what_the_network_finds(name: str, sizes: dict[str, object], tiny: Path, tmp_path: Path) -> None:
    """Random weights, pushed until detections are many."""
    template = TEMPLATES[name]
    params, options = settings(template, {"base_model": "yolox_nano", "pretrained_weights": "none", "num_workers": 0, **sizes})
    dataset = load(tiny)
    config = compose(template, params, dataset, options)
    network = build_network(config.model, dense(build_network(config.model, None).state_dict()))
    trained = dict(predict(network, config.val_dataloader, dataset.classes))
    about = card(template, params, dataset.classes, 0.05, dataset.digest, None)
    detector = Detector.load(export(network, template.input, about, tmp_path / "model.onnx"))
    truth = GroundTruth.load(dataset.splits["val"].annotations)
    exported = predict_split(detector, truth)
    partners, total = matched(exported, trained)
    assert total > 100 and partners >= 0.999 * total
    assert abs(compare(truth, exported, trained).difference) <= 0.001
    assert detector.card == about
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == OPSET


def test_select_equals_mmcvs_batched_nms() -> None:
    from mmcv.ops import batched_nms  # after detreg.training, which brings the operators

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 400, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(2, 400, 2, generator=generator) * 30), dim=-1)
    scores, labels = torch.rand(2, 400, generator=generator), torch.randint(0, 5, (2, 400), generator=generator)
    found_boxes, found_scores, found_labels = select(boxes, scores, labels, score_threshold=0.3, iou_threshold=0.5)
    for image in range(2):
        valid = scores[image] >= 0.3
        wanted, keep = batched_nms(boxes[image][valid], scores[image][valid], labels[image][valid], {"type": "nms", "iou_threshold": 0.5})
        count = int((found_labels[image] >= 0).sum())
        assert count == len(keep) and (found_scores[image, count:] == 0).all()
        np.testing.assert_allclose(found_scores[image, :count], wanted[:, 4])
        np.testing.assert_allclose(found_boxes[image, :count], wanted[:, :4], atol=1e-4)
        assert torch.equal(found_labels[image, :count], labels[image][valid][keep])

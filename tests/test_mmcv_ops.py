"""torchvision behind mmcv's names: the same numbers as a plain computation, and a clear error for every other operator."""

import importlib.util
import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import detreg.training  # noqa: F401  puts the operators behind mmcv's names before mmcv is imported
from detreg.training import mmcv_ops

mmcv_ops_module = pytest.importorskip("mmcv.ops")
STANDS_IN = isinstance(sys.modules["mmcv._ext"], mmcv_ops._Extension)
without_compiled = pytest.mark.skipif(
    not STANDS_IN, reason="the compiled mmcv is installed and is used"
)


def some_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes that overlap each other a lot, and scores that are all different."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 40
    sides = 5 + torch.rand(count, 2, generator=generator) * 30
    return torch.cat([corners, corners + sides], 1), torch.randperm(
        count, generator=generator
    ).float() / count


def brute_force_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Keeps a box unless a kept one with a higher score overlaps it by more than the threshold."""
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        x1, y1, x2, y2 = boxes[index].tolist()
        for other in kept:
            a1, b1, a2, b2 = boxes[other].tolist()
            shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            if shared / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared) > threshold:
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_nms_equals_a_brute_force(threshold: float, seed: int) -> None:
    boxes, scores = some_boxes(40, seed)
    expected = brute_force_nms(boxes, scores, threshold)
    assert 1 < len(expected) < 40 or threshold == 0.9
    found, kept = mmcv_ops_module.nms(boxes, scores, iou_threshold=threshold)
    assert kept.tolist() == expected
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_batched_nms_keeps_classes_apart() -> None:
    boxes, scores = some_boxes(30, 7)
    labels = torch.arange(30) % 3
    _, kept = mmcv_ops_module.batched_nms(
        boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5}
    )
    expected = set()
    for label in range(3):
        own = (labels == label).nonzero()[:, 0]
        expected |= {int(own[index]) for index in brute_force_nms(boxes[own], scores[own], 0.5)}
    assert set(kept.tolist()) == expected


def test_nms_of_nothing() -> None:
    _, kept = mmcv_ops_module.nms(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5)
    assert kept.shape == (0,)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("scale", "ratio"), [(1.0, 0), (0.25, 2)])
def test_roi_align_equals_torchvision_forward_and_backward(
    aligned: bool, scale: float, ratio: int
) -> None:
    boxes, _ = some_boxes(6, 3)
    rois = torch.cat([torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0]]), boxes], 1)
    pixels = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(6, 3, 7, 5, generator=torch.Generator().manual_seed(2))
    outputs, gradients = [], []
    for align in (
        mmcv_ops_module.RoIAlign(
            (7, 5), spatial_scale=scale, sampling_ratio=ratio, aligned=aligned
        ),
        torchvision.ops.RoIAlign(
            (7, 5), spatial_scale=scale, sampling_ratio=ratio or -1, aligned=aligned
        ),
    ):
        features = pixels.clone().requires_grad_()
        output = align(features, rois)
        (output * weights).sum().backward()
        outputs.append(output.detach())
        gradients.append(features.grad)
    assert outputs[0].abs().sum() > 0
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@without_compiled
@pytest.mark.parametrize(
    "call",
    [
        lambda: mmcv_ops_module.softmax_focal_loss(
            torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 2.0, 0.25, None, "mean"
        ),
        lambda: mmcv_ops_module.RoIPool((7, 7))(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)),
    ],
)
def test_another_operator_says_what_is_missing(call: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"needs the compiled mmcv: .*pip install mmcv"):
        call()


@without_compiled
def test_what_torchvision_cannot_do_is_refused() -> None:
    boxes, scores = some_boxes(4, 0)
    with pytest.raises(NotImplementedError, match="offset must be 0, got 1"):
        mmcv_ops_module.nms(boxes, scores, iou_threshold=0.5, offset=1)
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        mmcv_ops_module.RoIAlign((2, 2), pool_mode="max")(
            torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)
        )


@without_compiled
def test_installing_twice_changes_nothing() -> None:
    before = sys.modules["mmcv._ext"]
    mmcv_ops.install()
    assert sys.modules["mmcv._ext"] is before
    assert importlib.util.find_spec("mmcv._ext") is not None

"""torchvision's operators behind mmcv's names: equal numbers, and clear errors for all others."""

import importlib.util
import sys
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

import detreg.training  # noqa: F401  puts the operators behind mmcv's names before mmcv's import
from detreg.training import mmcv_ops

mmcv_ops_module = pytest.importorskip("mmcv.ops")
IS_STAND_IN = isinstance(sys.modules["mmcv._ext"], mmcv_ops._Extension)
needs_stand_in = pytest.mark.skipif(
    not IS_STAND_IN, reason="the compiled mmcv is installed and is used"
)


def make_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return boxes that overlap each other a lot, and scores that are all different."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 40
    sides = 5 + torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + sides], 1)
    scores = torch.randperm(count, generator=generator).float() / count
    return boxes, scores


def compute_iou(one: list[float], other: list[float]) -> float:
    """Compute the intersection over union of two boxes x1 y1 x2 y2."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height

    one_area = (one[2] - one[0]) * (one[3] - one[1])
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    return shared / (one_area + other_area - shared)


def brute_force_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Keep a box unless a kept one with a higher score overlaps it by more than the threshold."""
    rows = boxes.tolist()
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(compute_iou(rows[index], rows[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


# NMS


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_nms_equals_a_brute_force(threshold: float, seed: int) -> None:
    boxes, scores = make_boxes(40, seed)
    expected = brute_force_nms(boxes, scores, threshold)
    if threshold < 0.9:
        assert 1 < len(expected) < 40

    detections, kept = mmcv_ops_module.nms(boxes, scores, iou_threshold=threshold)
    assert kept.tolist() == expected
    assert torch.equal(detections, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_batched_nms_keeps_classes_apart() -> None:
    boxes, scores = make_boxes(30, 7)
    labels = torch.arange(30) % 3
    nms_config = {"type": "nms", "iou_threshold": 0.5}
    _, kept = mmcv_ops_module.batched_nms(boxes, scores, labels, nms_config)

    expected = set()
    for label in range(3):
        indices = (labels == label).nonzero()[:, 0]
        kept_of_class = brute_force_nms(boxes[indices], scores[indices], 0.5)
        expected |= set(indices[kept_of_class].tolist())
    assert set(kept.tolist()) == expected


def test_nms_of_nothing() -> None:
    _, kept = mmcv_ops_module.nms(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5)
    assert kept.shape == (0,)


# RoIAlign


def run_with_gradient(
    align: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, rois: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of its weighted sum by the pixels."""
    features = pixels.clone().requires_grad_()
    output = align(features, rois)
    (output * weights).sum().backward()
    assert features.grad is not None
    return output.detach(), features.grad


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("scale", "ratio"), [(1.0, 0), (0.25, 2)])
def test_roi_align_equals_torchvision_forward_and_backward(
    aligned: bool, scale: float, ratio: int
) -> None:
    boxes, _ = make_boxes(6, 3)
    image_indices = torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0]])
    rois = torch.cat([image_indices, boxes], 1)
    pixels = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(6, 3, 7, 5, generator=torch.Generator().manual_seed(2))

    ours = mmcv_ops_module.RoIAlign(
        (7, 5), spatial_scale=scale, sampling_ratio=ratio, aligned=aligned
    )
    # torchvision writes -1 where mmcv writes 0: as many samples as a cell has pixels.
    torchvisions = torchvision.ops.RoIAlign(
        (7, 5), spatial_scale=scale, sampling_ratio=ratio or -1, aligned=aligned
    )
    output, gradient = run_with_gradient(ours, pixels, rois, weights)
    expected_output, expected_gradient = run_with_gradient(torchvisions, pixels, rois, weights)
    assert output.abs().sum() > 0
    torch.testing.assert_close(output, expected_output)
    torch.testing.assert_close(gradient, expected_gradient)


# what is missing


@needs_stand_in
def test_another_operator_says_what_is_missing() -> None:
    message = r"needs the compiled mmcv: .*pip install mmcv"
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(NotImplementedError, match=message):
        mmcv_ops_module.softmax_focal_loss(torch.zeros(2, 3), labels, 2.0, 0.25, None, "mean")
    with pytest.raises(NotImplementedError, match=message):
        mmcv_ops_module.RoIPool((7, 7))(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5))


@needs_stand_in
def test_what_torchvision_cannot_do_is_refused() -> None:
    boxes, scores = make_boxes(4, 0)
    with pytest.raises(NotImplementedError, match="offset must be 0, got 1"):
        mmcv_ops_module.nms(boxes, scores, iou_threshold=0.5, offset=1)

    take_maxima = mmcv_ops_module.RoIAlign((2, 2), pool_mode="max")
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        take_maxima(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5))


@needs_stand_in
def test_installing_twice_changes_nothing() -> None:
    before = sys.modules["mmcv._ext"]
    mmcv_ops.install()
    assert sys.modules["mmcv._ext"] is before
    assert importlib.util.find_spec("mmcv._ext") is not None

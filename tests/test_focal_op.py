"""The focal loss behind mmcv's names, for GPUs, equals MMDetection's own Python for CPUs."""

import itertools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import detreg.training  # noqa: F401  puts the operators behind mmcv's names before mmcv's import
from detreg.training import mmcv_ops

focal_loss = pytest.importorskip("mmdet.models.losses.focal_loss")
operator = pytest.importorskip("mmcv.ops.focal_loss").SigmoidFocalLossFunction
IS_STAND_IN = isinstance(sys.modules["mmcv._ext"], mmcv_ops._Extension)
pytestmark = pytest.mark.skipif(
    not IS_STAND_IN,
    reason="the compiled mmcv is installed and is used; it has no focal loss for CPUs",
)

ROWS, CLASSES = 60, 4
REDUCTIONS = ("none", "mean", "sum")


class GpuTensor(Tensor):
    """A tensor that MMDetection takes for one on a GPU."""

    is_cuda = True


def make_logits() -> Tensor:
    """Return logits from hopeless to certain."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, CLASSES, generator=generator) * 4
    return logits.requires_grad_()


def make_labels(*, with_background: bool = True) -> Tensor:
    """Return labels of which every one occurs; the background is CLASSES."""
    return torch.arange(ROWS) % (CLASSES + with_background)


def compute_expected(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute the loss by MMDetection's Python."""
    target = one_hot(labels, CLASSES + 1)[:, :CLASSES]
    return focal_loss.py_sigmoid_focal_loss(logits, target, **options)


def compute_gradient(loss: Tensor, logits: Tensor) -> Tensor:
    """Compute the gradient of the loss's weighted sum by the logits."""
    weights = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((loss * weights).sum(), logits)[0]


def assert_same_loss(logits: Tensor, loss: Tensor, expected: Tensor) -> None:
    """Compare two losses of the same logits, and their gradients."""
    assert loss.shape == expected.shape
    assert expected.abs().sum() > 0
    torch.testing.assert_close(loss, expected)

    expected_gradient = compute_gradient(expected, logits)
    assert expected_gradient.abs().sum() > 0
    torch.testing.assert_close(compute_gradient(loss, logits), expected_gradient)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.25), (2.0, 0.6), (0.0, 0.5)])
def test_values_and_gradients_equal_mmdetections(
    gamma: float, alpha: float, reduction: str
) -> None:
    logits, labels = make_logits(), make_labels()
    loss = operator.apply(logits, labels, gamma, alpha, None, reduction)

    expected = compute_expected(logits, labels, gamma=gamma, alpha=alpha, reduction=reduction)
    if reduction == "mean":
        expected = expected * CLASSES  # mmcv's mean is over rows, MMDetection's over elements
    assert_same_loss(logits, loss, expected)


def test_the_background_is_not_a_class() -> None:
    logits = make_logits().detach().double().requires_grad_()
    labels = torch.full((ROWS,), CLASSES)
    loss = operator.apply(logits, labels, 2.0, 0.25, None, "none")

    probabilities = logits.sigmoid()
    expected = -0.75 * probabilities**2 * torch.log1p(-probabilities)
    assert_same_loss(logits, loss, expected)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_class_weights_are_those_of_the_target(reduction: str) -> None:
    logits, labels = make_logits(), make_labels(with_background=False)
    class_weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    loss = operator.apply(logits, labels, 2.0, 0.25, class_weights, reduction)

    row_weights = class_weights[labels]
    expected = compute_expected(logits, labels, weight=row_weights, reduction=reduction)
    assert_same_loss(logits, loss, expected)


def test_gradients_of_hard_and_easy_logits_are_finite() -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0, -90.0]]).repeat(5, 1).requires_grad_()
    labels = torch.arange(5)
    loss = operator.apply(logits, labels, 2.0, 0.25, None, "none")
    assert_same_loss(logits, loss, compute_expected(logits, labels, reduction="none"))


def test_no_rows_have_no_loss() -> None:
    logits = torch.zeros(0, CLASSES, requires_grad=True)
    loss = operator.apply(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, CLASSES)


WEIGHTS = {
    "unweighted": None,
    "by-row": torch.linspace(0, 1, ROWS),
    "by-element": torch.linspace(0, 1, ROWS * CLASSES).view(ROWS, CLASSES),
}


@pytest.mark.parametrize(
    ("weight", "reduction"), itertools.product(WEIGHTS, (*REDUCTIONS, "factor"))
)
def test_mmdetections_loss_is_the_same_on_a_gpu(
    weight: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def apply_counted(*args: object) -> Tensor:
        calls.append(args)
        return operator.apply(*args)

    monkeypatch.setattr(focal_loss, "_sigmoid_focal_loss", apply_counted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options: dict[str, Any] = {"reduction_override": reduction}
    if reduction == "factor":
        options = {"reduction_override": "mean", "avg_factor": 7}

    focal = focal_loss.FocalLoss(gamma=1.5, alpha=0.3, loss_weight=2.0)
    logits, labels = make_logits(), make_labels()
    loss = focal(logits.as_subclass(GpuTensor), labels, WEIGHTS[weight], **options)
    assert len(calls) == 1  # on a GPU it asks the operator
    expected = focal(logits, labels, WEIGHTS[weight], **options)
    assert len(calls) == 1  # on a CPU it does not
    assert_same_loss(logits, loss.as_subclass(Tensor), expected)

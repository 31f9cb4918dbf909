"""The focal loss behind mmcv's names, which MMDetection uses on GPUs: the same numbers as its own Python for CPUs."""

import itertools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import detreg.training  # noqa: F401  puts the operators behind mmcv's names before mmcv is imported
from detreg.training import mmcv_ops

focal_loss = pytest.importorskip("mmdet.models.losses.focal_loss")
operator = pytest.importorskip("mmcv.ops.focal_loss").SigmoidFocalLossFunction
STANDS_IN = isinstance(sys.modules["mmcv._ext"], mmcv_ops._Extension)
pytestmark = pytest.mark.skipif(
    not STANDS_IN,
    reason="the compiled mmcv is installed and is used; it has no focal loss for CPUs",
)

CLASSES = 4
REDUCTIONS = ("none", "mean", "sum")


class OnGpu(Tensor):
    """A tensor that MMDetection takes for one on a GPU."""

    is_cuda = True


def some_logits(rows: int = 60) -> Tensor:
    """From hopeless to certain."""
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(0)) * 4


def some_labels(rows: int = 60, most: int = CLASSES) -> Tensor:
    """Up to `most`, which is the background if it is CLASSES; every one occurs."""
    return torch.arange(rows) % (most + 1)


def expected_of(logits: Tensor, labels: Tensor, **values: Any) -> Tensor:
    """MMDetection's Python."""
    return focal_loss.py_sigmoid_focal_loss(
        logits, one_hot(labels, CLASSES + 1)[:, :CLASSES], **values
    )


def assert_equal(logits: Tensor, found: Tensor, expected: Tensor) -> None:
    """The same losses, and the same gradients of their weighted sum."""
    assert found.shape == expected.shape
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected)
    shares = torch.rand(expected.shape, generator=torch.Generator().manual_seed(1))
    one, other = (
        torch.autograd.grad((loss * shares).sum(), logits)[0] for loss in (found, expected)
    )
    assert other.abs().sum() > 0
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.25), (2.0, 0.6), (0.0, 0.5)])
def test_values_and_gradients_equal_mmdetections(
    gamma: float, alpha: float, reduction: str
) -> None:
    logits, labels = some_logits().requires_grad_(), some_labels()
    found = operator.apply(logits, labels, gamma, alpha, None, reduction)
    expected = expected_of(logits, labels, gamma=gamma, alpha=alpha, reduction=reduction)
    if reduction == "mean":  # mmcv's is over the rows, MMDetection's over all elements
        expected = expected * CLASSES
    assert_equal(logits, found, expected)


def test_the_background_is_no_class() -> None:
    logits = some_logits().double().requires_grad_()
    labels = torch.full((60,), CLASSES)
    found = operator.apply(logits, labels, 2.0, 0.25, None, "none")
    chances = logits.sigmoid()
    assert_equal(logits, found, -0.75 * chances**2 * torch.log1p(-chances))


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_class_weights_are_those_of_the_target(reduction: str) -> None:
    logits, labels = some_logits().requires_grad_(), some_labels(most=CLASSES - 1)
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    found = operator.apply(logits, labels, 2.0, 0.25, weights, reduction)
    assert_equal(
        logits, found, expected_of(logits, labels, weight=weights[labels], reduction=reduction)
    )


def test_gradients_of_hard_and_easy_logits_are_finite() -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0, -90.0]]).repeat(5, 1).requires_grad_()
    labels = torch.arange(5)
    assert_equal(
        logits,
        operator.apply(logits, labels, 2.0, 0.25, None, "none"),
        expected_of(logits, labels, reduction="none"),
    )


def test_no_rows_are_no_loss() -> None:
    logits = torch.zeros(0, CLASSES, requires_grad=True)
    loss = operator.apply(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, CLASSES)


WEIGHTS = {
    "unweighted": None,
    "by-row": torch.linspace(0, 1, 60),
    "by-element": torch.linspace(0, 1, 60 * CLASSES).view(60, CLASSES),
}


@pytest.mark.parametrize(
    ("weight", "reduction"), itertools.product(WEIGHTS, (*REDUCTIONS, "factor"))
)
def test_mmdetections_loss_is_the_same_on_a_gpu(
    weight: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return operator.apply(*args)

    monkeypatch.setattr(focal_loss, "_sigmoid_focal_loss", counted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    values: dict[str, Any] = (
        {"reduction_override": "mean", "avg_factor": 7}
        if reduction == "factor"
        else {"reduction_override": reduction}
    )
    loss = focal_loss.FocalLoss(gamma=1.5, alpha=0.3, loss_weight=2.0)
    logits, labels = some_logits().requires_grad_(), some_labels()
    found = loss(logits.as_subclass(OnGpu), labels, WEIGHTS[weight], **values)
    assert len(calls) == 1
    expected = loss(logits, labels, WEIGHTS[weight], **values)
    assert len(calls) == 1
    assert_equal(logits, found.as_subclass(Tensor), expected)

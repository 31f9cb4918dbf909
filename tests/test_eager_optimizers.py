"""Optimizers without torch's compiler: the same numbers, gradients and hooks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

import detreg.training  # noqa: F401  which lets the optimizers run without the compiler
from detreg.training.eager_optimizers import OPTIMIZERS

EACH_OPTIMIZER = pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])


def make_weight() -> Tensor:
    return torch.tensor([1.0, -2.0, 3.0], requires_grad=True)


def run_step(weight: Tensor, optimizer: Optimizer) -> None:
    (weight**3).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_every_step_is_the_eager_one() -> None:
    for optimizer in OPTIMIZERS:
        step: Any = optimizer.step
        while hasattr(step, "__wrapped__"):
            assert step.__name__ == "step"
            assert step.__code__.co_name != "_use_grad"
            step = step.__wrapped__


def test_a_step_follows_the_formula() -> None:
    weight = make_weight()
    optimizer = SGD([weight], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

    expected = weight.detach().clone()
    velocity = torch.zeros(3)
    for _ in range(3):
        run_step(weight, optimizer)
        gradient = 3 * expected**2 + 0.01 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.1 * (gradient + 0.9 * velocity)
        torch.testing.assert_close(weight.detach(), expected)


@EACH_OPTIMIZER
def test_a_step_adds_nothing_to_the_graph(optimizer: type[Optimizer]) -> None:
    weight = make_weight()
    run_step(weight, optimizer([weight], lr=0.1))  # type: ignore[call-arg]
    assert weight.is_leaf
    assert torch.is_grad_enabled()


@EACH_OPTIMIZER
def test_a_differentiable_step_stays_differentiable(optimizer: Any) -> None:
    start = make_weight()
    weight = start.clone()
    weight.grad = torch.ones(3)
    optimizer([weight], lr=0.1, differentiable=True).step()
    (of_start,) = torch.autograd.grad(weight.sum(), start)
    assert torch.isfinite(of_start).all()
    assert (of_start > 0).all()


@EACH_OPTIMIZER
def test_hooks_and_state_stay(optimizer: Any) -> None:
    weight = make_weight()
    made = optimizer([weight], lr=0.1)
    calls = []
    made.register_step_post_hook(lambda *_: calls.append("after"))
    run_step(weight, made)
    assert calls == ["after"]

    again = optimizer([weight], lr=0.5)
    again.load_state_dict(made.state_dict())
    assert again.param_groups[0]["lr"] == 0.1

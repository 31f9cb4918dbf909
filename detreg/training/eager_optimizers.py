"""Optimizers that do not import torch's compiler, which takes longer to import than torch.

torch's optimizers tell the compiler at each step not to look inside them, also where nothing is
compiled. Here nothing is: what is computed stays the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

OPTIMIZERS = (Adam, SGD)
"""Those whose `step` templates use; AdamW has that of Adam."""

_HIDDEN_METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""What torch hides from the compiler by `torch._disable_dynamo`."""


def install() -> None:
    """Let the optimizers run without the compiler; those that were used before stay as they are."""
    for name in _HIDDEN_METHODS:
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None:
            # Where torch._disable_dynamo keeps the method as the compiler has made it.
            vars(plain).setdefault("__dynamo_disable", plain)

    for optimizer in OPTIMIZERS:
        step = optimizer.step
        plain_step = getattr(step, "__wrapped__", None)
        # torch marks the step of an optimizer that has been made, and wraps it once more.
        if plain_step is not None and not hasattr(step, "hooked"):
            optimizer.step = _set_gradients(plain_step)  # type: ignore[method-assign]


def _set_gradients(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that computes gradients where the optimizer is differentiable, else none.

    That is what torch's `_use_grad_for_differentiable` does beside its calls of the compiler.
    """

    @functools.wraps(step)
    def run_step(self: Optimizer, *args: object, **kwargs: object) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return run_step

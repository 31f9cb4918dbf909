"""A training loop that divides the batch where the GPU has no memory for it whole."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn

from detreg import torchrun
from detreg.memory import Shortage, find_shortage
from detreg.training.distributed import unwrap
from detreg.training.divided_step import (
    Batch,
    compute_divided_gradients,
    compute_gradients,
    count_parts,
    list_trained_norms,
    prepare_batch,
)
from detreg.training.precision import use_precision
from detreg.training.random_state import RandomState


@LOOPS.register_module()
class ShrinkingTrainLoop(EpochBasedTrainLoop):
    """MMEngine's loop, which goes on with fewer images at a time where the GPU's memory is out.

    `micro_batch` is the number of images of a forward pass; None is the whole batch. It is halved
    until a step fits, and stays so: it is part of what a checkpoint holds. A step remains one step
    of the optimizer, with the same images.

    `can_shrink` is False for on_oom=fail. Several processes do not shrink: one of them would fail
    where the others wait for it. `on_shrink` is called with each new `micro_batch`. `precision` is
    that of backbone, neck and dense head (precision.py).
    """

    def __init__(self, *args: object, can_shrink: bool, precision: str, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        use_precision(unwrap(self.runner.model), precision)
        self.can_shrink = can_shrink and torchrun.get_world_size() == 1
        self.micro_batch: int | None = None
        self.on_shrink: Callable[[int], None] = lambda micro_batch: None  # noqa: ARG005

    def resume(self, micro_batch: int | None) -> None:
        """Go on with the `micro_batch` of a training that is resumed."""
        self.micro_batch = micro_batch
        if micro_batch is not None:
            self.runner.model.train()  # as in a step, so that its batch norms can be looked at
            self.on_shrink(micro_batch)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one step; this is MMEngine's method with another train_step."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        losses = self._run_step(data_batch)
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=losses
        )
        self._iter += 1

    def _run_step(self, data: object) -> dict[str, Tensor]:
        """Update the weights by one batch; return its losses by name.

        The optimizer's own step is not tried again: it may have changed some weights, and smaller
        parts would not help it.
        """
        model, optimizer = self.runner.model, self.runner.optim_wrapper
        batch = prepare_batch(model, optimizer, data)
        losses = self._compute_gradients(batch)
        while losses is None:
            # Here nothing holds the failed attempt's tensors any more: its traceback is gone.
            self._shrink(len(batch["inputs"]))
            losses = self._compute_gradients(batch)

        optimizer.step()
        optimizer.zero_grad()
        return losses

    def _compute_gradients(self, batch: Batch) -> dict[str, Tensor] | None:
        """Compute a step's gradients; None where memory is out and fewer images may help.

        Then everything is as it was before.
        """
        model, optimizer = self.runner.model, self.runner.optim_wrapper
        images = len(batch["inputs"])
        state = _StepState.capture(model) if self.can_shrink else None
        try:
            parts = count_parts(images, self.micro_batch) if self.micro_batch else 1
            if parts == 1:
                return compute_gradients(model, optimizer, batch)
            return compute_divided_gradients(model, optimizer, batch, parts)
        except RuntimeError as error:
            is_smallest = min(self.micro_batch or images, images) == 1
            if state is None or is_smallest or find_shortage(error) is not Shortage.GPU:
                raise

        optimizer.zero_grad()
        state.restore()
        return None

    def _shrink(self, images: int) -> None:
        """Halve the images of a forward pass, and give the failed attempt's memory back."""
        present = min(self.micro_batch or images, images)
        self.micro_batch = (present + 1) // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.on_shrink(self.micro_batch)


@dataclass(frozen=True)
class _StepState:
    """What a step changes before the optimizer's step: random numbers, batch-norm statistics."""

    random: RandomState
    statistics: list[tuple[Tensor, Tensor]]
    """Buffers of the network, each with a copy."""

    @classmethod
    def capture(cls, model: nn.Module) -> "_StepState":
        statistics = []
        for norm in list_trained_norms(model):
            statistics += [(buffer, buffer.clone()) for buffer in norm.buffers()]
        return cls(RandomState.capture(), statistics)

    def restore(self) -> None:
        self.random.restore()
        for buffer, copy in self.statistics:
            buffer.copy_(copy)


def describe_shrink(model: nn.Module, micro_batch: int, batch_size: int) -> str:
    """Return the line that is printed where a training goes on with fewer images at a time."""
    line = (
        f"Warning: the GPU has no memory for a whole step: trains {micro_batch} images at a time "
        f"from here on, still {batch_size} a step, which needs a second forward pass "
        "(on_oom=shrink). "
    )
    if list_trained_norms(unwrap(model)):
        return line + (
            f"This network trains batch norms, which see {micro_batch} images then: the result "
            "differs from that of a GPU with enough memory"
        )
    return line + "The result is the same up to rounding"

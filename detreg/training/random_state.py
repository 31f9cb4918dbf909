"""The state of everything random in a process, to be put back so that draws repeat."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of Python's, NumPy's and PyTorch's global random numbers.

    `gpu` is that of the current GPU, None where there is none.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def capture(cls) -> "RandomState":
        """Return the present states."""
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),
            cpu=torch.get_rng_state(),
            gpu=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        )

    def restore(self) -> None:
        """Let what is drawn from now on be what was drawn since `capture`."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)

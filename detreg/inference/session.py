"""What Detector runs on: a loaded model that maps a batch of images to named arrays.

runtime.py implements it with onnxruntime. Another runtime is another class with these members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detreg.inference.outputs import OutputArray


@dataclass(frozen=True)
class InputShape:
    """The sizes that a model was built for; None where it takes any size."""

    batch: int | None = None
    height: int | None = None
    width: int | None = None


class Session(Protocol):
    """A model that is ready to run."""

    @property
    def device(self) -> str:
        """Where the model runs: "cuda" or "cpu"."""
        ...

    @property
    def input_shape(self) -> InputShape:
        """The sizes that the model was built for."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs that `run` can return."""
        ...

    def run(self, images: NDArray[np.uint8], output_names: Sequence[str]) -> dict[str, OutputArray]:
        """Return these outputs for images (n, height, width, 3) RGB; their first axis is n."""
        ...

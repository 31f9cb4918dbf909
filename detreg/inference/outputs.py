"""The outputs of an exported graph, declared once.

The graph, the card, the detector, Detections and the served model read this list. An output that
only some models have, such as masks, is one more entry with `is_optional`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

OUTPUTS_FORMAT = 1
"""Changes when an output changes its meaning. A new optional output does not change it: whoever
does not know its name does not read it."""

OutputArray = NDArray[np.float32] | NDArray[np.int64]
"""What an output holds."""

BATCH = "batch"
DETECTIONS = "detections"


@dataclass(frozen=True)
class Output:
    """A named output of the graph, with one row for each detection of each image.

    `axes` are names, or sizes that never change; the first two are always the image and the
    detection. Rows after the detections hold `padding`.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: Literal["float32", "int64"]
    padding: int
    meaning: str
    is_optional: bool = False

    @property
    def detection_axes(self) -> tuple[str | int, ...]:
        """The axes that each detection has of its own."""
        return self.axes[2:]


BOXES = Output(
    name="boxes",
    axes=(BATCH, DETECTIONS, 4),
    dtype="float32",
    padding=0,
    meaning="x1 y1 x2 y2 in pixels of the input",
)
SCORES = Output(
    name="scores",
    axes=(BATCH, DETECTIONS),
    dtype="float32",
    padding=0,
    meaning="descending",
)
LABELS = Output(
    name="labels",
    axes=(BATCH, DETECTIONS),
    dtype="int64",
    padding=-1,
    meaning="positions in classes",
)

MASK_SIDE = 28
"""Rows and columns of the grid of a mask."""

MASKS = Output(
    name="masks",
    axes=(BATCH, DETECTIONS, MASK_SIDE, MASK_SIDE),
    dtype="float32",
    padding=0,
    meaning=(
        f"probability of each cell of a {MASK_SIDE} x {MASK_SIDE} grid over the box that it "
        "belongs to the object"
    ),
    is_optional=True,
)

OUTPUTS = (BOXES, SCORES, LABELS, MASKS)
"""In the order in which the graph has them."""

REQUIRED_OUTPUTS = tuple(output for output in OUTPUTS if not output.is_optional)

"""How a picture becomes the network's input: resized, then padded right and below.

The one place for these sizes: the served model prepares pictures with it, and training derives its MMDetection pipeline from it
(`Resize(scale=limits, keep_ratio=True)` or `Resize(scale=exact_size, keep_ratio=False)`, then `Pad`), so both see equal pixels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.errors import UsageError

Size = tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """A picture as the network takes it, and the way back.

    `pixels` is uint8 (height, width, 3) RGB; `scale` (x, y) is resized over original; `original` is (width, height).
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]
    original: Size


@dataclass(frozen=True)
class Preprocessing:
    """The sizes of the input. All pairs are (width, height) in pixels.

    `image_size` is one number, the smaller side after resizing, or two, the exact width and height (only without
    `keep_aspect_ratio`; one number without it means a square). The longer side is at most `max_aspect_ratio` times the smaller.
    """

    image_size: tuple[int, ...]
    keep_aspect_ratio: bool
    max_aspect_ratio: float
    pad_value: int
    pad_divisor: int = 32

    def __post_init__(self) -> None:
        problems = []
        if len(self.image_size) not in (1, 2) or min(self.image_size, default=0) < 1:
            problems.append(f"image_size is one or two positive integers, not {self.image_size}")
        if self.keep_aspect_ratio and len(self.image_size) == 2:
            problems.append(f"image_size={self.image_size} is an exact size: set keep_aspect_ratio=false, or give one number")
        if self.max_aspect_ratio < 1:
            problems.append(f"max_aspect_ratio is at least 1, not {self.max_aspect_ratio}")
        if not 0 <= self.pad_value <= 255:
            problems.append(f"pad_value is a grey level from 0 to 255, not {self.pad_value}")
        if self.pad_divisor < 1:
            problems.append(f"pad_divisor is at least 1, not {self.pad_divisor}")
        if problems:
            raise UsageError(problems)

    @property
    def limits(self) -> Size:
        """The most that the (longer, smaller) side may have after resizing; it decides only with `keep_aspect_ratio`."""
        shortest = min(self.image_size)
        # 800 * 1.7 is 1359.9999999999998 in floating point
        return math.floor(shortest * self.max_aspect_ratio + 1e-6), shortest

    @property
    def exact_size(self) -> Size | None:
        """The size every picture is resized to without `keep_aspect_ratio`, None with it."""
        return None if self.keep_aspect_ratio else (self.image_size[0], self.image_size[-1])

    @property
    def fixed_canvas(self) -> Size | None:
        """The size of every input where it does not depend on the picture, else None."""
        if self.exact_size:
            return self._padded(self.exact_size)
        longest, shortest = self.limits
        return self._padded((shortest, shortest)) if longest == shortest else None

    def resized(self, width: int, height: int) -> Size:
        """The size of a picture after resizing, rounded as mmcv 2.1 does (mmcv/image/geometric.py, rescale_size)."""
        if self.exact_size:
            return self.exact_size
        longest, shortest = self.limits
        factor = min(longest / max(width, height), shortest / min(width, height))
        # Only a picture thousands of times as long as wide rounds to nothing.
        return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)

    def canvas(self, width: int, height: int) -> Size:
        """The size of the input for a picture that is `width` x `height` after resizing."""
        return self.fixed_canvas or self._padded((width, height))

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Resizes (bilinear) and pads one picture.

        `image` is uint8 (height, width, 3) RGB and stays as it is.
        """
        height, width = image.shape[:2]
        new_width, new_height = self.resized(width, height)
        canvas_width, canvas_height = self.canvas(new_width, new_height)
        pixels = np.full((canvas_height, canvas_width, 3), self.pad_value, np.uint8)
        pixels[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        return Prepared(pixels, (new_width / width, new_height / height), (width, height))

    def _padded(self, size: Size) -> Size:
        width, height = (-(-side // self.pad_divisor) * self.pad_divisor for side in size)
        return width, height

"""How an image becomes the network's input: resized, then padded right and below.

This is the one place for these sizes and for the padding. The served model prepares images with it,
and training derives its MMDetection pipeline from it (`Resize(scale=limits, keep_ratio=True)` or
`Resize(scale=exact_size, keep_ratio=False)`, then `PadToCanvas`), so both see equal pixels. Images
are padded while they are uint8, with the pixel nearest to what the published weights were trained
with: the mean where the network normalizes, a gray where it does not.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.defaults import MAX_ASPECT_RATIO, MAX_IMAGE_SIZE
from detreg.errors import UsageError, quote

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network takes it, and what leads back to the original.

    `pixels` is uint8 (height, width, 3) RGB; `scale` (x, y) is resized size over original size.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]
    original_size: Size


@dataclass(frozen=True)
class Preprocessing:
    """The sizes of the input. All pairs are (width, height) in pixels.

    `image_size` is one number, the smaller side after resizing, or two, the exact width and height
    (only without `keep_aspect_ratio`; one number without it means a square). The longer side is at
    most `max_aspect_ratio` times the smaller. `pad_value` (red, green, blue) fills the canvas right
    of and below the image, until both sides have at least `smallest_input` pixels and divide by
    `pad_divisor`. A card may come from anywhere, so types and bounds are checked here: UsageError
    for values that do not fit.
    """

    image_size: tuple[int, ...]
    keep_aspect_ratio: bool
    max_aspect_ratio: float
    pad_value: tuple[int, int, int]
    pad_divisor: int = 32
    smallest_input: int = 1

    def __post_init__(self) -> None:
        problems = []
        has_sizes = _are_integers(self.image_size, 1, MAX_IMAGE_SIZE)
        if not has_sizes or len(self.image_size) not in (1, 2):
            problems.append(
                f"image_size must be one or two integers from 1 to {MAX_IMAGE_SIZE}, "
                f"got {quote(self.image_size)}"
            )
        if not isinstance(self.keep_aspect_ratio, bool):
            problems.append(
                f"keep_aspect_ratio must be true or false, got {quote(self.keep_aspect_ratio)}"
            )
        elif self.keep_aspect_ratio and has_sizes and len(self.image_size) == 2:
            problems.append(
                f"image_size={self.image_size} is an exact size: "
                "set keep_aspect_ratio=false, or give one number"
            )
        if not is_number(self.max_aspect_ratio, 1, MAX_ASPECT_RATIO):
            problems.append(
                f"max_aspect_ratio must be at least 1 and at most {MAX_ASPECT_RATIO}, "
                f"got {quote(self.max_aspect_ratio)}"
            )
        if not _are_integers(self.pad_value, 0, 255) or len(self.pad_value) != 3:
            problems.append(
                f"pad_value must be three levels from 0 to 255, got {quote(self.pad_value)}"
            )
        if not _are_integers((self.pad_divisor, self.smallest_input), 1, MAX_IMAGE_SIZE):
            problems.append(
                f"pad_divisor and smallest_input must be at least 1 and at most {MAX_IMAGE_SIZE}, "
                f"got {quote(self.pad_divisor)} and {quote(self.smallest_input)}"
            )
        if problems:
            raise UsageError(problems)

    @property
    def limits(self) -> Size:
        """The most that the (longer, smaller) side may have after resizing.

        They decide only with `keep_aspect_ratio`.
        """
        shortest = min(self.image_size)
        # Without the addend, 800 * 1.7 would be 1359: it is 1359.9999999999998 in floating point.
        longest = math.floor(shortest * self.max_aspect_ratio + 1e-6)
        return longest, shortest

    @property
    def exact_size(self) -> Size | None:
        """The size that every image is resized to without `keep_aspect_ratio`, None with it."""
        if self.keep_aspect_ratio:
            return None
        # One number is a square: the first and the last are the same.
        return self.image_size[0], self.image_size[-1]

    @property
    def fixed_canvas(self) -> Size | None:
        """The size of every input where it does not depend on the image, else None."""
        if self.exact_size:
            return self.compute_padded_size(*self.exact_size)
        longest, shortest = self.limits
        if longest == shortest:
            return self.compute_padded_size(shortest, shortest)
        return None

    @property
    def largest_canvas(self) -> Size:
        """The input with the most pixels, lying or standing."""
        return self.fixed_canvas or self.compute_padded_size(*self.limits)

    def compute_resized_size(self, width: int, height: int) -> Size:
        """Return the size of an image after resizing.

        Rounded as mmcv 2.1 does (mmcv/image/geometric.py, rescale_size).
        """
        if self.exact_size:
            return self.exact_size
        longest, shortest = self.limits
        factor = min(longest / max(width, height), shortest / min(width, height))
        # Only an image thousands of times as long as wide rounds to zero.
        return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)

    def compute_canvas_size(self, width: int, height: int) -> Size:
        """Return the size of the input for an image of `width` x `height` after resizing."""
        return self.fixed_canvas or self.compute_padded_size(width, height)

    def compute_input_size(self, width: int, height: int) -> Size:
        """Return the size of the input for an image of `width` x `height` before resizing."""
        return self.compute_canvas_size(*self.compute_resized_size(width, height))

    def compute_padded_size(self, width: int, height: int) -> Size:
        """Return the smallest canvas that holds the pixels and that the network can take."""
        return self._pad_side(width), self._pad_side(height)

    def _pad_side(self, side: int) -> int:
        """Round a side up to a multiple of `pad_divisor`."""
        side = max(side, self.smallest_input)
        return math.ceil(side / self.pad_divisor) * self.pad_divisor

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize (bilinear) and pad one image, uint8 (height, width, 3) RGB; it is not changed."""
        height, width = image.shape[:2]
        new_width, new_height = self.compute_resized_size(width, height)
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)

        canvas = self.compute_canvas_size(new_width, new_height)
        pixels = pad_image(resized, canvas, self.pad_value)
        scale = (new_width / width, new_height / height)
        return PreparedImage(pixels, scale, (width, height))


def is_number(value: object, low: float, high: float) -> bool:
    """Whether a value is a number between two bounds; NaN is between none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high


def _are_integers(values: object, low: int, high: int) -> bool:
    if not isinstance(values, tuple):
        return False
    return all(isinstance(value, int) and is_number(value, low, high) for value in values)


def pad_image(pixels: NDArray[np.uint8], canvas: Size, value: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a canvas filled with `value`, with the image at its top left.

    `pixels` is uint8 (height, width, 3), `canvas` (width, height); `value` has one level for each
    channel, in the order of `pixels`.
    """
    width, height = canvas
    below = height - pixels.shape[0]
    right = width - pixels.shape[1]
    return cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)

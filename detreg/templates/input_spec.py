"""How a network wants its pixels: normalization, order of channels, value of padding."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class InputSpec:
    """How a network wants its pixels.

    `mean` and `std` are per channel (0..255), in the order that `channels` gives.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["rgb", "bgr"]
    gray_padding: int | None = None
    """The gray level (0..255) that pads images; None pads with the mean, which normalizes to 0."""

    @property
    def is_normalized(self) -> bool:
        """Whether the network subtracts a mean or divides by a deviation at all."""
        has_mean = any(self.mean)
        has_std = any(value != 1 for value in self.std)
        return has_mean or has_std

    @property
    def pad_value(self) -> tuple[int, int, int]:
        """The uint8 pixel (red, green, blue) that pads images before normalization."""
        if self.gray_padding is not None:
            return (self.gray_padding, self.gray_padding, self.gray_padding)

        first, second, third = (round(value) for value in self.mean)
        if self.channels == "rgb":
            return (first, second, third)
        return (third, second, first)

    @property
    def normalized_pad_value(self) -> float:
        """The value of padding after normalization, the same for all channels."""
        if self.gray_padding is None:
            return 0.0
        return float(self.gray_padding)


IMAGENET = InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), channels="rgb")
"""The mean and deviation of ImageNet's pixels."""

"""The canvas on which the sample's shapes and landscapes are drawn.

Everything is drawn `SCALE` times as large and averaged down, which smooths the edges. Only
integers, square roots and the four basic operations are used, so that the same numbers give the
same pixels on every machine.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SCALE = 4
"""Pixels drawn for each pixel of the finished image, in each direction."""

Color = tuple[int, int, int]
Point = tuple[float, float]
Rng = np.random.Generator

SHADE = (20, 20, 50, 46)
"""A translucent color over the side of a shape that lies in the shade."""


class Canvas:
    """Draws inside one box of an image.

    Points run from (0, 0), the box's upper left corner, to (1, 1), its lower right one. Colors
    have three values, or a fourth that says how opaque they are (255: fully).
    """

    def __init__(
        self,
        image: Image.Image,
        corners: Sequence[int],
        is_mirrored: bool = False,
        mask: Image.Image | None = None,
        number: int = 0,
    ) -> None:
        """Draw into `image`, in a box given by its corners in pixels of the finished image.

        mask: an image of the same size, in which the polygons are filled with `number`.
        """
        # In the mode RGBA, Pillow blends translucent colors into the image.
        self._draw = ImageDraw.Draw(image, "RGBA")
        self._corners = [SCALE * value for value in corners]
        self._is_mirrored = is_mirrored
        self._mask = None if mask is None else ImageDraw.Draw(mask)
        self._number = number

    def fill_polygon(self, points: Sequence[Point], color: Sequence[int]) -> None:
        """Fill a polygon."""
        pixels = [self._to_pixel(x, y) for x, y in points]
        self._draw.polygon(pixels, fill=tuple(color))
        if self._mask is not None:
            self._mask.polygon(pixels, fill=self._number)

    def fill_rectangle(
        self, x1: float, y1: float, x2: float, y2: float, color: Sequence[int]
    ) -> None:
        """Fill a rectangle."""
        self.fill_polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], color)

    def fill_ellipse(
        self, x1: float, y1: float, x2: float, y2: float, color: Sequence[int]
    ) -> None:
        """Fill the ellipse in a rectangle."""
        left, top = self._to_pixel(x1, y1)
        right, bottom = self._to_pixel(x2, y2)
        # Mirrored, the left corner comes out on the right.
        self._draw.ellipse((min(left, right), top, max(left, right), bottom), fill=tuple(color))

    def _to_pixel(self, x: float, y: float) -> tuple[int, int]:
        left, top, right, bottom = self._corners
        across = 1 - x if self._is_mirrored else x
        return round(left + across * (right - left - 1)), round(top + y * (bottom - top - 1))

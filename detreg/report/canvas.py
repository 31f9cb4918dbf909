"""A canvas that draws boxes over an image with Pillow, for a page."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from detreg.mask_patches import MaskPatch
from detreg.report.drawing import Label, tint_mask, write_labels
from detreg.report.theme import INK

MIN_SIDE = 480
MAX_SIDE = 640
"""Pixels of a canvas's longer side, to which an image is scaled."""

DASH = 6
JPEG_QUALITY = 82
LOWER_QUALITIES = (60, 40, 20)

Box = npt.NDArray[np.floating]
"""(4,), x1 y1 x2 y2 in pixels of the image, before it is scaled."""
Line = tuple[float, ...]
"""x1, y1, x2, y2 of its ends in pixels of the canvas."""


class Canvas:
    """An image, scaled to a size that fits a page, on which boxes are drawn.

    `image` is uint8 (height, width, 3) in RGB. Coordinates are those of the image as it is given.
    """

    def __init__(
        self, image: npt.NDArray[np.uint8], min_side: int = MIN_SIDE, max_side: int = MAX_SIDE
    ) -> None:
        height, width = image.shape[:2]
        longer_side = max(height, width)
        canvas_side = min(max(longer_side, min_side), max_side)
        self._scale = canvas_side / longer_side

        size = (max(round(width * self._scale), 1), max(round(height * self._scale), 1))
        # Averaging areas keeps thin objects visible; it has nothing to average when enlarging.
        method = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(image, size, interpolation=method)
        self._image = Image.fromarray(resized)
        self._draw = ImageDraw.Draw(self._image)

    def draw_masks(self, masks: Sequence[tuple[MaskPatch, str]]) -> None:
        """Tint the pixels of masks in their colors, the last one on top; to be called first."""
        if not masks:
            return
        pixels = np.array(self._image)
        height, width = pixels.shape[:2]
        for patch, color in masks:
            tint_mask(pixels, _scale_patch(patch, self._scale, (width, height)), color)
        self._image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self._image)

    def draw_box(self, box: Box, color: str, width: int) -> None:
        """Draw a box with lines of a width in pixels."""
        rectangle = self._to_rectangle(box)
        self._draw.rectangle(rectangle, outline=color, width=width)

    def draw_dashed_box(self, box: Box, is_bold: bool) -> None:
        """Draw a box with white dashes; a bold one has thicker lines, dark between the dashes."""
        left, top, right, bottom = self._to_rectangle(box)
        sides = (
            (left, top, right, top),
            (left, bottom, right, bottom),
            (left, top, left, bottom),
            (right, top, right, bottom),
        )
        width = 4 if is_bold else 1
        for side in sides:
            # White on dark is visible on every image.
            if is_bold:
                self._draw.line(side, fill=INK, width=width)
            for dash in _split_into_dashes(side):
                self._draw.line(dash, fill="white", width=width)

    def write_labels(self, labels: Sequence[Label]) -> None:
        """Write labels at their boxes as `detreg.report.drawing` does, on top of all boxes."""
        scaled = []
        for label in labels:
            box = self._to_rectangle(np.array(label.box))
            scaled.append(replace(label, box=box))

        pixels = np.array(self._image)
        write_labels(pixels, scaled)
        self._image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self._image)

    def save(self, path: Path, max_bytes: int | None = None) -> Path:
        """Write the canvas as a JPEG, and return its path.

        A quality is chosen that keeps the file under `max_bytes`, if one of the usual ones does.
        """
        path.write_bytes(self.encode(max_bytes))
        return path

    def encode(self, max_bytes: int | None = None) -> bytes:
        """Return the canvas as a JPEG, as `save` writes it."""
        content = b""
        for quality in (JPEG_QUALITY, *LOWER_QUALITIES):
            buffer = BytesIO()
            self._image.save(buffer, format="JPEG", quality=quality, optimize=True)
            content = buffer.getvalue()
            if max_bytes is None or len(content) <= max_bytes:
                break
        return content

    def _to_rectangle(self, box: Box) -> tuple[float, float, float, float]:
        """Scale a box, and order its corners.

        A detector may put out a box whose right side is left of its left one, which Pillow refuses.
        """
        x1, y1, x2, y2 = (box * self._scale).tolist()
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _scale_patch(patch: MaskPatch, scale: float, size: tuple[int, int]) -> MaskPatch:
    """Return a mask on an image that is scaled, within its size (width, height)."""
    rows, columns = patch.pixels.shape
    limits = np.array(size)
    start = np.round(np.array([patch.left, patch.top]) * scale).astype(int).clip(0, limits)
    end = np.round(np.array([patch.left + columns, patch.top + rows]) * scale).astype(int)
    scaled_size = end.clip(start, limits) - start
    left, top = start.tolist()
    if patch.pixels.size == 0 or scaled_size.min() == 0:
        return MaskPatch(left, top, np.zeros((0, 0), np.bool_))
    # As the image is scaled; half a pixel or more belongs to the mask.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    coverage = cv2.resize(
        patch.pixels.astype(np.float32), scaled_size.tolist(), interpolation=method
    )
    return MaskPatch(left, top, coverage >= 0.5)


def _split_into_dashes(line: Line) -> list[Line]:
    """Return the dashes of a horizontal or vertical line; the gaps are as long as the dashes."""
    start = np.array(line[:2])
    end = np.array(line[2:])
    direction = end - start
    # A box without extent still gets a dash, and nothing is divided by 0.
    length = max(float(np.abs(direction).max()), 1.0)

    dashes = []
    for begin in np.arange(0, length, 2 * DASH):
        # Both ends of the dash, as shares of the line; the last dash ends with the line.
        ends = np.clip([begin, begin + DASH], 0, length) / length
        points = start + direction * ends[:, None]
        dash = tuple(points.ravel().tolist())
        dashes.append(dash)
    return dashes

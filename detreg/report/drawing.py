"""Boxes and masks with names and scores, drawn on an image: for predict, reports and pages.

It takes OpenCV alone. OpenCV 5 brings a font of its own that has the letters of most alphabets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from detreg.errors import make_printable
from detreg.mask_patches import MaskPatch
from detreg.report.labels import Corners, place_labels
from detreg.report.theme import choose_text_color, get_class_color, parse_color

Image = npt.NDArray[np.uint8]
"""(height, width, 3) in RGB."""

MIN_FONT_SIZE = 11
"""Pixels; smaller letters cannot be read."""
FONT_SHARE = 36
"""The shorter side of an image, divided by the size of its font."""
FONT_STEPS = (1.0, 0.8, 0.65)
"""Shares of the font's size, tried until every label finds a place."""
FONT_WEIGHT = 500
"""Of the usual scale from 100, thin, to 900, black."""
LINE_SHARE = 240
"""The shorter side of an image, divided by the width of a box's lines."""
MIN_LINE_WIDTH = 2
RIM_SHARE = 3
"""The width of a box's lines, divided by that of the rims on both sides, of a pixel at least."""
MASK_OPACITY = 0.45
"""How much of the color of a mask is in its pixels; the rest is the image's."""
ELLIPSIS = "\u2026"
MAX_NAME_LENGTH = 100


class DrawableMasks(Protocol):
    """The masks of detections that have some."""

    def to_patches(self) -> Sequence[MaskPatch]:
        """Return the pixels of each."""


class DrawableDetections(Protocol):
    """What can be drawn: the detections of an image, the best one first."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(n, 4), x1 y1 x2 y2 in pixels."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(n,), from 0 to 1."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,), each with a color of its own."""

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""

    @property
    def masks(self) -> DrawableMasks | None:
        """Their masks, None without."""


@dataclass(frozen=True)
class Label:
    """A text at a box, such as `boat 0.93`, on a tag of a color #rrggbb.

    A name that is too long for its image is shortened; the score behind it, if any, stays.
    """

    box: Corners
    name: str
    score: str
    color: str


def draw_detections(image: Image, detections: DrawableDetections) -> Image:
    """Return a copy of an image with a box, class name and score for each detection.

    Masks are translucent, under all boxes. Lines and texts grow with the image. A class has the
    same color in every image. Texts neither cover each other nor leave the image; where there is no
    room for all, the best detections have theirs.
    """
    drawn = image.copy()
    corners: list[list[int]] = detections.boxes.round().astype(int).tolist()
    colors = [get_class_color(label) for label in detections.labels.tolist()]

    # The best detection is drawn last, on top of the others, and all texts on top of all boxes.
    if detections.masks is not None:
        patches = detections.masks.to_patches()
        for patch, color in zip(reversed(patches), reversed(colors), strict=True):
            tint_mask(drawn, patch, color)
    for box, color in zip(reversed(corners), reversed(colors), strict=True):
        _draw_box(drawn, box, color)

    labels = []
    for index, name in enumerate(detections.names):
        x1, y1, x2, y2 = corners[index]
        score = f"{detections.scores[index]:.2f}"
        labels.append(Label((x1, y1, x2, y2), name, score, colors[index]))
    write_labels(drawn, labels)
    return drawn


def tint_mask(image: Image, patch: MaskPatch, color: str) -> None:
    """Tint the pixels of a mask, which must lie inside the image, in a color #rrggbb."""
    rows, columns = patch.pixels.shape
    part = image[patch.top : patch.top + rows, patch.left : patch.left + columns]
    own_color = np.array(parse_color(color), np.float32)
    mixed = (1 - MASK_OPACITY) * part[patch.pixels] + MASK_OPACITY * own_color
    part[patch.pixels] = mixed.round().astype(np.uint8)


def write_labels(image: Image, labels: Sequence[Label]) -> None:
    """Write labels onto an image, each at its box, none over another; the first ones go first.

    The font gets smaller where there are many. A label that finds no place is left out.
    """
    if not labels:
        return
    height, width = image.shape[:2]
    # Whole pixels, so that texts that are placed side by side are drawn so.
    boxes = [_round_corners(label.box) for label in labels]
    wanted_size = min(height, width) / FONT_SHARE
    for share in FONT_STEPS:
        font = _Font(max(round(share * wanted_size), MIN_FONT_SIZE))
        texts = [font.shorten(label, width) for label in labels]
        sizes = [(font.measure(text), font.tag_height) for text in texts]
        places = place_labels(boxes, sizes, (width, height))
        if None not in places or font.size == MIN_FONT_SIZE:
            break

    for label, text, size, place in zip(labels, texts, sizes, places, strict=True):
        if place is not None:
            left, top = int(place[0]), int(place[1])
            font.write_tag(image, text, (left, top, left + size[0], top + size[1]), label.color)


def _round_corners(box: Corners) -> Corners:
    x1, y1, x2, y2 = box
    return round(x1), round(y1), round(x2), round(y2)


def _draw_box(image: Image, box: Sequence[int], color: str) -> None:
    """Draw a box in its color, with a thin rim of black or white to be seen on any background."""
    line_width = max(MIN_LINE_WIDTH, round(min(image.shape[:2]) / LINE_SHARE))
    rim_width = max(1, line_width // RIM_SHARE)
    line_color = parse_color(color)
    rim_color = parse_color(choose_text_color(color))

    # Lines of one pixel from the outside in: wider ones of OpenCV cover more than they say.
    x1, y1, x2, y2 = box
    width = line_width + 2 * rim_width
    for step in range(width):
        inset = step - width // 2
        is_rim = step < rim_width or step >= width - rim_width
        # A box may be smaller than its lines.
        if x1 + inset <= x2 - inset and y1 + inset <= y2 - inset:
            corners = (x1 + inset, y1 + inset), (x2 - inset, y2 - inset)
            cv2.rectangle(image, *corners, rim_color if is_rim else line_color, 1)


class _Font:
    """OpenCV's font in a size in pixels, with the tags that it is written on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._face: Any = cv2.FontFace("sans")
        # Between a text and the border of its tag.
        self._padding = max(2, round(size / 5))
        self._ascent = round(0.8 * size)
        self.tag_height = size + 2 * self._padding

    def measure(self, text: str) -> int:
        """Return the width of a tag in pixels."""
        # The size of an image is where OpenCV would break the line.
        endless = (1 << 20, 1 << 10)
        _, _, width, _ = cv2.getTextSize(endless, text, (0, 0), self._face, self.size, FONT_WEIGHT)
        return int(width) + 2 * self._padding

    def shorten(self, label: Label, max_width: int) -> str:
        """Return a label's text, with less of the name where its tag would be too wide."""
        # Names come from files that anyone may have written: a line break would move the text.
        name = make_printable(label.name)[:MAX_NAME_LENGTH]
        text = f"{name} {label.score}".strip()
        while name and self.measure(text) > max_width:
            name = name[:-1]
            text = f"{name}{ELLIPSIS} {label.score}".strip() if name else label.score
        return text

    def write_tag(
        self, image: Image, text: str, tag: tuple[int, int, int, int], color: str
    ) -> None:
        """Write a text on a filled rectangle, whose right and lower border are not part of it."""
        left, top, right, bottom = tag
        image[top:bottom, left:right] = parse_color(color)
        # OpenCV places a text by the left end of its baseline, not by its upper left corner.
        origin = (left + self._padding, top + self._padding + self._ascent)
        text_color = parse_color(choose_text_color(color))
        cv2.putText(image, text, origin, text_color, self._face, self.size, FONT_WEIGHT)

"""Where the texts of boxes go on an image: beside their box, inside the image, none over another.

`detreg.report.drawing` writes them on pixels, `detreg.report.scene` as SVG.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
Size = tuple[float, float]
"""Width and height in pixels."""
Point = tuple[float, float]
"""x and y of an upper left corner, in pixels."""

ROOMY = 3.0
"""A box of so many heights of its label keeps most of its content visible with the label inside."""
MAX_STEPS = 12
"""How often a label is moved down along its box before it is given up."""
SLACK = 1e-6
"""Pixels that two labels may overlap by, because sums of fractions are not exact."""


def place_labels(
    boxes: Sequence[Corners], sizes: Sequence[Size], image_size: Size
) -> list[Point | None]:
    """Return the upper left corner of each label, in the order of the boxes.

    A label touches its box. The first boxes choose first. None stands for a label that finds no
    place within the image which is free of the labels before it.
    """
    taken = np.zeros((len(boxes), 4))
    num_taken = 0
    places: list[Point | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        place = _find_place(box, size, image_size, taken[:num_taken])
        places.append(place)
        if place is not None:
            taken[num_taken] = (*place, place[0] + size[0], place[1] + size[1])
            num_taken += 1
    return places


def _find_place(
    box: Corners, size: Size, image_size: Size, taken: npt.NDArray[np.float64]
) -> Point | None:
    """Return the first place for a label that is free; taken is (n, 4), x1 y1 x2 y2."""
    width, height = size
    image_width, image_height = image_size
    if width > image_width or height > image_height:
        return None

    for wanted_left, top in _list_places(box, size):
        if not 0 <= top <= image_height - height:
            continue
        left = min(max(wanted_left, 0.0), image_width - width)
        if _is_free((left, top, left + width, top + height), taken):
            return left, top
    return None


def _list_places(box: Corners, size: Size) -> Iterator[Point]:
    """Yield places at a box, the best one first."""
    x1, y1, x2, y2 = box
    # A detector may put out a box whose right side is left of its left one.
    left, right = min(x1, x2), max(x1, x2)
    top, bottom = min(y1, y2), max(y1, y2)
    width, height = size
    inside_top = max(top, 0.0)

    yield left, top - height
    yield right - width, top - height
    if bottom - inside_top >= ROOMY * height:
        yield left, inside_top
        yield right - width, inside_top
    yield left, bottom
    yield right - width, bottom

    # Beside the box and inside it, further and further down.
    for step in range(MAX_STEPS):
        lower_top = inside_top + step * height
        if step > 0 and lower_top > bottom:
            return
        yield right, lower_top
        yield left - width, lower_top
        yield left, lower_top
        yield right - width, lower_top


def _is_free(label: Corners, taken: npt.NDArray[np.float64]) -> bool:
    """Whether a label covers none of those that are placed, which may touch it."""
    x1, y1, x2, y2 = label
    is_aside = (taken[:, 2] <= x1 + SLACK) | (taken[:, 0] >= x2 - SLACK)
    is_over_or_under = (taken[:, 3] <= y1 + SLACK) | (taken[:, 1] >= y2 - SLACK)
    return bool((is_aside | is_over_or_under).all())

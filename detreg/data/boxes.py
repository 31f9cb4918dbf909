"""Boxes: one labeled object of an image."""

from dataclasses import dataclass, replace

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2: the upper left and the lower right corner."""

DECIMALS = 3
"""Decimals of a corner in pixels.

A thousandth of a pixel is finer than any label, and coarser than the rounding of fractions of an
image to pixels and back.
"""


@dataclass(frozen=True, slots=True)
class Box:
    """One labeled object.

    corners: in pixels from the upper left corner of the image, or in fractions of the image
        where `RawDataset.fractions` says so.
    crowd: a region that training and scoring ignore (COCO's iscrowd, VOC's difficult).
    where: the place in the annotation file, such as "annotation 17 (class cat)".
    area: in square pixels as the file states it, None where it states none.
    """

    corners: Corners
    label: str
    crowd: bool = False
    where: str = ""
    area: float | None = None


def scale_box(box: Box, width: int, height: int) -> Box:
    """Return a box given in fractions of the image with its corners in pixels."""
    x1, y1, x2, y2 = box.corners
    return replace(box, corners=(x1 * width, y1 * height, x2 * width, y2 * height))


def round_corners(corners: Corners) -> Corners:
    """Return the corners rounded to `DECIMALS`."""
    x1, y1, x2, y2 = corners
    # Adding zero turns -0.0 into 0.0: both are the same place but have different digests.
    return (
        round(x1, DECIMALS) + 0.0,
        round(y1, DECIMALS) + 0.0,
        round(x2, DECIMALS) + 0.0,
        round(y2, DECIMALS) + 0.0,
    )


def clip_corners(corners: Corners, width: int, height: int) -> Corners:
    """Return the corners of the part that lies inside an image of `width` x `height` pixels."""
    x1, y1, x2, y2 = corners
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def compute_area(corners: Corners) -> float:
    """Return the area of a box."""
    x1, y1, x2, y2 = corners
    return (x2 - x1) * (y2 - y1)


def format_corners(corners: Corners) -> str:
    """Return the corners as text for a message."""
    return ", ".join(f"{value:g}" for value in corners)

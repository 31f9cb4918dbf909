"""Images with what a model finds on them, as files."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from detreg.inference.detections import Detections
from detreg.report.drawing import draw_detections

DRAWN_SIDE = 640
"""Pixels of the longer side up to which a small image is enlarged, for its labels to be read."""
JPEG_QUALITY = 92
MAX_STEM_LENGTH = 60
"""Characters of a file's name that its drawn image has, of at most four bytes each."""

Pixels = npt.NDArray[np.uint8]


def name_output(folder: Path, number: int, file: Path, suffix: str) -> Path:
    """Return where the output for a file lies; its number keeps files of one name apart."""
    # A file system takes names of 255 bytes.
    return folder / f"{number:04d}_{file.stem[:MAX_STEM_LENGTH]}{suffix}"


def write_drawn(image: Pixels, detections: Detections, path: Path) -> None:
    """Write an image with its boxes and masks as JPEG."""
    drawn = Image.fromarray(draw_enlarged(image, detections))
    drawn.save(path, quality=JPEG_QUALITY)


def draw_enlarged(image: Pixels, detections: Detections) -> Pixels:
    """Return an image with its detections, larger where it is too small for legible labels."""
    factor = max(1, DRAWN_SIDE // max(image.shape[:2]))
    if factor == 1:
        return draw_detections(image, detections)

    height, width = image.shape[:2]
    size = (width * factor, height * factor)
    enlarged = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    masks = None if detections.masks is None else detections.masks.scale(factor)
    larger = replace(detections, boxes=detections.boxes * factor, masks=masks)
    return draw_detections(enlarged, larger)

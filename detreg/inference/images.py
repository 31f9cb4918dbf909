"""Image files to arrays."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, NotFoundError

MAX_PIXELS = 100_000_000
"""A file of a few kilobytes can claim to hold an image that fills the memory, so the claim is read
before anything is decoded."""

_TOO_LARGE = f"the image has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 (height, width, 3) RGB, upright.

    The EXIF orientation is applied. Raises DataError for bytes that are not an image and for images
    of more than 100 megapixels.
    """
    width, height = read_claimed_size(data)
    if width * height > MAX_PIXELS:
        raise DataError(_TOO_LARGE)

    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError("the image is damaged: its header can be read, its pixels cannot")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image file as `decode_image` does.

    Raises NotFoundError where there is no such file, DataError where it is not an image; both name
    the file.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{path}: there is no such image") from error

    try:
        return decode_image(data)
    except DataError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from error


def read_claimed_size(data: bytes) -> tuple[int, int]:
    """Return the (width, height) that the file's header gives."""
    # A detector that is given arrays works where Pillow is not installed.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            return header.size
    except Image.DecompressionBombError as error:
        raise DataError(_TOO_LARGE) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"the bytes ({len(data)} of them) are not an image: send a JPEG or PNG file"
        ) from error

"""Image files to arrays."""

import io
import os

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.defaults import MAX_IMAGE_BYTES, MAX_PIXELS
from detreg.errors import DataError, NotFoundError
from detreg.files import read_regular
from detreg.image_header import count_pixels

_TOO_LARGE = f"the image has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 (height, width, 3) RGB, upright.

    The EXIF orientation is applied. Raises DataError for bytes that are not an image and for images
    of more than 100 megapixels.
    """
    read_claimed_size(data)

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
        data = read_regular(path, MAX_IMAGE_BYTES)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{path}: there is no such image") from error

    try:
        return decode_image(data)
    except DataError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from error


def read_claimed_size(data: bytes) -> tuple[int, int]:
    """Return the (width, height) that the header gives. Raises DataError as `decode_image` does."""
    # A detector that is given arrays works where Pillow is not installed.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            size = header.size
            pixels = count_pixels(header)
    except Image.DecompressionBombError as error:
        raise DataError(_TOO_LARGE) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"the bytes ({len(data)} of them) are not an image: send a JPEG or PNG file"
        ) from error
    if pixels > MAX_PIXELS:
        raise DataError(_TOO_LARGE)
    return size

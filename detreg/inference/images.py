"""Picture files to arrays."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, NotFoundError

MAX_PIXELS = 100_000_000
"""A file of a few kilobytes can claim a picture that fills the memory, so the claim is read before anything is decoded."""

_TOO_LARGE = f"the picture has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes a picture file's bytes to uint8 (height, width, 3) RGB, upright (EXIF orientation applied).

    Raises DataError for bytes that are no picture and for pictures of more than 100 megapixels.
    """
    width, height = _claimed_size(data)
    if width * height > MAX_PIXELS:
        raise DataError(_TOO_LARGE)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError("the picture is damaged: its header is readable, its pixels are not")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads a picture file as `decode` does.

    Raises NotFoundError where there is no such file, DataError where it is no picture; both name the file.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{path}: there is no such picture") from error
    try:
        return decode_image(data)
    except DataError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from error


def _claimed_size(data: bytes) -> tuple[int, int]:
    # Not at the top: a detector that is given arrays works where Pillow is not installed.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            return header.size
    except Image.DecompressionBombError as error:
        raise DataError(_TOO_LARGE) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"the bytes ({len(data)} of them) are not a picture: send a JPEG or PNG file"
        ) from error

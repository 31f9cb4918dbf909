"""Image files to arrays; `read` is `detreg.read`."""

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import DataError, NotFoundError
from detreg.files import read_regular
from detreg.image_decoding import decode_bgr, open_header


def read(image: str | os.PathLike[str] | bytes) -> NDArray[np.uint8]:
    """Return an image file, by its path or its bytes, as uint8 (height, width, 3) in RGB, upright.

    Raises NotFoundError where there is no such file, DataError where it is not an image.
    """
    if isinstance(image, bytes):
        return decode_image(image)
    return read_image(image)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 (height, width, 3) RGB, upright.

    The EXIF orientation is applied. Raises DataError for bytes that are not an image and for images
    of more than 100 megapixels.
    """
    return np.asarray(cv2.cvtColor(decode_bgr(data), cv2.COLOR_BGR2RGB), np.uint8)


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
    return open_header(data).size

"""The one decoder of image files: for the check of data, training, evaluation and serving.

What is accepted here, by format, pixels and decoding, is accepted everywhere.

Pillow and OpenCV are imported where they are called: a detector that is given arrays works without
Pillow, and a check of data that has been checked before need not wait for OpenCV.
"""

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

from detreg.defaults import MAX_PIXELS
from detreg.errors import DataError, shorten
from detreg.image_header import count_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""Accepted formats, by their names in Pillow; OpenCV loads all of them."""

DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for files that are not what they seem."""

# Pillow warns of sizes near to those that are refused here.
warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")

_UNDECODABLE = (
    "its header can be read, its pixels cannot: it is damaged, or of a kind that is not loaded as "
    "8 bits a channel, such as 32-bit numbers; save it as JPEG or 8-bit PNG"
)


class ImageFileError(DataError):
    """Bytes that are not an image that detreg uses; the message does not name the file."""


def open_header(data: bytes) -> "Image.Image":
    """Return the image that Pillow sees in a file's bytes; nothing is decoded yet.

    Raises ImageFileError for another format, and for more pixels than `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    too_large = (
        f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller, or cut it "
        "into parts"
    )
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = count_pixels(header)
    except Image.DecompressionBombError as error:
        raise ImageFileError(too_large) from error
    except UnidentifiedImageError as error:
        raise ImageFileError(
            f"the bytes ({len(data)} of them) are not an image: neither JPEG, PNG, BMP, TIFF, WebP "
            "nor GIF; use a JPEG or PNG file"
        ) from error
    except DECODING_ERRORS as error:
        raise ImageFileError(
            f"the image cannot be read ({shorten(str(error))}); replace the file by a whole one"
        ) from error

    if pixels > MAX_PIXELS:
        raise ImageFileError(too_large)
    return header


def decode_bgr(data: bytes) -> "NDArray[np.uint8]":
    """Decode an image file's bytes to uint8 (height, width, 3) in BGR, upright by its EXIF data.

    Of several frames the first one counts. Raises ImageFileError as `open_header` does, and where
    the pixels cannot be decoded.
    """
    import cv2  # noqa: PLC0415

    open_header(data)
    return _decode(data, cv2.IMREAD_COLOR)


def decode_small(data: bytes) -> "NDArray[np.uint8]":
    """Decode a JPEG to an eighth of its width and height, rounded up, in a third of the time.

    It fails where `decode_bgr` fails: all of the file is read by the same code, and only the
    transform of its blocks to pixels is left out.
    """
    import cv2  # noqa: PLC0415

    return _decode(data, cv2.IMREAD_REDUCED_COLOR_8)


def decode_small_gray(data: bytes, longer_side: int, max_side: int) -> "NDArray[np.uint8]":
    """Decode an image file to gray levels (height, width), upright, reduced to `max_side` pixels.

    longer_side: pixels of the image's longer side. Of a JPEG that is much longer than `max_side`,
    only a part of the transform is computed.

    Raises ImageFileError where it cannot be decoded. The header must have been checked before.
    """
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    flag = cv2.IMREAD_GRAYSCALE
    if longer_side >= 8 * max_side:
        flag = cv2.IMREAD_REDUCED_GRAYSCALE_8
    elif longer_side >= 4 * max_side:
        flag = cv2.IMREAD_REDUCED_GRAYSCALE_4
    elif longer_side >= 2 * max_side:
        flag = cv2.IMREAD_REDUCED_GRAYSCALE_2
    gray = _decode(data, flag, dimensions=2)

    factor = max_side / max(gray.shape)
    if factor < 1:
        height, width = gray.shape
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        gray = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)
    return gray


def _decode(data: bytes, flag: int, dimensions: int = 3) -> "NDArray[np.uint8]":
    """Return what OpenCV makes of an image file by one of its flags. Raises ImageFileError."""
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    # OpenCV would write lines of its own to the screen for each broken file.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise ImageFileError(f"the image cannot be used: {_UNDECODABLE}") from error

    if bgr is None or bgr.dtype != np.uint8 or bgr.ndim != dimensions:
        raise ImageFileError(f"the image cannot be used: {_UNDECODABLE}")
    return np.asarray(bgr, np.uint8)

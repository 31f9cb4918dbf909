"""Looks at image files without decoding them: size, orientation, content, and whether whole.

`probe_images` is the only place where the images of a dataset are read. A cache of sizes and
hashes (a manifest keyed by path, size and time of change) belongs behind it: every caller needs
no more than the `ImageProbe` of each path.
"""

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from detreg.data.findings import BadEntryError, FindingKind
from detreg.data.memory_budget import MemoryBudget
from detreg.defaults import MAX_IMAGE_BYTES, MAX_PIXELS
from detreg.errors import shorten
from detreg.files import UnusableFileError, read_regular
from detreg.image_header import count_pixels, estimate_bytes

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""Formats, by their names in Pillow, that OpenCV loads, too."""

# Images are read and decoded by many threads at a time. Most are small; those that are not wait for
# each other here. Whoever holds a part of the second budget never waits for the first.
_FILES = MemoryBudget(256 << 20)
_PIXELS = MemoryBudget(256 << 20)

_DECODING_ERRORS = (
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

# Pillow warns of sizes near to those that are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_QUARTER_TURNS = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""


@dataclass(frozen=True)
class ImageProbe:
    """What an image file says of itself, or the error that keeps it from being used.

    width, height: in pixels after the rotation that EXIF asks for, as OpenCV loads the image.
    turned: whether that rotation swaps width and height.
    sha256: of the file, in hex digits.
    error: None for a usable image; otherwise the other fields mean nothing.
    """

    width: int = 0
    height: int = 0
    turned: bool = False
    sha256: str = ""
    error: BadEntryError | None = None


def probe_images(paths: Iterable[Path]) -> dict[Path, ImageProbe]:
    """Return the probe of each image file, each read once."""
    unique = sorted(set(paths))
    # The work is mostly waiting for a disk, which threads do at the same time.
    with ThreadPoolExecutor() as threads:
        probes = threads.map(probe_image, unique)
        return dict(zip(unique, probes, strict=True))


def probe_image(path: Path) -> ImageProbe:
    """Return size, orientation and sha256 of an image file. A bad file raises nothing."""
    try:
        with _FILES.reserve(_get_size(path)):
            content = _read_file(path)
            return _parse_image(content)
    except BadEntryError as error:
        return ImageProbe(error=error)


def _get_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    try:
        return min(os.stat(path).st_size, MAX_IMAGE_BYTES)  # noqa: PTH116 (called often)
    except (OSError, ValueError):
        return 0


def _read_file(path: Path) -> bytes:
    """Return the bytes of an image file. Raises BadEntryError where it cannot be opened."""
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except UnusableFileError as error:
        raise BadEntryError(FindingKind.UNREADABLE_IMAGE, error.reason) from error
    except FileNotFoundError as error:
        raise BadEntryError(
            FindingKind.MISSING_IMAGE,
            "the image is missing; add it or remove it from the annotations",
        ) from error
    except OSError as error:
        raise BadEntryError(
            FindingKind.UNREADABLE_IMAGE,
            f"the image cannot be opened ({_describe(error)}); "
            "mend its name, its permissions or its disk",
        ) from error


def _parse_image(content: bytes) -> ImageProbe:
    """Return the probe of a file's bytes. Raises BadEntryError where they are no whole image."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image)
            width, height = image.size
            turned = _is_turned(image)
            _verify_complete(image, content)
    except BadEntryError:
        raise
    except Image.DecompressionBombError as error:
        raise _make_size_error() from error
    # On files that are not what they seem, Pillow's decoders raise all of these.
    except _DECODING_ERRORS as error:
        raise BadEntryError(
            FindingKind.UNREADABLE_IMAGE,
            f"the image cannot be read ({_describe(error)}); replace the file by a whole one",
        ) from error

    # Pillow has already turned the size of a TIFF.
    if turned and image.format != "TIFF":
        width, height = height, width

    sha256 = hashlib.sha256(content).hexdigest()
    return ImageProbe(width, height, turned, sha256)


def _check_pixels(image: Image.Image) -> None:
    """Raise BadEntryError where decoding would fill the memory."""
    if count_pixels(image) > MAX_PIXELS:
        raise _make_size_error()


def _make_size_error() -> BadEntryError:
    return BadEntryError(
        FindingKind.UNREADABLE_IMAGE,
        f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller, or cut it "
        "into parts",
    )


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF asks for a rotation that swaps width and height."""
    # Pillow would decode a whole PNG in search of EXIF data behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return False
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation in _QUARTER_TURNS


def _verify_complete(image: Image.Image, content: bytes) -> None:
    """Raise an exception of Pillow, or OSError, where the file is cut short.

    JPEG is verified by its end marker, PNG by its checksums, and what is rarer by decoding it.
    """
    if image.format in ("JPEG", "MPO"):
        # An embedded thumbnail has an end marker, too: the end comes after the last start of scan.
        end_of_image = content.rfind(b"\xff\xd9")
        start_of_scan = content.rfind(b"\xff\xda")
        if end_of_image < start_of_scan:
            raise OSError("the file is cut short: a JPEG without its end marker")
    elif image.format == "PNG":
        image.verify()
    else:
        with _PIXELS.reserve(estimate_bytes(image)):
            image.load()


def _describe(error: Exception) -> str:
    """Return the reason of an exception in words for users."""
    if isinstance(error, UnidentifiedImageError):
        return "neither JPEG, PNG, BMP, TIFF nor WebP"
    return shorten(str(error)) or type(error).__name__

"""Looks at image files: size, orientation, content, and whether training can decode them.

`probe_images` is the only place where the images of a dataset are read; manifest.py calls it for
those that have changed since the last time.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from detreg.data.findings import BadEntryError, FindingKind
from detreg.data.memory_budget import MemoryBudget
from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import shorten
from detreg.files import UnusableFileError, read_regular
from detreg.image_decoding import (
    DECODING_ERRORS,
    ImageFileError,
    decode_bgr,
    decode_small,
    open_header,
)
from detreg.image_header import count_tiff_bits, estimate_bytes, is_whole_jpeg

# Images are read and decoded by many threads at a time. Most are small; those that are not wait for
# each other here. Whoever holds a part of the second budget never waits for the first.
_FILES = MemoryBudget(256 << 20)
_PIXELS = MemoryBudget(256 << 20)

_BATCH = 32
"""Images that a thread takes at a time: handing them out one by one costs as much as reading."""

_QUARTER_TURNS = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""

_LOST_BITS = "image of 16 bits a channel read with the upper 8 of them"
_LOST_FRAMES = "file of several images of which the first is read"

_PNG_DEPTH = 24
"""The byte of a PNG that holds the bits of a channel."""

_MAX_PNG_SIDE = 65_500
"""Longest side of a PNG that is surely loaded; libpng refuses a million pixels."""

_PNG_END = b"IEND\xaeB\x60\x82"
"""The last chunk of a PNG with its checksum."""


@dataclass(frozen=True)
class ImageProbe:
    """What an image file says of itself, or the error that keeps it from being used.

    width, height: in pixels after the rotation that EXIF asks for, as OpenCV loads the image.
    turned: whether that rotation swaps width and height.
    sha256: of the file, in hex digits.
    loss: what of the file is not used, in words for users; empty for nothing.
    error: None for a usable image; otherwise the other fields mean nothing.
    """

    width: int = 0
    height: int = 0
    turned: bool = False
    sha256: str = ""
    loss: str = ""
    error: BadEntryError | None = None


def ignore_progress(count: int) -> None:
    """Do nothing with the number of images that were read."""


def probe_images(
    paths: Iterable[Path], add_progress: Callable[[int], None] = ignore_progress
) -> dict[Path, ImageProbe]:
    """Return the probe of each image file, each read once.

    add_progress: called now and then with the number of images that were read meanwhile.
    """
    unique = list(dict.fromkeys(paths))
    batches = [unique[start : start + _BATCH] for start in range(0, len(unique), _BATCH)]
    probes: dict[Path, ImageProbe] = {}

    # The work is mostly waiting for a disk, which threads do at the same time.
    with ThreadPoolExecutor() as threads:
        for batch, found in zip(batches, threads.map(_probe_batch, batches), strict=True):
            probes.update(zip(batch, found, strict=True))
            add_progress(len(batch))
    return probes


def _probe_batch(paths: Iterable[Path]) -> list[ImageProbe]:
    """Return the probe of each image file."""
    return [probe_image(path) for path in paths]


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
            f"the image cannot be opened ({shorten(str(error))}); "
            "mend its name, its permissions or its disk",
        ) from error


def _parse_image(content: bytes) -> ImageProbe:
    """Return the probe of a file's bytes. Raises BadEntryError where they are no whole image."""
    try:
        image = open_header(content)
        if image.format in ("JPEG", "MPO"):
            width, height, is_turned = _measure_jpeg(image, content)
        elif image.format == "PNG" and _is_plain_png(image, content):
            width, height, is_turned = *image.size, False
        else:
            width, height, is_turned = _measure_by_decoding(image, content)
        loss = _describe_loss(image, content)
    except BadEntryError:
        raise
    except ImageFileError as error:
        raise BadEntryError(FindingKind.UNREADABLE_IMAGE, str(error)) from error
    # On files that are not what they seem, Pillow's decoders raise all of these.
    except DECODING_ERRORS as error:
        raise _make_unreadable_error(shorten(str(error)) or type(error).__name__) from error

    return ImageProbe(width, height, is_turned, hashlib.sha256(content).hexdigest(), loss)


def _is_plain_png(image: Image.Image, content: bytes) -> bool:
    """Whether a PNG is surely loaded in the size of its header, by its checksums.

    Decoding would take long. Raises an exception of Pillow where a checksum is wrong.
    """
    # Pillow finds EXIF data only where they come before the pixels.
    if b"eXIf" in content or max(image.size) > _MAX_PNG_SIDE:
        return False
    image.verify()
    # Pillow does not verify the last chunk.
    return _PNG_END in content


def _measure_jpeg(image: Image.Image, content: bytes) -> tuple[int, int, bool]:
    """Return width, height and whether EXIF swaps them. Raises BadEntryError for one cut short."""
    if not is_whole_jpeg(content):
        raise _make_unreadable_error(
            "the file is cut short: a JPEG without its end marker", FindingKind.TRUNCATED_IMAGE
        )

    with _PIXELS.reserve(estimate_bytes(image)):
        small_height, small_width = decode_small(content).shape[:2]
    width, height = image.size
    is_turned = _read_orientation(image.info.get("exif", b"")) in _QUARTER_TURNS
    if is_turned:
        width, height = height, width

    # EXIF data may be written in ways that Pillow and OpenCV understand differently.
    if (small_width, small_height) != (math.ceil(width / 8), math.ceil(height / 8)):
        return _measure_by_decoding(image, content)
    return width, height, is_turned


def _read_orientation(exif_data: bytes) -> object:
    """Return the orientation in EXIF data, None where there is none or the data are broken.

    Pillow's Image.getexif would also believe XMP, which OpenCV does not read.
    """
    exif = Image.Exif()
    try:
        exif.load(exif_data)
    except DECODING_ERRORS:
        return None
    return exif.get(ExifTags.Base.Orientation)


def _measure_by_decoding(image: Image.Image, content: bytes) -> tuple[int, int, bool]:
    """Return width, height and whether EXIF swaps them, of the image that training would get.

    Of rarer kinds OpenCV loads not all, and reads their EXIF data not as Pillow does.
    """
    with _PIXELS.reserve(2 * estimate_bytes(image)):
        height, width = decode_bgr(content).shape[:2]

    if image.format == "TIFF":
        # Pillow has already turned the size.
        is_turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    else:
        is_turned = (width, height) != image.size
    return width, height, is_turned


def _describe_loss(image: Image.Image, content: bytes) -> str:
    """Return what of a file decoding leaves out, in words for users; empty for nothing."""
    if image.format == "PNG" and content[_PNG_DEPTH] == 16:
        return _LOST_BITS
    if count_tiff_bits(image) > 8:
        return _LOST_BITS
    if image.format in ("JPEG", "MPO", "BMP"):
        return ""

    # The number of frames is not asked for, because a file may have millions of them.
    try:
        is_png = image.format == "PNG"
        has_frames = getattr(image, "is_animated", False) if is_png else _can_seek(image)
    except DECODING_ERRORS:
        has_frames = False
    return _LOST_FRAMES if has_frames else ""


def _can_seek(image: Image.Image) -> bool:
    """Whether there is a second frame. Raises EOFError or another error of Pillow if not."""
    image.seek(1)
    return True


def _make_unreadable_error(
    reason: str, kind: FindingKind = FindingKind.UNREADABLE_IMAGE
) -> BadEntryError:
    return BadEntryError(
        kind, f"the image cannot be read ({reason}); replace the file by a whole one"
    )

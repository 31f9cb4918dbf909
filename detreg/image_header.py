"""What an image file says of itself: how much memory it claims, and whether a JPEG is whole.

Pillow reads the header when it opens a file, and decodes nothing. This module imports Pillow for
its types only: a detector that is given arrays works without it.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_TILE_WIDTH = 322
_TILE_LENGTH = 323
_BITS_PER_SAMPLE = 258
_SAMPLES_PER_PIXEL = 277

_JPEG_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_START_OF_IMAGE = 0xD8
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker. Within pixels, 0xff is followed by a zero or by the number of a restart (d0 to d7)."""


def count_pixels(header: "Image.Image") -> int:
    """Return the pixels that decoding fills: of the image, or of a TIFF's tile if that is larger.

    A TIFF of one pixel may consist of a tile of gigabytes, which is decoded as a whole.
    """
    width, height = header.size
    tags = getattr(header, "tag_v2", {})
    tile = _get_number(tags.get(_TILE_WIDTH)) * _get_number(tags.get(_TILE_LENGTH))
    return max(width * height, tile)


def estimate_bytes(header: "Image.Image") -> int:
    """Return about how many bytes the decoded pixels take."""
    tags = getattr(header, "tag_v2", {})
    samples = max(_get_number(tags.get(_SAMPLES_PER_PIXEL)), len(header.getbands()))
    return count_pixels(header) * samples * max(1, count_tiff_bits(header) // 8)


def count_tiff_bits(header: "Image.Image") -> int:
    """Return the most bits of a channel that a TIFF states, 8 for other formats."""
    bits = getattr(header, "tag_v2", {}).get(_BITS_PER_SAMPLE) or 8
    return max(map(_get_number, bits)) if isinstance(bits, tuple) else _get_number(bits)


def is_whole_jpeg(content: bytes) -> bool:
    """Whether a JPEG has its end marker, with whatever behind it.

    Phones put a film or a second image there. A thumbnail within the header has an end marker,
    too, so segments are passed over as a whole.
    """
    if content.endswith(_JPEG_END):
        return True

    has_pixels = False
    position = 2
    while (marker := _JPEG_MARKER.search(content, position)) is not None:
        position = marker.end()
        kind = content[position - 1]
        if kind == _END_OF_IMAGE and has_pixels:
            return True
        if kind in (_START_OF_IMAGE, _END_OF_IMAGE):
            continue

        has_pixels |= kind == _START_OF_SCAN
        # Two bytes after a marker give the length of its segment, themselves included.
        position += int.from_bytes(content[position : position + 2], "big")
    return False


def _get_number(value: object) -> int:
    """Return the value of a tag, 0 where it is none or no whole number."""
    return value if isinstance(value, int) else 0

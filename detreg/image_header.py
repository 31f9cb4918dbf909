"""How much memory an image file claims, from its header.

Pillow reads the header when it opens a file, and decodes nothing. This module imports Pillow for
its types only: a detector that is given arrays works without it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_TILE_WIDTH = 322
_TILE_LENGTH = 323
_BITS_PER_SAMPLE = 258
_SAMPLES_PER_PIXEL = 277


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
    bits = tags.get(_BITS_PER_SAMPLE) or 8
    bits_of_one = max(map(_get_number, bits)) if isinstance(bits, tuple) else _get_number(bits)
    samples = max(_get_number(tags.get(_SAMPLES_PER_PIXEL)), len(header.getbands()))
    return count_pixels(header) * samples * max(1, bits_of_one // 8)


def _get_number(value: object) -> int:
    """Return the value of a tag, 0 where it is none or no whole number."""
    return value if isinstance(value, int) else 0

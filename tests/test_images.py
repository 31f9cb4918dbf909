"""Image files to arrays."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_detector import draw_image, encode_image

import detreg
from detreg.errors import DataError, NotFoundError
from detreg.inference.images import decode_image, read_image

# An EXIF segment with orientation 6: the image is turned by a quarter.
EXIF_QUARTER_TURN = (
    b"\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08"
    b"\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
)


def test_decoding_gives_rgb() -> None:
    image = draw_image(6, 4, (0, 0, 3, 4))
    np.testing.assert_array_equal(decode_image(encode_image(image)), image)


def test_detreg_reads_a_path_or_bytes_upright(tmp_path: Path) -> None:
    jpeg = encode_image(draw_image(6, 4, (0, 0, 3, 4)), ".jpg")
    turned = jpeg[:2] + EXIF_QUARTER_TURN + jpeg[2:]
    path = tmp_path / "turned.jpg"
    path.write_bytes(turned)
    for source in (turned, path, str(path)):
        image = detreg.read(source)
        assert image.dtype == np.uint8 and image.shape == (6, 4, 3)


def test_decoding_gives_upright_images() -> None:
    jpeg = encode_image(draw_image(6, 4, (0, 0, 3, 4)), ".jpg")
    turned = jpeg[:2] + EXIF_QUARTER_TURN + jpeg[2:]
    assert decode_image(turned).shape == (6, 4, 3)


@pytest.mark.parametrize(
    "data", [b"", b"hello", encode_image(draw_image(40, 40, (0, 0, 9, 9)))[:60]]
)
def test_bytes_that_are_not_an_image_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_image(data)


def test_a_claim_of_too_many_pixels_is_refused_before_decoding() -> None:
    png = bytearray(encode_image(draw_image(4, 4, (0, 0, 1, 1))))
    # Width and height stand at bytes 16 to 24 of the header, its checksum after it.
    png[16:24] = (20_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="megapixels"):
        decode_image(bytes(png))


def test_a_tiff_whose_tile_is_too_large_is_refused() -> None:
    # A tile of 2^20 x 2^20 pixels for an image of one.
    tags = {256: 1, 257: 1, 258: 8, 262: 1, 277: 1, 322: 1 << 20, 323: 1 << 20, 324: 8, 325: 1}
    entries = b"".join(struct.pack("<2H2L", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(DataError, match="megapixels"):
        decode_image(b"II*\0\x08\0\0\0" + directory)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(DataError, match="this is a FIFO"):
        read_image(tmp_path / "image.png")


def test_reading_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"text.jpg: the bytes \(5 of them\) are not an image"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(NotFoundError, match=r"missing.jpg: there is no such image"):
        read_image(tmp_path / "missing.jpg")


def test_pixels_that_are_not_of_8_bits_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(stream, "TIFF")
    with pytest.raises(DataError, match=r"its pixels cannot: .* save it as JPEG or 8-bit PNG"):
        decode_image(stream.getvalue())

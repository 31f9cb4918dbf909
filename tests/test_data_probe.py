"""Looking at image files: sizes as OpenCV loads them, and files that are damaged."""

import io
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_datasets import encode_image

from detreg.data.findings import FindingKind
from detreg.data.probe import probe_image
from detreg.errors import DataError
from detreg.image_decoding import decode_bgr


def encode_plain(kind: str) -> bytes:
    """Return an image file without EXIF data."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (1, 120, 200)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_that_of_the_image_that_opencv_loads(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(encode_image(1, kind, orientation=orientation))
    probe = probe_image(path)

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert (probe.height, probe.width) == pixels.shape[:2]
    assert probe.turned == (orientation >= 5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_image_that_is_cut_short_is_unreadable(tmp_path: Path, kind: str) -> None:
    whole = encode_plain(kind)
    path = tmp_path / "x.jpg"
    for content in (whole[:-40], whole[:30]):
        path.write_bytes(content)
        error = probe_image(path).error
        assert error is not None
        assert error.kind in (FindingKind.UNREADABLE_IMAGE, FindingKind.TRUNCATED_IMAGE)
        assert re.search("cannot be (read|used)|are not an image", str(error))

    path.write_bytes(whole + b"trailing bytes")
    assert probe_image(path).error is None


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_no_image_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    error = probe_image(path).error
    assert error is not None
    assert "neither JPEG, PNG, BMP, TIFF, WebP nor GIF" in str(error)


def test_thumbnail_does_not_hide_that_a_jpeg_is_cut_short(tmp_path: Path) -> None:
    # An EXIF segment with a whole JPEG in it, right after the start of image.
    thumbnail = b"Exif\0\0" + encode_image(1, "JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encode_image(2, "JPEG")
    content = whole[:2] + segment + whole[2:]

    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert probe_image(path).error is None
    path.write_bytes(content[:-10])
    assert "cut short" in str(probe_image(path).error)


def test_image_that_is_missing(tmp_path: Path) -> None:
    error = probe_image(tmp_path / "gone.jpg").error
    assert error is not None
    assert error.kind is FindingKind.MISSING_IMAGE


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_exif(orientation: int, order: str = "<", type_: int = 3) -> bytes:
    """Return EXIF data of nothing but an orientation; its type is SHORT unless told otherwise."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "L"}[type_], orientation)
    entry = struct.pack(order + "HHL", 0x0112, type_, 1) + value
    return start + struct.pack(order + "LH", 8, 1) + entry + bytes(4)


def make_jpeg(*segments: bytes, end: bytes = b"") -> bytes:
    """Return a JPEG with segments APP1 at its start and bytes behind its end marker."""
    plain = encode_plain("JPEG")
    parts = [b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data for data in segments]
    return b"".join([plain[:2], *parts, plain[2:], end])


def make_png(chunk: bytes, before: bytes) -> bytes:
    """Return a PNG with EXIF data in front of another chunk."""
    plain = encode_plain("PNG")
    place = plain.index(before) - 4
    checksum = zlib.crc32(b"eXIf" + chunk)
    added = struct.pack(">L", len(chunk)) + b"eXIf" + chunk + struct.pack(">L", checksum)
    return plain[:place] + added + plain[place:]


def make_images_of_all_kinds() -> Iterator[tuple[str, bytes]]:
    """Yield images that decoders read in different ways, whole and broken, each with a name."""
    prefix = b"Exif\0\0"
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield "jpeg exif", make_jpeg(prefix + make_exif(6))
    yield "jpeg exif big endian", make_jpeg(prefix + make_exif(6, ">"))
    yield "jpeg exif as a byte", make_jpeg(prefix + make_exif(6, "<", 1))
    yield "jpeg exif as a long", make_jpeg(prefix + make_exif(6, ">", 4))
    yield "jpeg exif twice", make_jpeg(prefix + make_exif(1), prefix + make_exif(6))
    yield "jpeg exif broken", make_jpeg(prefix + b"XX" + make_exif(6)[2:])
    yield "jpeg xmp only", make_jpeg(xmp)
    yield "jpeg xmp, then exif", make_jpeg(xmp, prefix + make_exif(6))
    yield "png exif", make_png(make_exif(6), b"IDAT")
    yield "png exif behind the pixels", make_png(make_exif(6), b"IEND")
    yield "png exif with a prefix", make_png(prefix + make_exif(6), b"IDAT")

    yield "png with a wrong last checksum", encode_plain("PNG")[:-1] + b"x"
    yield "png without its last byte", encode_plain("PNG")[:-1]

    color = Image.new("RGB", (40, 30), (1, 120, 200))
    for mode in ("F", "I", "L", "LA", "1", "P", "RGBA", "CMYK"):
        yield f"{mode} TIFF", encode(color.convert(mode), "TIFF")
    for mode in ("L", "LA", "1", "P", "RGBA"):
        yield f"{mode} PNG", encode(color.convert(mode), "PNG")
    for mode in ("L", "1", "P"):
        yield f"{mode} BMP", encode(color.convert(mode), "BMP")
    yield "16 bits", encode(Image.fromarray(np.full((30, 40), 999, np.uint16)), "PNG")
    yield "CMYK JPEG", encode(color.convert("CMYK"), "JPEG")
    yield "GIF", encode(color.convert("P"), "GIF")
    yield "PNG too wide for libpng", encode(Image.new("1", ((1 << 20) + 1, 1)), "PNG")

    two_images = encode(color, "MPO", save_all=True, append_images=[color])
    yield "two images", two_images
    yield "two images, the second cut short", two_images[:-30]


IMAGES_OF_ALL_KINDS = dict(make_images_of_all_kinds())


@pytest.mark.parametrize(
    ("name", "content"), IMAGES_OF_ALL_KINDS.items(), ids=IMAGES_OF_ALL_KINDS.keys()
)
def test_check_and_decoder_agree(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    probe = probe_image(path)

    try:
        height, width = decode_bgr(content).shape[:2]
    except DataError:
        assert probe.error is not None
    else:
        assert (probe.error, probe.width, probe.height) == (None, width, height)


def draw_noise() -> Image.Image:
    """Return an image of 48 x 32 that no codec makes small, the same each time."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def keep(content: bytes) -> bytes:
    return content


def cut(content: bytes) -> bytes:
    return content[:-5]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize(
    "film",
    [b"", bytes(40), b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x0c\xff\xd8" * 9],
    ids=["nothing", "zeros", "film"],
)
@pytest.mark.parametrize("change", [keep, cut])
def test_jpeg_is_whole_whatever_follows_its_end(
    tmp_path: Path, options: dict[str, object], film: bytes, change: Callable[[bytes], bytes]
) -> None:
    image = encode(draw_noise(), "JPEG", **options)
    path = tmp_path / "x.jpg"
    path.write_bytes(change(image) + film)
    probe = probe_image(path)

    if change is keep:
        assert (probe.error, probe.width, probe.height) == (None, 48, 32)
    else:
        assert probe.error is not None
        assert probe.error.kind is FindingKind.TRUNCATED_IMAGE


def make_frames(kind: str) -> bytes:
    """Return a file of two images."""
    first = Image.new("RGB", (40, 30))
    second = Image.new("RGB", (40, 30), (250, 0, 0))
    return encode(first, kind, save_all=True, append_images=[second])


def make_gray(type_: type[np.unsignedinteger], kind: str) -> bytes:
    return encode(Image.fromarray(np.full((30, 40), 200, type_)), kind)


@pytest.mark.parametrize(
    ("content", "loss"),
    [
        (make_gray(np.uint16, "PNG"), "16 bits a channel"),
        (make_gray(np.uint16, "TIFF"), "16 bits a channel"),
        (make_gray(np.uint8, "PNG"), ""),
        (make_gray(np.uint8, "TIFF"), ""),
        (make_frames("TIFF"), "the first is read"),
        (make_frames("GIF"), "the first is read"),
        (make_frames("WEBP"), "the first is read"),
        (make_frames("PNG"), "the first is read"),
        (make_frames("MPO"), ""),
        (encode_plain("GIF"), ""),
        (encode_plain("WEBP"), ""),
        (encode_plain("BMP"), ""),
    ],
)
def test_what_decoding_leaves_out_is_told(tmp_path: Path, content: bytes, loss: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    probe = probe_image(path)
    assert probe.error is None
    assert loss in probe.loss
    assert bool(loss) == bool(probe.loss)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return a file with some bytes changed, left out or added."""
    damaged = bytearray(content)
    place = rng.randrange(len(damaged))
    count = rng.randint(1, 20)
    change = rng.choice(["replace", "delete", "cut", "append"])
    if change == "replace":
        # Headers are at the start, and what is wrong there matters most.
        damaged[min(place, rng.randrange(700))] = rng.randrange(256)
    elif change == "delete":
        del damaged[place : place + count]
    elif change == "cut":
        del damaged[place:]
    else:
        damaged += rng.randbytes(count)
    return bytes(damaged)


def check_agreement(folder: Path, seed: int, count: int) -> None:
    """Assert that damaged files pass the check where, and in the size that, they decode."""
    rng = random.Random(seed)
    noise = draw_noise()
    whole = [encode(noise, kind) for kind in ("PNG", "TIFF", "WEBP", "BMP", "GIF")]
    whole += [encode(noise, "JPEG"), encode(noise, "JPEG", progressive=True)]

    path = folder / "x"
    for _ in range(count):
        content = damage(rng.choice(whole), rng)
        path.write_bytes(content)
        probe = probe_image(path)
        try:
            height, width = decode_bgr(content).shape[:2]
        except DataError:
            assert probe.error is not None, content
        else:
            assert (probe.error, probe.width, probe.height) == (None, width, height), content


def test_check_and_decoder_agree_on_damaged_images(tmp_path: Path) -> None:
    check_agreement(tmp_path, 0, 200)


@pytest.mark.soak
def test_check_and_decoder_agree_on_many_damaged_images(tmp_path: Path) -> None:
    check_agreement(tmp_path, 1, 10_000)

"""Looking at image files: sizes as OpenCV loads them, and files that are damaged."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_datasets import encode_image

from detreg.data.findings import FindingKind
from detreg.data.probe import probe_image


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
        assert error.kind is FindingKind.UNREADABLE_IMAGE
        assert "cannot be read" in str(error)

    path.write_bytes(whole + b"trailing bytes")
    assert probe_image(path).error is None


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_no_image_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    error = probe_image(path).error
    assert error is not None
    assert "neither JPEG, PNG, BMP, TIFF nor WebP" in str(error)


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

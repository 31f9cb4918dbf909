"""Looks at picture files without decoding them: size, orientation, content, and whether the file is whole."""

import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""In Pillow's names: what OpenCV, too, loads."""

_QUARTER_TURNS = (5, 6, 7, 8)
"""The values of EXIF's orientation that swap width and height."""


@dataclass(frozen=True)
class Probe:
    """What a file says of its picture: width and height once turned as EXIF asks (as OpenCV loads it), or the problem with it."""

    width: int = 0
    height: int = 0
    turned: bool = False
    sha256: str = ""
    problem: str = ""


def probe_all(paths: Iterable[Path]) -> dict[Path, Probe]:
    """A probe of each picture; threads hide the waiting for a slow disk."""
    unique = sorted(set(paths))
    with ThreadPoolExecutor() as threads:
        return dict(zip(unique, threads.map(probe, unique), strict=True))


def probe(path: Path) -> Probe:
    """Size, orientation and sha256 of one picture file, read once. Never raises on a bad file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Probe(problem="the picture is missing; add it or remove it from the annotations")
    # A name with a null byte is a ValueError.
    except (OSError, ValueError) as error:
        return Probe(
            problem=f"the picture cannot be opened ({_reason(error)}); mend its name, its permissions or its disk"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            turned = _is_turned(image)
            _verify(image, content)
    # Pillow's decoders raise SyntaxError and ValueError, too, on files that are not what they seem.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Probe(
            problem=f"the picture cannot be read ({_reason(error)}); replace the file by a whole one"
        )
    # Pillow has already turned the size of a TIFF.
    if turned and image.format != "TIFF":
        width, height = height, width
    return Probe(width, height, turned, hashlib.sha256(content).hexdigest())


def _is_turned(image: Image.Image) -> bool:
    # Pillow would decode a whole PNG in search of EXIF data behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS


def _verify(image: Image.Image, content: bytes) -> None:
    """Raises where the file is cut short: by the end marker for JPEG, the checksums for PNG, and decoding for what is rarer."""
    if image.format in ("JPEG", "MPO"):
        # An embedded thumbnail has an end marker of its own, so the marker must come after the last start of scan.
        if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
            raise OSError("the file is cut short: a JPEG without its end marker")
    elif image.format == "PNG":
        image.verify()
    else:
        image.load()


def _reason(error: Exception) -> str:
    return (
        "neither JPEG, PNG, BMP, TIFF nor WebP"
        if isinstance(error, UnidentifiedImageError)
        else str(error) or type(error).__name__
    )

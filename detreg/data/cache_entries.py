"""Files in the cache that remember what was computed of images: whole, or counted as empty.

A file is JSON under a line that names the versions of what it was computed with and the checksum of
the rest. It is written whole and renamed, so that processes share it without a lock: of two that
write at once the later one wins, and only work is lost. A file that is missing, damaged or of
another version counts as empty.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import PIL

from detreg.documents import MAX_JSON_BYTES
from detreg.errors import DataError
from detreg.files import read_regular, write_atomically
from detreg.version import __version__

Entry = list[Any]
"""The values of an image, plain as JSON has them, in the order of the names of the file."""

_OPENCV = ("opencv-python-headless", "opencv-python")
"""The packages of which one holds OpenCV."""


def read_entries(path: Path, names: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of a file by their keys; empty unless the file is whole.

    names: those of the values of an entry. A file with other ones counts as empty.
    """
    try:
        content = read_regular(path, MAX_JSON_BYTES)
    except (OSError, DataError):
        return {}

    header, _, body = content.partition(b"\n")
    if header != _make_header(body, names):
        return {}
    return json.loads(body)


def write_entries(path: Path, names: Sequence[str], entries: Mapping[str, Entry]) -> None:
    """Write a file of entries. A cache that is full or read-only raises nothing."""
    body = json.dumps(entries).encode()
    with suppress(OSError), write_atomically(path) as file:
        file.write(_make_header(body, names) + b"\n" + body)


def _make_header(body: bytes, names: Sequence[str]) -> bytes:
    """Return the first line of a file, without its end: what its entries depend on."""
    parts = (
        f"detreg {__version__}",
        f"Pillow {PIL.__version__}",
        f"OpenCV {_find_opencv_version()}",
        " ".join(names),
        hashlib.sha256(body).hexdigest(),
    )
    return ", ".join(parts).encode()


def _find_opencv_version() -> str:
    """Return the version of OpenCV, which takes longer to import than a second check takes."""
    for package in _OPENCV:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "unknown"

"""Files: written whole or not at all, and which of them are images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes, in lower case, of the files that are read as images."""


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file, and not a hidden one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears whole or not at all.

    The content goes to a temporary file in the same folder, is flushed to the disk and then
    renamed. A reader, or a process killed at any moment, leaves the old file or the new one.
    An exception inside the block removes the temporary file and leaves `path` as it was.
    The folder is made where it is missing. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

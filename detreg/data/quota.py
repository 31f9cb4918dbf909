"""How much of an archive is unpacked.

A few kilobytes of zeros, compressed, become gigabytes. Images do not shrink by compression, and
annotations by a factor of twenty or so: what grows a hundredfold is a mistake or an attack.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO, Protocol

from detreg.errors import DataError
from detreg.files import format_bytes

MAX_BYTES = 1 << 40
MAX_RATIO = 100
MAX_MEMBERS = 500_000

_ALWAYS_ALLOWED = 256 << 20
"""Bytes that an archive may unpack to whatever its own size."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""


class ByteCounter:
    """Counts what an archive unpacks to, and refuses too much."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Set the limit by the size of the archive, which is open as `file`."""
        self._path = path
        self._count = 0
        size = os.fstat(file.fileno()).st_size
        self._limit = min(MAX_BYTES, max(_ALWAYS_ALLOWED, MAX_RATIO * size))

    def add(self, count: int) -> None:
        """Count bytes that were unpacked. Raises DataError where they are too many together."""
        self._count += count
        self.check(self._count)

    def check(self, count: int) -> None:
        """Raise DataError for a number of bytes that is over the limit."""
        if count > self._limit:
            raise DataError(
                f"{self._path}: the archive unpacks to more than {format_bytes(self._limit)} (at "
                f"most {MAX_RATIO} times its size, from {format_bytes(_ALWAYS_ALLOWED)} to "
                f"{format_bytes(MAX_BYTES)}); if that is meant, unpack it yourself and give the "
                "folder"
            )


class CountedStream(io.RawIOBase):
    """A stream whose bytes are counted while they are read."""

    def __init__(self, stream: Readable, counter: ByteCounter) -> None:
        self._stream = stream
        self._counter = counter

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes. Raises DataError where the limit is passed."""
        content = self._stream.read(size)
        self._counter.add(len(content))
        return content

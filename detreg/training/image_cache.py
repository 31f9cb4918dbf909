"""Keeps the pixels of images, so that a training decodes and resizes each image once.

All processes of a machine that load the same split in the same size share one file: those of a
loader, those of torchrun, the workers of a sweep, and the next training. The file has a place of
equal size for each image, in the order of the split:

    header    64 bytes: the state of the image's file before it was read, height, width, a checksum
    pixels    uint8 (height, width, 3), BGR

Places that nobody has written take no room on the disk. Whoever needs an image first fills its
place, in this order: an empty header, the pixels, the header. So a place with a header is whole,
also after a kill at any moment. Two processes that fill one place write equal bytes.

Nothing is mapped into memory. To write to a mapped file ends the process where the disk is full,
and so does to read one that somebody has cut short; here the first is an error and the second an
image that is read anew. A copy of the pixels takes a hundredth of the time to decode them, and
every caller gets an array of its own.

The kernel keeps the file in memory as long as nobody needs that, and it belongs to no process.
"""

import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detreg.templates.config import Config
from detreg.training.image_cache_file import open_image_file, tell_once

Pixels = NDArray[np.uint8]

_MAGIC = b"detreg 1"
_HEADER = struct.Struct("<8sqqqQiiI")
HEADER_BYTES = 64
_BLOCK = 4096
"""Bytes that a disk hands out together, as a rule."""

_SETTLING_TIME = 2_000_000_000
"""Nanoseconds in which a file may change twice and keep its times (data/manifest.py)."""
_SHARE_OF_TIME = 0.1
"""The most of its time that a process spends on filling places, where the disk is slow."""
FREE_BYTES = 1 << 30
"""Bytes that stay free on the disk, for what else is written to it."""


@dataclass(frozen=True)
class ImageCacheSpec:
    """What a loader's configuration says of its cache.

    mode: the run option `cache`.
    name: of the file; it says which images in which size it holds.
    images: the number of images of the split.
    image_bytes: of the pixels of its largest image.
    share: the part of the memory and of the disk that is for this split.
    """

    mode: str
    name: str
    images: int
    image_bytes: int
    share: float

    @property
    def place_bytes(self) -> int:
        """The bytes from the beginning of one image's place to that of the next."""
        return -(-(HEADER_BYTES + self.image_bytes) // _BLOCK) * _BLOCK


@dataclass(frozen=True)
class FileState:
    """What changes when a file does, as `os.stat` gives it (data/manifest.py says why)."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class ImageCache:
    """The kept images of one split, as one process sees them."""

    def __init__(
        self, spec: ImageCacheSpec, get_clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.spec = spec
        self._get_clock = get_clock
        self._next_write = -1.0
        self._file: FileIO | None = None
        self._max_bytes = 0
        if spec.mode != "off":
            self._open()

    def load(self, index: int, path: str, read: Callable[[], Pixels]) -> Pixels:
        """Return the pixels of the image at `path`, the `index`-th of the split.

        `read` makes them where they are not kept, or where the file has changed since they were.
        Its errors are passed on. No other error is raised.
        """
        state = _get_state(path)
        if self._file is None or state is None:
            return read()

        offset = index * self.spec.place_bytes
        kept = _read_place(self._file, offset, state, self.spec.image_bytes)
        if kept is not None:
            return kept
        pixels = read()
        if _is_settled(state):
            self._fill(self._file, offset, state, pixels)
        return pixels

    def _fill(self, file: FileIO, offset: int, state: FileState, pixels: Pixels) -> None:
        """Write an image to its place unless there is no room or no time for it."""
        begun = self._get_clock()
        if begun < self._next_write or pixels.nbytes > self.spec.image_bytes:
            return
        try:
            used = os.fstat(file.fileno()).st_blocks * 512
            disk = os.fstatvfs(file.fileno())
            is_full = disk.f_bavail * disk.f_frsize < self.spec.place_bytes + FREE_BYTES
            if is_full or used + self.spec.place_bytes > self._max_bytes:
                return
            _write_place(file, offset, state, pixels)
        except OSError as error:
            # What is kept is read as before.
            self._max_bytes = 0
            reason = error.strerror or str(error)
            tell_once(f"no more images are kept ({reason}); the others are read anew each time")

        # A disk that is slower than decoding would make the first epoch take longer.
        taken = self._get_clock() - begun
        self._next_write = begun + taken / _SHARE_OF_TIME

    def _open(self) -> None:
        spec = self.spec
        opened = open_image_file(spec.mode, spec.name, spec.images * spec.place_bytes, spec.share)
        if opened is not None:
            self._file = opened.file
            self._max_bytes = opened.max_bytes

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file, which only a forked process inherits."""
        return self.__dict__ | {"_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.spec.mode != "off":
            self._open()


def make_cache(config: Config | None) -> ImageCache | None:
    """Return the cache of a configuration, None without one."""
    return None if config is None else ImageCache(ImageCacheSpec(**config))


def _get_state(path: str) -> FileState | None:
    """Return the state of a file, None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (called for every image)
    except (OSError, ValueError):
        return None
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _is_settled(state: FileState) -> bool:
    """Whether a change of the file from now on shows in its state for certain."""
    return max(state.mtime_ns, state.ctime_ns) + _SETTLING_TIME <= time.time_ns()


def _read_place(file: FileIO, offset: int, state: FileState, image_bytes: int) -> Pixels | None:
    """Return the pixels that are kept of a file in this state, None where there are none."""
    try:
        header = os.pread(file.fileno(), HEADER_BYTES, offset)
        shape = _parse_header(header, state)
        if shape is None or shape[0] * shape[1] * 3 > image_bytes:
            return None
        pixels = np.empty((*shape, 3), np.uint8)
        count = os.preadv(file.fileno(), [pixels.data], offset + HEADER_BYTES)
        # Another process may have begun to write while these pixels were read.
        is_same = os.pread(file.fileno(), HEADER_BYTES, offset) == header
    except OSError:
        return None
    return pixels if count == pixels.nbytes and is_same else None


def _write_place(file: FileIO, offset: int, state: FileState, pixels: Pixels) -> None:
    """Write an image so that its header appears last. Raises OSError."""
    height, width = pixels.shape[:2]
    _write(file, b"\0" * HEADER_BYTES, offset)
    _write(file, np.ascontiguousarray(pixels).data.cast("B"), offset + HEADER_BYTES)
    # Each of these writes locks the file: no processor sees the header before the pixels.
    _write(file, _make_header(state, height, width), offset)


def _write(file: FileIO, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content`; a disk that becomes full takes a part first, then none."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(file.fileno(), rest, offset)
        rest = rest[count:]
        offset += count


def _make_header(state: FileState, height: int, width: int) -> bytes:
    values = (_MAGIC, state.size, state.mtime_ns, state.ctime_ns, state.inode, height, width)
    checksum = zlib.crc32(_HEADER.pack(*values, 0))
    return _HEADER.pack(*values, checksum).ljust(HEADER_BYTES, b"\0")


def _parse_header(header: bytes, state: FileState) -> tuple[int, int] | None:
    """Return height and width; None unless the header is whole and that of this state."""
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    *_, height, width, _ = _HEADER.unpack(header[: _HEADER.size])
    if height <= 0 or width <= 0 or header != _make_header(state, height, width):
        return None
    return height, width

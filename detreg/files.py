"""Files: read only where they are regular, written whole or not at all; which are images."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from detreg.errors import DataError

_BLOCK = 1 << 20  # bytes
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Suffixes, in lower case, of the files that are read as images."""
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
"""The same, of videos."""


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file, and not a hidden one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file, and not a hidden one."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


class UnusableFileError(DataError):
    """A file that is refused whatever it holds.

    reason: what is wrong and how to mend it, without the path, for messages that name it already.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.reason = reason
        super().__init__(f"{os.fspath(path)}: {reason}")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading; a link to one is followed.

    Every file that a user or a dataset names is opened here. A FIFO that nobody writes to would
    hang the reader for ever, /dev/zero would fill the memory, and to open a device may by itself
    do something.

    Raises FileNotFoundError, IsADirectoryError, another OSError as `open` does, and
    UnusableFileError for anything else that is not a regular file.
    """
    try:
        # Before it is opened, so that no device ever is.
        _check_regular(path, os.stat(path).st_mode)  # noqa: PTH116 (this is called often)
        # The path may lead elsewhere by now: O_NONBLOCK returns at once from a FIFO, too.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    # A null character, or a character that the file system's encoding lacks.
    except ValueError as error:
        raise UnusableFileError(path, "no file can have this name; correct it") from error

    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes`.

    Raises what `open_regular` raises, and UnusableFileError where there is more. The stated size is
    not enough to know that: files in /proc state none and may never end.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        blocks: list[bytes] = []
        if size <= max_bytes:
            # One byte more than stated shows whether there is more.
            blocks = [file.read(size + 1)]
        if blocks and len(blocks[0]) > size:
            size = len(blocks[0])
            while size <= max_bytes and (block := file.read(_BLOCK)):
                blocks.append(block)
                size += len(block)

    if size > max_bytes:
        raise UnusableFileError(
            path,
            f"the file has more than {format_bytes(max_bytes)}, the most that is read of such "
            "files; make it smaller or divide it",
        )
    return b"".join(blocks)


def link_or_copy(source: Path, target: Path) -> None:
    """Create `target` with the content of the file `source`, as a hard link where that is possible.

    It is not on another disk, on a file system without links, or for a file of somebody else.
    """
    real_source = os.path.realpath(source)
    try:
        os.link(real_source, target)
    except OSError:
        with open_regular(real_source) as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is anything at `path`; False where no file can have this name.

    `Path.exists` raises an error where the name is too long.
    """
    return os.path.exists(path)  # noqa: PTH110


def compute_sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_bytes(count: int) -> str:
    """Return a number of bytes in a unit that suits it, such as "64 MiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    """Raise an error unless `mode`, as `os.stat` returns it, is that of a regular file."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))

    kind = "a special file"
    if stat.S_ISFIFO(mode):
        kind = "a FIFO"
    elif stat.S_ISSOCK(mode):
        kind = "a socket"
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind = "a device"
    raise UnusableFileError(path, f"this is {kind}, not a regular file; put the file itself there")


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

"""The files in which the image cache keeps pixels: where they lie, and how large they become.

    cache=auto, disk    $DETREG_CACHE/images, shared by all trainings since the machine started
    cache=ram           /dev/shm, which is memory; the last process that uses a file removes it

Of the files in $DETREG_CACHE/images those that were used longest ago are removed for a new one. A
process that still uses one keeps it until it ends. The folder may be removed at any time.
"""

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import stat
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import cv2
import mmcv

from detreg.cgroups import get_free_memory
from detreg.disk_space import find_existing
from detreg.environment import resolve_cache_folder
from detreg.files import format_bytes
from detreg.version import __version__

SHARED_MEMORY = Path("/dev/shm")
SHARE = 0.5
"""The part of the free memory, and of the disk, that kept images may take."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class OpenedFile:
    """A file for images, and the bytes that all processes together may fill of it."""

    file: FileIO
    max_bytes: int


def name_image_file(annotations: Path, size: str) -> str:
    """Return the name of the file that holds the images of a canonical COCO file in one size.

    `size` says what was done to them after they were decoded.
    """
    versions = f"detreg {__version__}, OpenCV {cv2.__version__}, mmcv {mmcv.__version__}"
    # After a power failure a header may be on the disk without its pixels, so a file ends with the
    # machine's boot. Machines that share a disk have a file each: they cache it for themselves.
    parts = (str(annotations), size, versions, _identify_boot())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def open_image_file(mode: str, name: str, wanted: int, share: float) -> OpenedFile | None:
    """Open the file `name`; None where that cannot be done, or where there is no room at all.

    mode: the run option `cache`, but off.
    wanted: bytes of all images together.
    share: the part of the memory and of the disk that is for this file.

    A line says so where not all images can be kept.
    """
    try:
        folder = _make_memory_folder() if mode == "ram" else resolve_cache_folder() / "images"
        max_bytes = int(_find_limit(mode, folder) * share)
        folder.mkdir(parents=True, exist_ok=True)
        if mode == "ram":
            _remove_unused_files(folder)
        else:
            _remove_oldest_files(folder, name, min(wanted, max_bytes))
        file = _open(folder / name)
    except OSError as error:
        reason = error.strerror or str(error)
        tell_once(f"no images are kept ({reason}): each is read anew every time")
        return None

    if mode == "ram":
        _lock_until_end(file, folder / name)
    if max_bytes < wanted:
        tell_once(
            f"keeps {max_bytes / wanted:.0%} of the images, which take {format_bytes(wanted)} in "
            "all; the others are read anew each time"
        )
    return OpenedFile(file, max_bytes)


@functools.cache
def tell_once(line: str) -> None:
    """Print a line on what the cache does; each line once in a process."""
    print(f"Image cache: {line}", file=sys.stderr, flush=True)


def _find_limit(mode: str, folder: Path) -> int:
    """Return the bytes that kept images may take in a folder."""
    disk = shutil.disk_usage(find_existing(folder))
    limit = SHARE * (disk.free + sum(_list_files(folder).values()))
    if mode != "disk":
        limit = min(limit, SHARE * get_free_memory())
    return int(limit)


def _remove_oldest_files(folder: Path, name: str, needed: int) -> None:
    """Remove files that were used longest ago, until `needed` bytes more are within the limit."""
    sizes = _list_files(folder)
    limit = _find_limit("disk", folder)
    total = sum(sizes.values()) - sizes.get(folder / name, 0) + needed

    for path in sorted(sizes, key=_get_time_of_use):
        if total <= limit:
            return
        if path.name != name:
            path.unlink(missing_ok=True)
            total -= sizes[path]


def _list_files(folder: Path) -> dict[Path, int]:
    """Return the files of a folder with the bytes that they take on the disk."""
    sizes = {}
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    sizes[path] = status.st_blocks * 512
    return sizes


def _get_time_of_use(path: Path) -> float:
    with suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _open(path: Path) -> FileIO:
    """Open a file for reading and writing, make it where there is none, and note its use.

    Raises OSError, also where something else than a regular file has the name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = FileIO(os.open(path, flags, 0o600), "r+")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError(f"{path} is not a regular file")
    os.utime(file.fileno())
    return file


def _make_memory_folder() -> Path:
    """Return the folder of this user in shared memory. Raises OSError where it is not ours."""
    if not SHARED_MEMORY.is_dir():
        raise OSError(f"there is no {SHARED_MEMORY}")
    folder = SHARED_MEMORY / f"detreg-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)

    # Anyone may make a folder of this name.
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise OSError(f"{folder} belongs to somebody else")
    return folder


def _lock_until_end(file: FileIO, path: Path) -> None:
    """Hold a lock on a file in memory; whoever holds the last one removes the file at its end.

    The lock belongs to the open file, and so also to the processes that are forked with it.
    """
    fcntl.flock(file, fcntl.LOCK_SH)
    weakref.finalize(file, _release, os.dup(file.fileno()), path, os.getpid())


def _release(descriptor: int, path: Path, owner: int) -> None:
    """Close a file in memory, and remove it unless another process uses it."""
    if os.getpid() == owner:
        _remove_if_unused(descriptor, path)
    os.close(descriptor)


def _remove_unused_files(folder: Path) -> None:
    """Remove the files of processes that were killed."""
    for path in _list_files(folder):
        with suppress(OSError), FileIO(path) as file:
            _remove_if_unused(file.fileno(), path)


def _remove_if_unused(descriptor: int, path: Path) -> None:
    """Remove a file in memory unless it is locked by somebody else than this open file.

    A process between making its file and locking it loses the name, and shares with nobody then.
    """
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _identify_boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # outside of Linux
        return platform.node()

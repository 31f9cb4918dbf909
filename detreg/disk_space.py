"""Whether folders take what is about to be written into them, before any work begins."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.errors import DiskError, UsageError

MEGABYTE = 1_000_000


def check_folders(needed: Mapping[Path, int]) -> None:
    """Raise DiskError unless all folders can be written and have room for the bytes they need.

    Folders on one disk share its free space. Missing ones are looked at where they would be made.
    """
    problems: list[str] = []
    disks: dict[int, list[Path]] = {}
    for folder in needed:
        try:
            probe_write(folder)
        except OSError as error:
            problems.append(_describe_unwritable(folder, error))
            continue
        disks.setdefault(find_existing(folder).stat().st_dev, []).append(folder)

    for folders in disks.values():
        bytes_needed = sum(needed[folder] for folder in folders)
        free = shutil.disk_usage(find_existing(folders[0])).free
        if free < bytes_needed:
            problems.append(_describe_full(folders, bytes_needed, free))
    if problems:
        raise DiskError(problems)


def check_output_file(path: Path) -> None:
    """Raise UsageError or DiskError where a file cannot be written to `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it")
    check_folders({path.absolute().parent: 0})


def probe_write(folder: Path) -> None:
    """Write a byte where `folder` is or would be made; raises OSError.

    Permission bits say little: a disk may be mounted read-only, and a server may map users.
    """
    with tempfile.TemporaryFile(dir=find_existing(folder)) as file:
        file.write(b"0")


def find_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    for candidate in (folder, *folder.parents):
        if candidate.exists():
            return candidate
    return Path.cwd()


def _describe_unwritable(folder: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{folder} cannot be written ({reason}): make it writable, or name another folder"


def _describe_full(folders: Sequence[Path], bytes_needed: int, free: int) -> str:
    names = ", ".join(str(folder) for folder in folders)
    return (
        f"the disk of {names} has {free // MEGABYTE} MB free, but about "
        f"{bytes_needed // MEGABYTE} MB are needed: free some space, or name folders on another "
        "disk (DETREG_CACHE, the artifact location of MLflow's experiment)"
    )

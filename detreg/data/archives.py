"""Unpacks archives of datasets, which may come from anywhere: nothing is written outside."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detreg.errors import DataError

Unpacker = Callable[[Path, Path], None]
"""Unpacks the archive at the first path into the folder at the second.

Raises DataError where the archive cannot be read or would write outside the folder.
"""


@dataclass(frozen=True)
class _Member:
    """One entry of an archive; `is_special` for what is neither a file nor a folder."""

    name: str
    is_special: bool


def choose_unpacker(path: Path) -> Unpacker | None:
    """Return the function that unpacks the archive at `path`, None where it is no archive."""
    if zipfile.is_zipfile(path):
        return unpack_zip
    if tarfile.is_tarfile(path):
        return unpack_tar
    return None


def unpack_zip(path: Path, folder: Path) -> None:
    """Unpack the zip archive at `path` into `folder`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_members(path, map(_describe_zip_entry, entries))
            for entry in entries:
                if not entry.is_dir():
                    _write_zip_entry(archive, entry, folder)
    # zipfile raises RuntimeError for an encrypted member, and NotImplementedError, which is one,
    # for an unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(
            f"{path}: the archive cannot be unpacked ({error}); make it again, without a password"
        ) from error


def _describe_zip_entry(entry: zipfile.ZipInfo) -> _Member:
    # The upper half holds the file mode where the archive was made on Unix.
    mode = entry.external_attr >> 16
    return _Member(entry.filename, is_special=stat.S_ISLNK(mode))


def _write_zip_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def unpack_tar(path: Path, folder: Path) -> None:
    """Unpack the tar archive at `path`, compressed or not, into `folder`."""
    try:
        with tarfile.open(path) as archive:
            entries = archive.getmembers()
            _check_members(path, map(_describe_tar_entry, entries))
            archive.extractall(folder, entries, filter="data")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(
            f"{path}: the archive cannot be unpacked ({error}); make it again"
        ) from error


def _describe_tar_entry(entry: tarfile.TarInfo) -> _Member:
    return _Member(entry.name, is_special=not (entry.isfile() or entry.isdir()))


def _check_members(path: Path, members: Iterable[_Member]) -> None:
    """Raise DataError where a member would land outside the folder or is no plain file.

    Such an archive is broken or hostile. All bad members are reported at once.
    """
    problems = []
    for member in members:
        name = member.name
        if _leads_outside(name):
            problems.append(
                f"{path}: the member {name!r} would be written outside the dataset's folder; "
                "make the archive again with relative names"
            )
        elif member.is_special:
            problems.append(
                f"{path}: the member {name!r} is a link or a device, not a file; "
                "put the file itself into the archive"
            )
    if problems:
        raise DataError(problems)


def _leads_outside(name: str) -> bool:
    """Whether a member's name is absolute, has a drive letter, or goes up by `..`."""
    parts = PurePosixPath(name.replace("\\", "/"))
    has_drive = ":" in name.split("/")[0]
    return parts.is_absolute() or ".." in parts.parts or has_drive

"""Unpacks archives of datasets, which may come from anywhere.

Nothing is written outside the folder, and neither the disk nor the memory is filled: what an
archive states is checked before anything is written, and what comes out of its compression is
counted while it is written, block by block.
"""

import errno
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from struct import error as StructError
from typing import IO, BinaryIO

from detreg.data.quota import MAX_MEMBERS, ByteCounter, CountedStream
from detreg.data.tar_stream import BoundedTarInfo, decompress, is_tar
from detreg.errors import DataError, DiskError, quote
from detreg.files import format_bytes

Unpacker = Callable[[Path, BinaryIO, Path], None]
"""Unpacks the archive at the first path, opened as the second argument, into the folder.

Raises DataError where the archive cannot be read, is too large, or would write outside the folder.
"""

_BLOCK = 1 << 20  # bytes
_MAX_DEPTH = 64
_UTF8_FLAG = 0x800
_MAX_PROBLEMS = 20
_MAX_DIRECTORY = 48 << 20
"""Most bytes of a zip's table of contents, which fills twenty times as much memory."""

_BAD_PATH_ERRORS = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL)
"""What the system says of members whose names cannot be together in one folder."""


def choose_unpacker(file: BinaryIO) -> Unpacker | None:
    """Return the function that unpacks an archive, None where the file is none."""
    if zipfile.is_zipfile(file):
        return unpack_zip
    return unpack_tar if is_tar(file) else None


def unpack_zip(path: Path, file: BinaryIO, folder: Path) -> None:
    """Unpack a zip archive into `folder`."""
    with _translate_errors(path, "make it again, without a password"):
        _check_directory_size(path, file)
        counter = ByteCounter(path, file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_count(path, len(entries))
            problems = []
            for entry in entries:
                problems += _find_problems(path, _decode_name(entry), _is_special(entry))
                problems += _find_compression_problem(path, entry)
            _refuse(path, problems)

            # Nothing is written of an archive that says itself that it is too large.
            stated_size = sum(entry.file_size for entry in entries)
            counter.check(stated_size)
            _check_free_space(path, stated_size, folder)
            for entry in entries:
                if not entry.filename.endswith(("/", "\\")):
                    with archive.open(entry) as source:
                        _write_member(source, _choose_target(folder, _decode_name(entry)), counter)


def unpack_tar(path: Path, file: BinaryIO, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, into `folder`.

    It is read once from start to end, so that a bad member may show after others were written.
    """
    with _translate_errors(path, "make it again"), decompress(file) as content:
        # Everything is counted here, headers included.
        stream = CountedStream(content, ByteCounter(path, file))
        problems: list[str] = []
        count = 0
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_BLOCK, tarinfo=BoundedTarInfo
        ) as archive:
            while (entry := archive.next()) is not None and len(problems) <= _MAX_PROBLEMS:
                # TarFile keeps all entries, which nobody asks for.
                archive.members.clear()  # type: ignore[attr-defined]
                count += 1
                _check_count(path, count)
                is_special = not (entry.isfile() or entry.isdir())
                problems += _find_problems(path, entry.name, is_special)
                source = archive.extractfile(entry) if entry.isfile() and not problems else None
                if source is not None:
                    _write_member(source, _choose_target(folder, entry.name), None)
        _refuse(path, problems)


@contextmanager
def _translate_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn what the libraries raise for a broken archive into DataError.

    zipfile raises RuntimeError for an encrypted member, of which NotImplementedError (an unknown
    compression) and RecursionError (tar headers upon headers) are kinds, and struct.error, a
    ValueError in all but name, for a broken table.
    """
    try:
        yield
    except OSError as error:
        # bz2 and gzip raise an OSError without a number for broken data; a full disk has one.
        if error.errno is not None and error.errno not in _BAD_PATH_ERRORS:
            raise
        raise DataError(_describe_broken(path, error, advice)) from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
        EOFError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        ValueError,
        StructError,
    ) as error:
        raise DataError(_describe_broken(path, error, advice)) from error


def _describe_broken(path: Path, error: Exception, advice: str) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{path}: the archive cannot be unpacked ({reason}); {advice}"


def _check_directory_size(path: Path, file: BinaryIO) -> None:
    """Raise DataError where a zip's table of contents would fill the memory."""
    # What ZipFile itself goes by; its own functions read the whole table at once.
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    size = record[5] if record else 0
    if size > _MAX_DIRECTORY:
        raise DataError(
            f"{path}: the archive's table of contents has {format_bytes(size)}, and at most "
            f"{format_bytes(_MAX_DIRECTORY)} are read; unpack it yourself and give the folder"
        )


def _check_free_space(path: Path, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(
            f"{path}: unpacking needs {format_bytes(needed)} and {folder.parent} has "
            f"{format_bytes(free)} left; make room or set DETREG_CACHE to a folder elsewhere"
        )


def _decode_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a member of a zip.

    By the standard, names are in the encoding of old PCs where no flag says UTF-8. macOS writes
    UTF-8 without the flag.
    """
    if entry.filename.isascii() or entry.flag_bits & _UTF8_FLAG:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _is_special(entry: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is a link, a device or the like."""
    # The upper half holds the file mode where the archive was made on Unix, and 0 elsewhere.
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def _find_compression_problem(path: Path, entry: zipfile.ZipInfo) -> list[str]:
    """Return a problem where the compression is one that `zipfile` unpacks without a bound."""
    if entry.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return []
    return [
        f"{path}: the member {quote(entry.filename)} is compressed by bzip2 or LZMA; make the zip "
        "again with the usual compression (deflate)"
    ]


def _find_problems(path: Path, name: str, is_special: bool) -> list[str]:
    """Return why a member is refused: it would land outside the folder, or is no plain file."""
    if _leads_outside(name):
        return [
            f"{path}: the member {quote(name)} would be written outside the dataset's folder; "
            "make the archive again with relative names"
        ]
    if is_special:
        return [
            f"{path}: the member {quote(name)} is a link or a device, not a file; "
            "put the file itself into the archive"
        ]
    if len(_choose_target(Path(), name).parts) > _MAX_DEPTH:
        return [
            f"{path}: the member {quote(name)} lies in more than {_MAX_DEPTH} folders; "
            "make the archive again with fewer"
        ]
    return []


def _choose_target(folder: Path, name: str) -> Path:
    """Return where a member belongs; some tools of Windows write backslashes into its name."""
    return folder / name.replace("\\", "/")


def _leads_outside(name: str) -> bool:
    """Whether a member's name is absolute, has a drive letter, or goes up by `..`."""
    parts = PurePosixPath(name.replace("\\", "/"))
    has_drive = ":" in name.split("/")[0]
    return parts.is_absolute() or ".." in parts.parts or has_drive


def _check_count(path: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise DataError(
            f"{path}: the archive has more than {MAX_MEMBERS} members, the most that are unpacked; "
            "unpack it yourself and give the folder"
        )


def _refuse(path: Path, problems: list[str]) -> None:
    """Raise DataError where there are problems."""
    if len(problems) > _MAX_PROBLEMS:
        hidden = len(problems) - _MAX_PROBLEMS
        problems = [*problems[:_MAX_PROBLEMS], f"{path}: and {hidden} or more like these"]
    if problems:
        raise DataError(problems)


def _write_member(source: IO[bytes], target: Path, counter: ByteCounter | None) -> None:
    """Copy a member to its place, and count its bytes where nobody else does."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := source.read(_BLOCK):
            if counter is not None:
                counter.add(len(block))
            file.write(block)

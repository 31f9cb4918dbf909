"""Reads tar archives whose headers and compression may be hostile."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn, Self

from detreg.data.quota import Readable

_MAX_EXTENSION = 1 << 20
"""Most bytes of a header that extends the next one, by a long name for example."""

_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

_COMPRESSIONS = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00\x00\x80": "xz",
}
"""The compression by the first bytes of a file."""


class BadHeaderError(tarfile.TarError):
    """A header that is valid and would fill the memory."""


class BoundedTarInfo(tarfile.TarInfo):
    """A member of a tar archive, whose headers are small enough to be read at once."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the member that a header of 512 bytes describes."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENSIONS and not 0 <= member.size <= _MAX_EXTENSION:
            raise BadHeaderError("a header that is too large")
        if member.size < 0:
            raise BadHeaderError("a member of negative size")
        if member.type == tarfile.GNUTYPE_SPARSE:
            cls._refuse_sparse()
        return member

    # tarfile calls these with the maps of sparse files, which have any length.
    def _proc_gnusparse_00(self, *_: object) -> None:
        self._refuse_sparse()

    def _proc_gnusparse_01(self, *_: object) -> None:
        self._refuse_sparse()

    def _proc_gnusparse_10(self, *_: object) -> None:
        self._refuse_sparse()

    @staticmethod
    def _refuse_sparse() -> NoReturn:
        raise BadHeaderError("a sparse file")


@contextmanager
def decompress(file: BinaryIO) -> Iterator[Readable]:
    """Give the decompressed content of a file from its start; what is broken shows when it is read.

    tarfile would decompress a whole block of the file at once, which may become gigabytes; the
    `read` of these streams returns no more than it is asked for.
    """
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    names = [name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)]
    if not names:
        yield file
    elif names[0] == "gzip":
        with gzip.open(file) as content:
            yield content
    elif names[0] == "bzip2":
        with bz2.open(file) as content:
            yield content
    else:
        with lzma.open(file) as content:
            yield content


def is_tar(file: BinaryIO) -> bool:
    """Whether a file is a tar archive, by its first header."""
    try:
        with decompress(file) as content:
            BoundedTarInfo.frombuf(content.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except BadHeaderError:
        return True
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False
    return True

"""Archives that are broken, or made to fill a disk or a memory."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from small_datasets import write_pets

ZEROS = bytes(1 << 20)
GIGABYTE = 1 << 30

Builder = Callable[[Path], Path]
"""Writes something into a folder, and returns what a user would give as `data`."""


def _make_zip(folder: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def _patch(path: Path, offset: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)
    return path


def _make_tar(folder: Path, *members: tarfile.TarInfo, name: str = "data.tar") -> Path:
    path = folder / name
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.size else None)
    return path


def _make_tar_member(name: str, type: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = type
    member.linkname = link
    return member


def _make_header(size: int, type: bytes, name: str = "x") -> bytes:
    member = _make_tar_member(name, type)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    # The number, in base 256, and the checksum over the header with spaces in its own place.
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def zip_that_grows(folder: Path) -> Path:
    """Write three megabytes that become 2.9 GB."""
    path = folder / "data.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("annotations/train.json", "w", force_zip64=True) as file,
    ):
        for _ in range(2900):
            file.write(ZEROS)
    return path


def zip_of_overlapping_members(folder: Path) -> Path:
    """Write a member of 1 MB that the table of contents lists four thousand times."""
    path = _make_zip(folder, ("a.json", ZEROS))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    count = 4000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0)
    path.write_bytes(data[:start] + entry * count + end)
    return path


def zip_that_states_less_than_it_holds(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", ZEROS))
    offset = path.read_bytes().index(b"PK\x01\x02")
    return _patch(path, offset + 24, struct.pack("<L", 10))


def zip_that_states_more_than_it_holds(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", b"x"))
    offset = path.read_bytes().index(b"PK\x01\x02")
    return _patch(path, offset + 24, struct.pack("<L", 0xFFFFFFF0))


def zip_with_a_wrong_checksum(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", b"content"))
    offset = path.read_bytes().index(b"PK\x01\x02")
    return _patch(path, offset + 16, b"\1\2\3\4")


def zip_with_a_broken_stream(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", os.urandom(5000)))
    return _patch(path, 60, b"\xff" * 200)


def zip_with_an_encrypted_member(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", b"content"))
    offset = path.read_bytes().index(b"PK\x01\x02")
    _patch(path, 6, b"\1")
    return _patch(path, offset + 8, b"\1")


def zip_with_an_unknown_compression(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", b"content"))
    offset = path.read_bytes().index(b"PK\x01\x02")
    return _patch(path, offset + 10, struct.pack("<H", 77))


def zip_with_bzip2(folder: Path) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.json", ZEROS * 40)
    return path


def zip_in_a_zip(folder: Path) -> Path:
    inner = zip_of_overlapping_members(folder)
    content = inner.read_bytes()
    return _make_zip(folder, ("inner.zip", content))


def zip_with_a_link(folder: Path) -> Path:
    link = zipfile.ZipInfo("images/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return _make_zip(folder, (link, b"/etc/passwd"))


def zip_with_a_fifo(folder: Path) -> Path:
    member = zipfile.ZipInfo("images/a.png")
    member.external_attr = (stat.S_IFIFO | 0o777) << 16
    return _make_zip(folder, (member, b""))


def zip_with_a_member_below_a_file(folder: Path) -> Path:
    return _make_zip(folder, ("a", b"file"), ("a/b", b"file"))


def zip_with_names_that_are_too_long(folder: Path) -> Path:
    return _make_zip(folder, ("n" * 300, b"file"))


def zip_with_deep_folders(folder: Path) -> Path:
    return _make_zip(folder, ("d/" * 1500 + "x", b"file"))


def zip_with_a_dot(folder: Path) -> Path:
    return _make_zip(folder, (".", b"file"))


def zip_whose_table_is_cut(folder: Path) -> Path:
    path = _make_zip(folder, ("a.json", b"content"))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    path.write_bytes(data[: start + 20] + data[data.index(b"PK\x05\x06") :])
    return path


def zip_with_a_wrong_extra_field(folder: Path) -> Path:
    member = zipfile.ZipInfo("a.json")
    member.extra = struct.pack("<HH", 1, 4) + b"abcd"
    path = _make_zip(folder, (member, b"content"))
    offset = path.read_bytes().rindex(b"PK\x01\x02")
    return _patch(path, offset + 20, b"\xff" * 8)


def zip_with_too_many_members(folder: Path) -> Path:
    """List an empty member a million times."""
    count = 1_000_000
    path = _make_zip(folder, ("a", b""))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entry) * count, start
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(entry) * count, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(data[:start] + entry * count + record + locator + end)
    return path


def tar_with_a_device(folder: Path) -> Path:
    return _make_tar(folder, _make_tar_member("images/a.png", tarfile.CHRTYPE))


def tar_with_a_fifo(folder: Path) -> Path:
    return _make_tar(folder, _make_tar_member("images/a.png", tarfile.FIFOTYPE))


def tar_with_a_hard_link(folder: Path) -> Path:
    return _make_tar(folder, _make_tar_member("a.json", tarfile.LNKTYPE, "/etc/passwd"))


def tar_with_a_link_and_a_member_behind_it(folder: Path) -> Path:
    link = _make_tar_member("out", tarfile.SYMTYPE, "..")
    return _make_tar(folder, link, _make_tar_member("out/evil.txt"))


def tar_with_an_absolute_name(folder: Path) -> Path:
    return _make_tar(folder, _make_tar_member("/tmp/evil.txt"))


def tar_that_ends_early(folder: Path) -> Path:
    path = folder / "data.tar"
    path.write_bytes(_make_header(1 << 40, tarfile.REGTYPE) + bytes(1024))
    return path


def tar_with_a_negative_size(folder: Path) -> Path:
    path = folder / "data.tar"
    header = bytearray(_make_header(0, tarfile.REGTYPE))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(1024))
    return path


def tar_with_headers_upon_headers(folder: Path) -> Path:
    path = folder / "data.tar"
    name = b"a".ljust(512, b"\0")
    path.write_bytes((_make_header(1, tarfile.GNUTYPE_LONGNAME) + name) * 3000)
    return path


def tar_with_a_wrong_pax_number(folder: Path) -> Path:
    path = folder / "data.tar"
    record = b"30 size=" + b"9" * 21 + b"\n"
    header = _make_header(len(record), tarfile.XHDTYPE)
    path.write_bytes(header + record.ljust(512, b"\0") + _make_header(0, tarfile.REGTYPE))
    return path


def tar_with_a_sparse_file(folder: Path) -> Path:
    path = folder / "data.tar"
    records = b""
    for record in (b"GNU.sparse.major=1\n", b"GNU.sparse.minor=0\n"):
        records += b"%d " % (len(record) + 3) + record
    header = _make_header(len(records), tarfile.XHDTYPE)
    content = b"9999999999\n" + b"1\n" * 400
    path.write_bytes(
        header
        + records.ljust(512, b"\0")
        + _make_header(len(content), tarfile.REGTYPE)
        + content.ljust(1024, b"\0")
    )
    return path


def _compress_tar(folder: Path, opener: Callable[..., object], header: bytes, suffix: str) -> Path:
    path = folder / f"data.tar.{suffix}"
    with opener(path, "wb") as file:  # type: ignore[attr-defined]
        file.write(header)
        for _ in range(2900):
            file.write(ZEROS)
    return path


def tar_gz_that_grows(folder: Path) -> Path:
    return _compress_tar(folder, gzip.open, _make_header(2900 << 20, tarfile.REGTYPE), "gz")


def tar_bz2_that_grows(folder: Path) -> Path:
    return _compress_tar(folder, bz2.open, _make_header(2900 << 20, tarfile.REGTYPE), "bz2")


def tar_xz_that_grows(folder: Path) -> Path:
    def open_xz(path: Path, mode: str) -> object:
        return lzma.open(path, mode, preset=0)

    return _compress_tar(folder, open_xz, _make_header(2900 << 20, tarfile.REGTYPE), "xz")


def tar_gz_with_a_huge_header(folder: Path) -> Path:
    return _compress_tar(folder, gzip.open, _make_header(2900 << 20, tarfile.XHDTYPE), "gz")


def tar_gz_that_is_cut(folder: Path) -> Path:
    write_pets(folder / "pets")
    path = Path(shutil.make_archive(str(folder / "data"), "gztar", folder / "pets"))
    path.write_bytes(path.read_bytes()[:-300])
    return path


def tar_bz2_that_is_broken(folder: Path) -> Path:
    write_pets(folder / "pets")
    path = Path(shutil.make_archive(str(folder / "data"), "bztar", folder / "pets"))
    return _patch(path, path.stat().st_size // 2, b"\xff" * 40)


def tar_xz_that_is_broken(folder: Path) -> Path:
    write_pets(folder / "pets")
    path = Path(shutil.make_archive(str(folder / "data"), "xztar", folder / "pets"))
    return _patch(path, path.stat().st_size // 2, b"\xff" * 40)


def gz_that_is_no_tar(folder: Path) -> Path:
    path = folder / "data.tar.gz"
    path.write_bytes(gzip.compress(b"hello"))
    return path


def gz_with_a_broken_stream(folder: Path) -> Path:
    path = folder / "data.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(7) + zlib.compress(b"hello")[2:5] + b"\xff" * 50)
    return path


def fifo_as_archive(folder: Path) -> Path:
    os.mkfifo(folder / "data.zip")
    return folder / "data.zip"


def device_as_archive(folder: Path) -> Path:
    (folder / "data.zip").symlink_to("/dev/zero")
    return folder / "data.zip"


def empty_archive(folder: Path) -> Path:
    (folder / "data.zip").touch()
    return folder / "data.zip"


HEAVY_ARCHIVES: tuple[Builder, ...] = (
    zip_that_grows,
    zip_with_too_many_members,
    tar_gz_that_grows,
    tar_bz2_that_grows,
    tar_xz_that_grows,
    tar_gz_with_a_huge_header,
)
"""Those that take seconds to make or to read."""

ARCHIVES: tuple[Builder, ...] = (
    zip_of_overlapping_members,
    zip_that_states_less_than_it_holds,
    zip_that_states_more_than_it_holds,
    zip_with_a_wrong_checksum,
    zip_with_a_broken_stream,
    zip_with_an_encrypted_member,
    zip_with_an_unknown_compression,
    zip_with_bzip2,
    zip_in_a_zip,
    zip_with_a_link,
    zip_with_a_fifo,
    zip_with_a_member_below_a_file,
    zip_with_names_that_are_too_long,
    zip_with_deep_folders,
    zip_with_a_dot,
    zip_whose_table_is_cut,
    zip_with_a_wrong_extra_field,
    tar_with_a_device,
    tar_with_a_fifo,
    tar_with_a_hard_link,
    tar_with_a_link_and_a_member_behind_it,
    tar_with_an_absolute_name,
    tar_that_ends_early,
    tar_with_a_negative_size,
    tar_with_headers_upon_headers,
    tar_with_a_wrong_pax_number,
    tar_with_a_sparse_file,
    tar_gz_that_is_cut,
    tar_bz2_that_is_broken,
    tar_xz_that_is_broken,
    gz_that_is_no_tar,
    gz_with_a_broken_stream,
    fifo_as_archive,
    device_as_archive,
    empty_archive,
)
"""Those that take milliseconds."""

PHRASES: Mapping[Builder, str] = {
    zip_that_grows: "unpacks to more than",
    zip_of_overlapping_members: "unpacks to more than",
    zip_that_states_more_than_it_holds: "unpacks to more than",
    zip_with_a_wrong_checksum: "Bad CRC-32",
    zip_with_bzip2: "compressed by bzip2 or LZMA",
    zip_with_a_link: "is a link or a device",
    zip_with_deep_folders: "in more than 64 folders",
    zip_with_too_many_members: "more than 500000 members",
    tar_with_an_absolute_name: "outside the dataset's folder",
    tar_with_a_negative_size: "negative size",
    tar_with_a_sparse_file: "a sparse file",
    tar_gz_that_grows: "unpacks to more than",
    tar_bz2_that_grows: "unpacks to more than",
    tar_xz_that_grows: "unpacks to more than",
    tar_gz_with_a_huge_header: "a header that is too large",
    fifo_as_archive: "this is a FIFO",
    device_as_archive: "this is a device",
    empty_archive: "neither a folder nor",
}
"""What the message must say, where it is more than one line of another library."""

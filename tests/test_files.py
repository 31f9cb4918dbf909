"""Files are opened only where they are regular, and read only up to a limit."""

import os
import socket
from pathlib import Path

import pytest

from detreg.errors import DataError
from detreg.files import open_regular, read_regular


def test_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
        assert read_regular(tmp_path / name, max_bytes=7) == b"content"


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link to a fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path has at most 107 characters, which a temporary folder's may exceed.
        descriptor = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)

    expected = {
        tmp_path / "fifo": "a FIFO",
        tmp_path / "link to a fifo": "a FIFO",
        tmp_path / "socket": "a socket",
        Path("/dev/zero"): "a device",
    }
    for path, kind in expected.items():
        with pytest.raises(DataError, match=f"{path}: this is {kind}, not a regular file; "):
            open_regular(path)


def test_path_that_turns_into_a_fifo_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "fifo")
    regular = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(DataError, match="a FIFO"):
        open_regular(tmp_path / "fifo")


def test_folders_and_missing_files_raise_what_open_raises(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no file can have this name"):
        open_regular(tmp_path / name)


def test_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345678")
    with pytest.raises(DataError, match="more than 7 bytes"):
        read_regular(tmp_path / "file", max_bytes=7)


def test_file_that_states_no_size_is_read_up_to_the_limit() -> None:
    path = Path("/proc/self/maps")
    assert path.stat().st_size == 0
    assert len(read_regular(path, max_bytes=1 << 20)) > 1000
    with pytest.raises(DataError, match="more than 1 KiB"):
        read_regular(path, max_bytes=1024)

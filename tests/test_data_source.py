"""Opening a dataset: archives, the cache, and what is refused."""

import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from small_datasets import write_pets

from detreg.data import load_dataset
from detreg.errors import DataError, NotFoundError


@pytest.mark.parametrize(("kind", "suffix"), [("zip", "zip"), ("tar", "tar"), ("gztar", "tar.gz")])
def test_archive_is_unpacked_once(tmp_path: Path, kind: str, suffix: str) -> None:
    folder = write_pets(tmp_path / "in" / "pets")
    archive = Path(shutil.make_archive(str(tmp_path / "boxed"), kind, folder.parent))
    assert archive.name == f"boxed.{suffix}"

    dataset = load_dataset(archive, tmp_path / "cache")
    assert dataset.name == "boxed"
    assert dataset.digest == load_dataset(folder, tmp_path / "cache").digest

    (unpacked,) = (tmp_path / "cache" / "archives").iterdir()
    before = unpacked.stat().st_mtime_ns
    load_dataset(archive, tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == [unpacked]
    assert unpacked.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
def test_archive_that_would_write_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zip_archive:
        zip_archive.writestr(name, "x")
    with tarfile.open(tmp_path / "bad.tar", "w") as tar_archive:
        tar_archive.addfile(tarfile.TarInfo(name), io.BytesIO())

    for archive in ("bad.zip", "bad.tar"):
        with pytest.raises(DataError, match="outside the dataset's folder"):
            load_dataset(tmp_path / archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list((tmp_path / "cache" / "archives").iterdir())


def test_archive_with_links_is_refused(tmp_path: Path) -> None:
    zip_link = zipfile.ZipInfo("link")
    zip_link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zip_archive:
        zip_archive.writestr(zip_link, "/etc")

    tar_link = tarfile.TarInfo("link")
    tar_link.type = tarfile.SYMTYPE
    tar_link.linkname = "/etc"
    with tarfile.open(tmp_path / "bad.tar", "w") as tar_archive:
        tar_archive.addfile(tar_link)

    for archive in ("bad.zip", "bad.tar"):
        with pytest.raises(DataError, match="is a link"):
            load_dataset(tmp_path / archive, tmp_path / "cache")


def test_archive_that_is_cut_short_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    archive = Path(shutil.make_archive(str(tmp_path / "boxed"), "gztar", folder))
    archive.write_bytes(archive.read_bytes()[:-200])

    with pytest.raises(DataError, match=r"cannot be unpacked|neither a folder"):
        load_dataset(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("archives/*"))


def test_path_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        load_dataset(tmp_path / "nothing", tmp_path / "cache")


def test_file_that_is_no_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "note.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    # The path is shown as the user wrote it.
    with pytest.raises(DataError, match=r"^note\.txt: neither a folder nor a zip"):
        load_dataset("note.txt", tmp_path / "cache")


def test_folder_without_a_dataset_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path, tmp_path / "cache")
    message = str(error.value)
    for expected in ("data.yaml", "Annotations", "annotations/*.json", "found note.txt"):
        assert expected in message


def test_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "mine"))
    dataset = load_dataset(write_pets(tmp_path / "pets"))
    assert dataset.folder.is_relative_to(tmp_path / "mine")

"""Kept images are those of their files, whatever happened to the cache, and never half written."""

import errno
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detreg.training import image_cache, image_cache_file
from detreg.training.image_cache import ImageCache, ImageCacheSpec, Pixels
from detreg.training.image_cache_file import tell_once

HEIGHT, WIDTH = 40, 30


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a cache of its own, on a disk with room, for files that were just written."""
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "FREE_BYTES", 0)
    monkeypatch.setattr(image_cache, "_SETTLING_TIME", -(10**18))
    tell_once.cache_clear()
    yield tmp_path / "cache" / "images"
    tell_once.cache_clear()


@dataclass
class ImageFiles:
    """Files that stand for images, with the pixels that reading them gives."""

    folder: Path
    count: int = 6
    reads: list[int] = field(default_factory=list)
    """The numbers of the images that were read, not taken from the cache."""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for number in range(self.count):
            self.write(number, f"content {number}")

    def write(self, number: int, content: str) -> None:
        (self.folder / f"{number}.jpg").write_text(content)

    def read(self, number: int) -> Pixels:
        """Return pixels that depend on each byte of the file."""
        self.reads.append(number)
        content = (self.folder / f"{number}.jpg").read_bytes()
        rng = np.random.default_rng(list(content))
        return rng.integers(0, 256, (HEIGHT, WIDTH - number, 3), dtype=np.uint8)

    def load(self, cache: ImageCache, number: int) -> Pixels:
        path = str(self.folder / f"{number}.jpg")
        return cache.load(number, path, lambda: self.read(number))

    def load_all(self, cache: ImageCache) -> list[int]:
        """Compare all images with their files; return the numbers of those that were read."""
        self.reads = []
        loaded = [self.load(cache, number) for number in range(self.count)]
        reads = list(self.reads)
        for number, pixels in enumerate(loaded):
            np.testing.assert_array_equal(pixels, self.read(number))
            assert pixels.flags.writeable
        return reads


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tmp_path / "data")


def make_spec(mode: str = "disk", **values: Any) -> ImageCacheSpec:
    sizes = {"images": 6, "image_bytes": HEIGHT * WIDTH * 3, "share": 1.0}
    return ImageCacheSpec(**{"mode": mode, "name": "name", **sizes, **values})


def stand_still() -> float:
    """Stand for a clock on which no disk is slow."""
    return 0.0


def open_cache(mode: str = "disk", **values: Any) -> ImageCache:
    return ImageCache(make_spec(mode, **values), get_clock=stand_still)


# what is kept


@pytest.mark.parametrize("mode", ["auto", "disk", "off"])
def test_an_image_is_read_once(files: ImageFiles, mode: str) -> None:
    everything = list(range(6))
    kept = everything if mode == "off" else []
    cache = open_cache(mode)
    assert files.load_all(cache) == everything
    assert files.load_all(cache) == kept
    assert files.load_all(open_cache(mode)) == kept
    assert files.load_all(open_cache(mode, name="other")) == everything


def test_a_caller_may_write_to_an_image(files: ImageFiles) -> None:
    cache = open_cache()
    for _ in range(3):
        files.load(cache, 1)[:] = 7
    np.testing.assert_array_equal(files.load(cache, 1), files.read(1))


def test_processes_share_what_is_kept(files: ImageFiles) -> None:
    """One that is forked with an open cache fills it, and so does one that gets it by pickle."""
    cache = open_cache()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=files.load_all, args=(cache,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert files.load_all(pickle.loads(pickle.dumps(cache))) == []


def test_an_image_that_has_changed_is_read_anew(files: ImageFiles) -> None:
    cache = open_cache()
    files.load_all(cache)
    files.write(2, "other content")
    (files.folder / "3.jpg").touch()
    assert files.load_all(cache) == [2, 3]
    assert files.load_all(cache) == []

    (files.folder / "4.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        files.load(cache, 4)


def test_an_image_that_may_still_change_unseen_is_not_kept(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "_SETTLING_TIME", 10**18)
    cache = open_cache()
    files.load_all(cache)
    assert files.load_all(cache) == list(range(6))


# writes that do not come to their end


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_process_killed_while_it_writes_leaves_no_image(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Neither in an empty place nor in that of an image that has changed."""
    cache = open_cache()
    files.load(cache, 1)
    files.write(1, "other content")
    write = image_cache._write
    done: list[int] = []

    def write_or_die(file: Any, content: Any, offset: int) -> None:
        if len(done) == writes:
            # A part of it comes to the disk.
            write(file, memoryview(content)[: len(content) // 2], offset)
            raise KeyboardInterrupt
        done.append(offset)
        write(file, content, offset)

    for number in (0, 1):
        done.clear()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(image_cache, "_write", write_or_die)
            files.load(cache, number)
    assert files.load_all(open_cache())[:2] == [0, 1]
    assert files.load_all(open_cache()) == []


def test_a_place_that_is_filled_while_it_is_read_counts_as_empty(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    files.load_all(cache)
    preadv = os.preadv

    def read_while_another_begins_to_write(descriptor: int, buffers: Any, offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        os.pwrite(descriptor, bytes(64), offset - image_cache.HEADER_BYTES)
        return count

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", read_while_another_begins_to_write)
        files.reads = []
        files.load(cache, 5)
        assert files.reads == [5]
    assert files.load_all(cache) == []


def test_a_full_disk_is_said_once_and_stops_nothing(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = open_cache()
    files.load(cache, 0)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    for _ in range(2):
        assert files.load_all(cache) == [1, 2, 3, 4, 5]
    assert capfd.readouterr().err == (
        "Image cache: no more images are kept (No space left on device); the others are read anew "
        "each time\n"
    )


def test_room_for_other_files_is_left_on_the_disk(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "FREE_BYTES", 1 << 62)
    cache = open_cache()
    files.load_all(cache)
    assert files.load_all(cache) == list(range(6))


def test_a_slow_disk_takes_a_tenth_of_the_time(files: ImageFiles) -> None:
    now = 0.0

    def take_a_second() -> float:
        nonlocal now
        now += 1.0
        return now

    cache = ImageCache(make_spec(), get_clock=take_a_second)
    for number in (0, 1, 2):
        files.load(cache, number)
    assert files.load_all(open_cache()) == [1, 2, 3, 4, 5]

    now += 10.0
    files.write(1, "other content")
    files.load(cache, 1)
    assert files.load_all(open_cache()) == []


# what may have become of the file


def cut_short(path: Path) -> None:
    os.truncate(path, 5000)


def overwrite(path: Path) -> None:
    path.write_bytes(b"detreg 1" * 3000)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("change", [cut_short, overwrite, remove_folder])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_damaged_file_is_filled_anew(
    files: ImageFiles, cache_folder: Path, change: Callable[[Path], None], is_open: bool
) -> None:
    cache = open_cache()
    files.load_all(cache)
    change(cache_folder / "name")
    if not is_open:
        cache = open_cache()
    files.load_all(cache)
    assert files.load_all(cache) == []


def put_file_for_folder(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()


def put_fifo(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / "name")


def put_link(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "name").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("obstacle", [put_file_for_folder, put_fifo, put_link])
def test_where_no_file_can_be_opened_each_image_is_read(
    files: ImageFiles,
    cache_folder: Path,
    obstacle: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    obstacle(cache_folder)
    for _ in range(2):
        assert files.load_all(open_cache()) == list(range(6))
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("Image cache: no images are kept (")
    assert not (cache_folder.parent / "elsewhere").exists()


# limits


def test_as_many_images_are_kept_as_fit(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half of the free memory has room for five, of which this split may have three fifths."""
    place = make_spec().place_bytes
    monkeypatch.setattr(image_cache_file, "get_free_memory", lambda: 2 * 5 * place)
    cache = open_cache("auto", share=0.6)
    files.load_all(cache)
    missing = files.load_all(cache)
    # Some file systems hand out more than what is written: fewer images fit there.
    assert missing in ([3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert files.load_all(open_cache("auto", share=0.6)) == missing
    assert capfd.readouterr().err == (
        "Image cache: keeps 50% of the images, which take 24 KiB in all; the others are read anew "
        "each time\n"
    )
    # The disk has room for all.
    files.load_all(open_cache("disk"))
    assert files.load_all(open_cache("disk")) == []


def test_files_that_were_used_longest_ago_are_removed(
    files: ImageFiles, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    for age, name in enumerate(["old", "older", "oldest"], start=1):
        files.load_all(open_cache(name=name))
        os.utime(cache_folder / name, (1e9 - age, 1e9 - age))
        taken += (cache_folder / name).stat().st_blocks * 512
    unused = open_cache(name="oldest")
    os.utime(cache_folder / "oldest", (1, 1))

    monkeypatch.setattr(image_cache_file, "_find_limit", lambda *_: taken)
    files.load_all(open_cache(name="new"))
    assert {path.name for path in cache_folder.iterdir()} == {"old", "older", "new"}
    # Whoever uses the removed one keeps it.
    assert files.load_all(unused) == []


# in memory


def test_a_file_in_memory_is_removed_by_the_last_that_uses_it(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache_file, "SHARED_MEMORY", tmp_path)
    folder = tmp_path / f"detreg-{os.getuid()}"
    first = open_cache("ram")
    second = open_cache("ram")
    assert files.load_all(first) == list(range(6))
    assert files.load_all(second) == []

    del first
    assert [path.name for path in folder.iterdir()] == ["name"]
    assert files.load_all(second) == []
    del second
    assert not list(folder.iterdir())


def test_what_a_killed_process_left_in_memory_is_removed(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache_file, "SHARED_MEMORY", tmp_path)
    folder = tmp_path / f"detreg-{os.getuid()}"
    folder.mkdir()
    (folder / "left").write_bytes(b"left")
    cache = open_cache("ram")
    assert [path.name for path in folder.iterdir()] == ["name"]
    assert files.load_all(cache) == list(range(6))


def test_a_folder_of_somebody_else_is_not_used(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache_file, "SHARED_MEMORY", tmp_path)
    (tmp_path / f"detreg-{os.getuid()}").symlink_to(tmp_path / "data")
    for _ in range(2):
        assert files.load_all(open_cache("ram")) == list(range(6))

"""The manifest: an unchanged image is read once, a changed one always again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_datasets import encode_image

from detreg.data import manifest, probe
from detreg.data.manifest import locate_manifest, probe_with_manifest
from detreg.data.probe import ImageProbe, probe_image

YEAR = 365 * 86400 * 10**9
"""Nanoseconds: by then, files that were written before have settled."""


class Reads:
    """Counts which images are read, and in how many checks."""

    def __init__(self, folder: Path) -> None:
        self.manifest = folder / "cache" / "manifest.json"
        self.names: list[str] = []
        self.delay = YEAR

    def probe(self, *images: Path) -> list[ImageProbe]:
        """Return the probes of the images, and leave the names of those that were read."""
        self.names.clear()
        newest = max([path.stat().st_ctime_ns for path in images if path.exists()], default=0)
        probes = probe_with_manifest(images, self.manifest, get_time=lambda: newest + self.delay)
        return [probes[path] for path in images]


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads(tmp_path)

    def probe_and_count(path: Path) -> ImageProbe:
        reads.names.append(path.name)
        return probe_image(path)

    monkeypatch.setattr(probe, "probe_image", probe_and_count)
    return reads


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_image(1, "JPEG", orientation=6))
    return path


def replace_content(path: Path, content: bytes) -> None:
    """Write other content, and leave size and mtime as they are."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_image_is_read_once_and_remembered_whole(image: Path, reads: Reads) -> None:
    first = reads.probe(image)
    assert reads.names == ["a.jpg"]
    assert reads.probe(image) == first == [probe_image(image)]
    assert reads.names == []
    assert first[0].turned


def test_only_changed_and_new_images_are_read(image: Path, reads: Reads, tmp_path: Path) -> None:
    other = tmp_path / "b.png"
    other.write_bytes(encode_image(2, "PNG"))
    reads.probe(image, other)

    new = tmp_path / "c.bmp"
    new.write_bytes(encode_image(3, "BMP"))
    other.write_bytes(encode_image(4, "PNG") + b"longer")
    probes = reads.probe(image, other, new)
    assert sorted(reads.names) == ["b.png", "c.bmp"]
    assert probes == [probe_image(path) for path in (image, other, new)]


def test_change_without_another_size_or_mtime_is_noticed(image: Path, reads: Reads) -> None:
    content = image.read_bytes()
    reads.probe(image)
    # Files on a coarse clock get an equal ctime, too; `test_young_image...` is about those.
    before = image.stat().st_ctime_ns
    while image.stat().st_ctime_ns == before:
        replace_content(image, content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])

    assert reads.probe(image) == [probe_image(image)]
    assert reads.names == ["a.jpg"]


def test_file_that_takes_the_place_of_another_is_noticed(
    image: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads.probe(image)
    replacement = image.with_name("replacement")
    replacement.write_bytes(image.read_bytes())
    before = image.stat()
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(image)
    reads.probe(image)
    assert reads.names == ["a.jpg"]


@pytest.mark.parametrize("age", [-1, 0, manifest._SETTLING_TIME - 1])
def test_young_image_is_not_remembered(image: Path, reads: Reads, age: int) -> None:
    reads.delay = age
    reads.probe(image)
    reads.probe(image)
    assert reads.names == ["a.jpg"]

    reads.delay = manifest._SETTLING_TIME
    reads.probe(image)
    reads.probe(image)
    assert reads.names == []


def test_image_that_changes_while_it_is_read_is_read_again(
    image: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = encode_image(5, "JPEG") + b"longer"

    def change_and_probe(path: Path) -> ImageProbe:
        found = probe_image(path)
        path.write_bytes(changed)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(probe, "probe_image", change_and_probe)
        reads.probe(image)
    assert reads.probe(image) == [probe_image(image)]
    assert reads.names == ["a.jpg"]


def test_what_cannot_be_used_is_read_each_time(reads: Reads, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encode_image(1, "JPEG")[:-40])
    missing = tmp_path / "gone.jpg"
    impossible = tmp_path / "zero\0.jpg"
    for _ in range(2):
        errors = [found.error for found in reads.probe(broken, missing, impossible)]
        assert None not in errors
        assert len(reads.names) == 3


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.rindex(b'"') - 2
    content[position] ^= 1
    path.write_bytes(content)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"detreg ", b"detreg 9", 1))


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_opencv(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"OpenCV ", b"OpenCV 9", 1))


DAMAGES = [damage_flip, damage_cut, damage_version, damage_opencv, damage_folder, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_manifest_that_is_damaged_or_gone_is_not_used(
    damage: Callable[[Path], None], image: Path, reads: Reads
) -> None:
    expected = reads.probe(image)
    damage(reads.manifest)
    assert reads.probe(image) == expected
    assert reads.names == ["a.jpg"]


def test_name_that_is_not_utf8_is_remembered(reads: Reads, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        path.write_bytes(encode_image(1, "PNG"))
    except OSError:
        pytest.skip("this file system stores names in UTF-8 only")
    expected = reads.probe(path)
    assert reads.probe(path) == expected
    assert reads.names == []


def test_manifest_holds_the_images_of_the_last_check(
    image: Path, reads: Reads, tmp_path: Path
) -> None:
    other = tmp_path / "b.png"
    other.write_bytes(encode_image(2, "PNG"))
    reads.probe(image, other)
    reads.probe(other)
    assert reads.names == []
    assert b"a.jpg" not in reads.manifest.read_bytes()


def test_cache_that_cannot_be_written_is_done_without(image: Path, reads: Reads) -> None:
    reads.manifest.parent.write_text("a file where a folder should be")
    expected = reads.probe(image)
    assert reads.probe(image) == expected
    assert reads.names == ["a.jpg"]


def test_each_folder_has_a_manifest_of_its_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    names = [tmp_path / "a", tmp_path / "b", Path(os.fsdecode(b"/caf\xe9"))]
    assert len({locate_manifest(name, cache) for name in names}) == 3

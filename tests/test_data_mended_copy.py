"""`detreg check --fix`: a copy that is read as what was good, whole or absent, nothing touched."""

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from small_datasets import (
    Document,
    edit_json,
    encode_image,
    make_image,
    make_labeled_image,
    read_json,
    write_pets,
)

from detreg.cli import run
from detreg.data import formats, load_dataset
from detreg.data.boxes import Box
from detreg.data.mended_copy import REPORT_NAME, write_mended_copy
from detreg.errors import DataError, DiskError, UsageError
from detreg.files import is_image

FORMATS = ("coco", "voc", "yolo")
CLASSES = ("cat", "dog")
TRIANGLE = [5.0, 6.0, 20.0, 6.0, 20.0, 16.0]
SQUARE = [30.0, 20.0, 50.0, 20.0, 50.0, 28.0, 30.0, 28.0]


def write_flawed(folder: Path) -> Path:
    """Write a COCO dataset with polygons, boxes to repair, an image that is gone and a broken box.

    Three of its five images for training can be used.
    """
    boxes = (Box((5, 6, 20, 16), "cat"), Box((1, 1, 9, 9), "dog"))
    splits = {
        "train": [make_image(number, *boxes) for number in range(1, 6)],
        "val": [make_image(7, *boxes)],
    }
    formats.write("coco", folder, CLASSES, splits)

    def damage(document: Document) -> None:
        document["images"][3]["file_name"] = "gone.png"
        annotations = document["annotations"]
        annotations[8]["bbox"] = [1, 2, None, 4]
        annotations[0]["segmentation"] = [TRIANGLE]
        annotations[1] |= {"bbox": [30, 20, 12, 8], "area": 0, "segmentation": [SQUARE]}
        annotations[2]["segmentation"] = [TRIANGLE, [1, 1, 2, 2, 3, 1]]
        annotations[3]["segmentation"] = [[1, 1, "x"]]
        annotations.append({**annotations[4], "id": 99})

    edit_json(folder / "annotations" / "train.json", damage)
    return folder


def describe_tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the time of change of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("format", FORMATS)
def test_the_copy_is_what_was_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    data = write_flawed(tmp_path / "data")
    before = describe_tree(data)
    good = load_dataset(data, tmp_path / "cache", on_bad_image="skip")

    out = tmp_path / "new" / "out"
    assert run(["check", str(data), "--fix", str(out), "--format", format]) == 0
    printed = capsys.readouterr().out
    assert f"left out: 2 images, which {out / REPORT_NAME} lists" in printed
    assert f"{out} is a good copy: {format}, 4 images; digest {good.digest}" in printed
    assert describe_tree(data) == before

    copy = load_dataset(out, tmp_path / "cache")
    assert (copy.format, copy.digest, copy.classes) == (format, good.digest, CLASSES)
    assert run(["check", str(out), "--strict"]) == 0
    assert {name: split.images for name, split in copy.splits.items()} == {"train": 3, "val": 1}

    report = (out / REPORT_NAME).read_text()
    assert "gone.png" in report
    assert "box clipped to its image" in report
    assert list(out.parent.iterdir()) == [out]


def test_images_are_linked_and_json_says_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_flawed(tmp_path / "data")
    out = tmp_path / "out"
    out.mkdir()
    assert run(["check", str(data), "--fix", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["digest"] is None
    assert len(report["problems"]) == len(report["fix"]["left_out"]) == 2
    assert report["fix"]["folder"] == str(out)
    assert report["fix"]["digest"] == load_dataset(out, tmp_path / "cache").digest

    for image in out.rglob("*.png"):
        assert image.samefile(data / image.relative_to(out))


def test_polygons_are_kept_and_fitted_to_the_image(tmp_path: Path) -> None:
    data = write_flawed(tmp_path / "data")
    write_mended_copy(data, tmp_path / "coco", "coco", tmp_path / "cache")
    entries = read_json(tmp_path / "coco" / "annotations" / "train.json")["annotations"]
    assert [entry.get("segmentation") for entry in entries] == [
        [TRIANGLE],
        [[30.0, 20.0, 40.0, 20.0, 40.0, 28.0, 30.0, 28.0]],
        [TRIANGLE, [1, 1, 2, 2, 3, 1]],
        None,
        None,
        None,
    ]

    # YOLO has one polygon for an object, and reads its box from it.
    copy = write_mended_copy(data, tmp_path / "yolo", "yolo", tmp_path / "cache")
    assert copy.notes == ("1 outline left out, since YOLO holds one polygon for an object",)
    labels = (tmp_path / "yolo" / "labels" / "train" / "001.txt").read_text().splitlines()
    assert labels[0] == "0 0.125 0.2 0.5 0.2 0.5 0.53333333"
    assert len(labels[1].split()) == 9

    write_mended_copy(tmp_path / "yolo", tmp_path / "back", "coco", tmp_path / "cache")
    entries = read_json(tmp_path / "back" / "annotations" / "train.json")["annotations"]
    assert entries[0]["segmentation"] == [TRIANGLE]

    copy = write_mended_copy(data, tmp_path / "voc", "voc", tmp_path / "cache")
    assert copy.notes == ("3 outlines left out, since VOC holds no polygons",)


def test_regions_to_ignore_are_kept_or_refused(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "data")
    mask = {"size": [30, 40], "counts": [0, 1200]}

    def add_crowd(document: Document) -> None:
        document["annotations"][0] |= {"iscrowd": 1, "segmentation": mask}

    edit_json(data / "annotations" / "train.json", add_crowd)
    digest = load_dataset(data, tmp_path / "cache").digest
    assert write_mended_copy(data, tmp_path / "coco", "coco").digest == digest
    entries = read_json(tmp_path / "coco" / "annotations" / "train.json")["annotations"]
    assert entries[0]["segmentation"] == mask
    assert write_mended_copy(data, tmp_path / "voc", "voc").digest == digest

    with pytest.raises(UsageError, match=r"YOLO cannot hold regions to ignore .* in 1 image; give"):
        write_mended_copy(data, tmp_path / "yolo", "yolo")
    assert not (tmp_path / "yolo").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_one_name_get_names_of_their_own(tmp_path: Path, format: str) -> None:
    data = tmp_path / "data"
    names = ["one/a.png", "two/a.png", "two/A.PNG", "two/a b.png", "two/..é;x.png", "two/a.b"]
    images = []
    annotations = []
    for number, name in enumerate(names):
        path = data / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(number))
        images.append({"id": number, "file_name": name, "width": 40, "height": 30})
        box = {"bbox": [number, 2, 9, 9], "area": 81, "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number, "image_id": number, **box})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (data / "all.json").write_text(json.dumps(document))

    good = load_dataset(data, tmp_path / "cache")
    copy = write_mended_copy(data, tmp_path / "out", format, tmp_path / "cache")
    assert copy.digest == good.digest
    assert copy.images == len(names)
    # A disk that ignores capitals holds them, too.
    stems = [path.stem.casefold() for path in (tmp_path / "out").rglob("*.*") if is_image(path)]
    assert len(set(stems)) == len(stems) == len(names)


def test_the_copy_of_a_turned_image_has_boxes_of_the_turned_one(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "data")
    (data / "images" / "train" / "001.png").write_bytes(encode_image(1, orientation=6))
    edit_json(
        data / "annotations" / "train.json",
        lambda document: document["images"][0].update(width=30, height=40),
    )
    digest = load_dataset(data, tmp_path / "cache").digest
    for format in FORMATS:
        assert write_mended_copy(data, tmp_path / format, format).digest == digest


def test_what_voc_cannot_hold_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    splits = {"train": [make_labeled_image(1, "b")], "val": [make_labeled_image(2, "b")]}
    formats.write("coco", data, ("b", "a"), splits)
    copy = write_mended_copy(data, tmp_path / "out", "voc", tmp_path / "cache")
    (note,) = copy.notes
    assert "alphabetical" in note
    assert "without boxes: a" in note
    assert copy.digest == load_dataset(tmp_path / "out", tmp_path / "cache").digest


def test_what_no_image_can_mend_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_flawed(tmp_path / "data")
    edit_json(
        data / "annotations" / "val.json",
        lambda document: document["annotations"][0].update(category_id=9),
    )
    assert run(["check", str(data), "--fix", str(tmp_path / "out")]) == 65
    printed = capsys.readouterr()
    assert "gone.png" in printed.out
    assert "gone.png" not in printed.err
    assert "category_id 9" in printed.err
    assert "out was not written" in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_places_where_no_copy_may_be(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "data")
    in_use = tmp_path / "in_use"
    in_use.mkdir()
    (in_use / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(data / "images")

    before = describe_tree(tmp_path)
    for out in (data, data / "new", tmp_path / "link" / "new", in_use, in_use / "notes.txt"):
        assert run(["check", str(data), "--fix", str(out)]) == 2
    assert run(["check", str(data), "--format", "voc"]) == 2
    assert describe_tree(tmp_path) == before


def test_no_copy_beside_images_that_links_lead_to(tmp_path: Path) -> None:
    data = write_pets(tmp_path / "data")
    (data / "images").rename(tmp_path / "elsewhere")
    (data / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="beside images"):
        write_mended_copy(data, tmp_path / "elsewhere" / "train" / "new", "coco")
    assert not (tmp_path / "elsewhere" / "train" / "new").exists()


def test_warnings_that_are_left_in_the_copy_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    image = make_labeled_image(1, "cat")
    formats.write("coco", data, CLASSES[:1], {"train": [image], "val": [image]})
    assert run(["check", str(data), "--fix", str(tmp_path / "out")]) == 0
    assert f"{tmp_path / 'out'} is a good copy, with 1 warning: coco" in capsys.readouterr().out
    assert run(["check", str(data), "--fix", str(tmp_path / "strict"), "--strict"]) == 65


Usage = namedtuple("Usage", "total used free")


def test_images_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    data = write_pets(tmp_path / "data")
    write_mended_copy(data, tmp_path / "out", "coco", tmp_path / "cache")
    first = Path("images/train/001.png")
    assert (tmp_path / "out" / first).read_bytes() == (data / first).read_bytes()
    assert not (tmp_path / "out" / first).samefile(data / first)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 100))
    with pytest.raises(DiskError):
        write_mended_copy(data, tmp_path / "full", "coco", tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "out"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pets(tmp_path / "data")
    write = formats.write

    def lose_an_image(format: str, folder: Path, *parts: object) -> None:
        write(format, folder, *parts)  # type: ignore[arg-type]
        (folder / "images" / "train" / "002.png").unlink()

    monkeypatch.setattr(formats, "write", lose_an_image)
    with pytest.raises(DataError, match=r"002\.png"):
        write_mended_copy(data, tmp_path / "out", "coco", tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]

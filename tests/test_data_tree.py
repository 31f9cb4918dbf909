"""What is told of files that are left out or found elsewhere; archives, links and odd names."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from layout_files import (
    CAT,
    COCO_FILES,
    NAMES,
    POOL,
    YAML,
    YOLO_FILES,
    Files,
    coco,
    coco_of,
    describe,
    draw,
    without,
    write_files,
    xml,
)

from detreg.cli import run
from detreg.data import load_dataset
from detreg.data.findings import Severity, list_problems
from detreg.data.formats import read
from detreg.data.formats.tree import list_files
from detreg.errors import DataError

TOLD: dict[str, tuple[Files, set[str]]] = {
    "labeled images that no split names": (
        {**YOLO_FILES, "images/new/c.png": draw(3), "labels/new/c.txt": CAT},
        {"labeled image that is in no split left out"},
    ),
    "paths of another machine": (
        {
            **YOLO_FILES,
            "data.yaml": YAML + "train: train.txt\nval: images/val\n",
            "train.txt": "/content/images/train/a.png\n",
        },
        {"stated path is not in the dataset's folder: image found by the end of the path"},
    ),
    "images of another folder": (
        {"set.json": coco(upload__a="cat"), "images/a.png": draw(1)},
        {"stated path is not in the dataset's folder: image found by its name"},
    ),
    "names in another spelling": (
        {"set.json": coco_of({"A.PNG": "cat"}), "a.png": draw(1)},
        {"image found under another spelling of its name"},
    ),
    "images without annotations": (
        {**COCO_FILES, "images/val/c.png": draw(3)},
        {"image without annotations left out"},
    ),
    "images of a split without annotations": (
        without(COCO_FILES, "annotations/val.json"),
        {"image without annotations left out"},
    ),
    "another format": (
        {**YOLO_FILES, "annotations/train.json": coco(a="cat")},
        {"annotations in another format than the one that was read left out"},
    ),
    "annotations in another folder": (
        {**COCO_FILES, "old/annotations/train.json": coco(a="dog")},
        {"annotation file in another folder than the others left out"},
    ),
}


@pytest.mark.parametrize(("files", "messages"), TOLD.values(), ids=TOLD)
def test_what_is_left_out_or_found_elsewhere_is_told(
    tmp_path: Path, files: Files, messages: set[str]
) -> None:
    raw = read(write_files(tmp_path, files))
    assert list_problems(raw.findings) == ()
    assert {finding.message for finding in raw.findings} == messages
    assert {finding.severity for finding in raw.findings} == {Severity.NOTE}


def test_splits_that_are_named_and_missing_are_told(tmp_path: Path) -> None:
    files = {
        **without(YOLO_FILES, "images/val/b.png", "labels/val/b.txt"),
        "data.yaml": YAML + "train: images/train\nval: images/val\ntest: images/test\n",
        "images/train/c.png": draw(3),
        "labels/train/c.txt": CAT,
    }
    dataset = load_dataset(write_files(tmp_path / "set", files), tmp_path / "cache")
    assert {name: split.images for name, split in dataset.splits.items()} == {"train": 1, "val": 1}
    assert dataset.repairs == {
        "test split that data.yaml names but the folder lacks left out": 1,
        "val split that the dataset lacks, or has without images, cut from train": 1,
    }


def test_order_of_formats_does_not_depend_on_names(tmp_path: Path) -> None:
    files = {**COCO_FILES, "Annotations/a.xml": xml("cat")}
    assert read(write_files(tmp_path / "a", files)).format == "voc"
    assert read(write_files(tmp_path / "b", {**files, **YOLO_FILES})).format == "yolo"
    with_captions = {**COCO_FILES, "classes.txt": NAMES, "images/train/a.txt": "A cat."}
    assert read(write_files(tmp_path / "c", with_captions)).format == "coco"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archive_with_backslashes_and_a_readme(tmp_path: Path, kind: str) -> None:
    files = {f"boats\\{name}".replace("/", "\\"): text for name, text in YOLO_FILES.items()}
    files = {"README.txt": "thanks", **files}
    archive = tmp_path / f"boats.{kind}"
    contents = {name: x.encode() if isinstance(x, str) else x for name, x in files.items()}
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zip_archive:
            zip_archive.writestr("boats\\images\\", b"")
            for name, content in contents.items():
                zip_archive.writestr(name, content)
    else:
        with tarfile.open(archive, "w") as tar_archive:
            for name, content in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar_archive.addfile(entry, io.BytesIO(content))

    dataset = load_dataset(archive, tmp_path / "cache")
    counts = {name: split.images for name, split in dataset.splits.items()}
    assert counts == {"train": 1, "val": 1}
    assert dataset.repairs == {}


def test_links_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", {"images/a.png": draw(1), "images/b.png": draw(2)})
    write_files(tmp_path / "data", {"set.json": coco(a="cat", b="dog")})
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere" / "images")
    (tmp_path / "elsewhere" / "images" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data")
    assert describe(tmp_path / "data") == POOL


def test_folder_of_images_under_a_second_name(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {**YOLO_FILES, "JPEGImages/train/a.png": draw(1)})
    (folder / "images" / "train" / "a.png").unlink()
    (folder / "images" / "train").rmdir()
    (folder / "images" / "train").symlink_to(folder / "JPEGImages" / "train")
    assert describe(folder) == {1: ("train", "cat"), 2: ("val", "cat")}


def test_folders_that_lie_too_deeply_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 300)).mkdir(parents=True)
    with pytest.raises(DataError, match="too deeply"):
        read(tmp_path)


def test_files_are_listed_without_hidden_ones(tmp_path: Path) -> None:
    files = ["b/c.txt", "a.json", ".git/x.json", "__MACOSX/a.png", "._a.png", "b/.d"]
    write_files(tmp_path, dict.fromkeys(files, ""))
    (tmp_path / "empty").mkdir()
    tree = list_files(tmp_path)
    assert tree.files == ("a.json", "b/c.txt")
    assert tree.folders == {"", "b", "empty"}


@pytest.mark.parametrize("format", ["yolo", "voc", "coco"])
def test_names_that_are_not_utf_8_are_read_and_copied(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    voc_files: Files = {
        "a.png": draw(1), "a.xml": xml("cat"), "b.png": draw(2), "b.xml": xml("cat"),
    }  # fmt: skip
    files_of: dict[str, Files] = {"yolo": YOLO_FILES, "voc": voc_files, "coco": COCO_FILES}
    files = files_of[format]
    folder = write_files(tmp_path / "data", files)
    (folder / "docs \udcff").mkdir()
    for name in ("x.png", "x\udcff.png", "x\udcff.txt", "x\udcff.xml", "x\udcff.json"):
        (folder / "docs \udcff" / name).write_bytes(b"x")
    assert run(["check", str(folder)]) == 0
    assert run(["check", str(folder), "--json"]) == 0

    for path in sorted(folder.rglob("b.*")):
        path.rename(path.with_name(f"\udcff{path.suffix}"))
    # COCO's file states the old name.
    assert run(["check", str(folder)]) == (65 if format == "coco" else 0)
    if format != "coco":
        for target in ("coco", "voc", "yolo"):
            copy = tmp_path / target
            assert run(["check", str(folder), "--fix", str(copy), "--format", target]) == 0
            assert [path.name for path in copy.rglob("*.png")].count("\xff.png") == 1
            assert run(["check", str(copy), "--strict"]) == 0

"""Layouts: files are known by content and found wherever they lie.

The table has a layout's name, its files, and for each image, by its shade, its split and the label
of its box.
"""

from pathlib import Path

import pytest
from layout_files import (
    CAT,
    DOG,
    NAMES,
    NFC,
    NFD,
    POOL,
    SPLIT,
    VOC_FILES,
    YAML,
    Expected,
    Files,
    coco,
    coco_of,
    describe,
    draw,
    list_notes,
    write_files,
    xml,
)

from detreg.data.findings import Severity
from detreg.data.formats import read

LAYOUTS: dict[str, tuple[Files, Expected]] = {
    "XML beside images": (
        {"a.png": draw(1), "a.xml": xml("cat"), "b.png": draw(2), "b.xml": xml("dog")},
        POOL,
    ),
    "XML in a folder of any name": (
        {
            "pics/a.png": draw(1),
            "annots/a.xml": xml("cat"),
            "pics/b.png": draw(2),
            "annots/b.XML": xml("dog"),
        },
        POOL,
    ),
    "XML and images in two folders a split": (
        {
            "Train/annotations/a.xml": xml("cat"),
            "Train/images/a.png": draw(1),
            "Validation/annotations/a.xml": xml("dog"),
            "Validation/images/a.png": draw(2),
        },
        SPLIT,
    ),
    "XML for images in folders of splits": (
        {
            "labels/a.xml": xml("cat"),
            "labels/b.xml": xml("dog"),
            "images/train/a.png": draw(1),
            "images/val/b.png": draw(2),
        },
        SPLIT,
    ),
    "XML of one folder for each split": (
        {
            "xml/train/a.xml": xml("cat"),
            "xml/val/a.xml": xml("dog"),
            "png/train/a.png": draw(1),
            "png/val/a.png": draw(2),
        },
        SPLIT,
    ),
    "XML of several devkits": (
        {
            "VOC2007/Annotations/1.xml": xml("cat", "1.png"),
            "VOC2007/JPEGImages/1.png": draw(1),
            "VOC2007/ImageSets/Main/train.txt": "1\n",
            "VOC2012/Annotations/1.xml": xml("dog", "1.png"),
            "VOC2012/JPEGImages/1.png": draw(2),
            "VOC2012/ImageSets/Main/val.txt": "1\n",
            "VOC2012/ImageSets/Segmentation/train.txt": "1\n",
        },
        SPLIT,
    ),
    "XML with lists that say other splits than folders": (
        {
            "val/a.xml": xml("cat"),
            "val/a.png": draw(1),
            "train/b.xml": xml("dog"),
            "train/b.png": draw(2),
            "ImageSets/train.txt": "a",
            "ImageSets/val.txt": "b",
        },
        SPLIT,
    ),
    "XML beside masks of the same name": (
        {
            "Annotations/a.xml": xml("cat", "a.png"),
            "Annotations/b.xml": xml("dog", "b.png"),
            "Masks/a.png": draw(3),
            "Masks/b.png": draw(4),
            "Images/a.png": draw(1),
            "Images/b.png": draw(2),
        },
        POOL,
    ),
    "XML beside masks of another format": (
        {
            "Annotations/a.xml": xml("cat", "a.jpg"),
            "Annotations/b.xml": xml("dog", "b.jpg"),
            "seg/a.png": draw(3),
            "seg/b.png": draw(4),
            "photos/a.jpg": draw(1, "JPEG"),
            "photos/b.jpg": draw(2, "JPEG"),
        },
        POOL,
    ),
    "XML of images that were converted": (
        {
            "a.xml": xml("cat", "a.jpg"),
            "a.png": draw(1),
            "b.xml": xml("dog", "b.jpg"),
            "b.png": draw(2),
            "docs/preview.jpg": draw(3, "JPEG"),
        },
        POOL,
    ),
    "COCO with one file for images in folders of splits": (
        {
            "labels/all.json": coco(a="cat", b="dog"),
            "images/train/a.png": draw(1),
            "images/val/b.png": draw(2),
        },
        SPLIT,
    ),
    "COCO with images in several folders": (
        {
            "annotations/instances_train.json": coco(one__a="cat"),
            "annotations/instances_val.JSON": coco(two__a="dog"),
            "pictures/one/a.png": draw(1),
            "pictures/two/a.png": draw(2),
        },
        SPLIT,
    ),
    "COCO with train and val in one file": (
        {
            "annotations/instances_trainval.json": coco(a="cat", b="dog"),
            "images/a.png": draw(1),
            "images/b.png": draw(2),
        },
        {1: ("train", "cat"), 2: ("train", "dog")},
    ),
    "COCO deep in folders of splits": (
        {
            "set/train/labels/result.json": coco(a="cat"),
            "set/train/images/a.png": draw(1),
            "set/valid/labels/result.json": coco(a="dog"),
            "set/valid/images/a.png": draw(2),
        },
        SPLIT,
    ),
    "COCO with paths of another machine": (
        {
            "result.json": coco_of(
                {"..\\..\\media\\upload\\4\\a.png": "cat", "D:\\set\\images\\b.png": "dog"}
            ),
            "images/a.png": draw(1),
            "images/b.png": draw(2),
        },
        POOL,
    ),
    "COCO with names in other spellings": (
        {
            "set.json": coco_of({f"{NFC}.png": "cat", "B.PNG": "dog"}),
            f"images/{NFD}.png": draw(1),
            "images/b.png": draw(2),
        },
        POOL,
    ),
    "YOLO of Darknet": (
        {
            "obj.data": "classes = 2\ntrain = data/train.txt\nValidation = data/valid.txt\n"
            "names = data/obj.names\n",
            "obj.names": NAMES,
            "train.txt": "data/obj_train_data/a.png\n",
            "valid.txt": "data/obj_valid_data/a.png\n",
            "obj_train_data/a.png": draw(1),
            "obj_train_data/a.txt": CAT,
            "obj_valid_data/a.png": draw(2),
            "obj_valid_data/a.txt": DOG,
        },
        SPLIT,
    ),
    "YOLO with classes.txt and notes.json": (
        {
            "classes.txt": NAMES,
            "notes.json": '{"categories": [{"id": 0, "name": "cat"}]}',
            "images/a.png": draw(1),
            "images/b.png": draw(2),
            "labels/a.txt": CAT,
            "labels/b.txt": DOG,
        },
        POOL,
    ),
    "YOLO in one folder": (
        {
            "classes.txt": NAMES,
            "a.PNG": draw(1),
            "a.txt": CAT,
            f"{NFD}.png": draw(2),
            f"{NFC}.txt": DOG,
        },
        POOL,
    ),
    "YOLO in folders of other names": (
        {
            "my.names": NAMES,
            "img/a.png": draw(1),
            "txt/a.txt": CAT,
            "img/b.png": draw(2),
            "txt/b.txt": DOG,
        },
        POOL,
    ),
    "YOLO with a yaml above its folder": (
        {
            "boats.yaml": YAML + "path: ../datasets/boats\ntrain: images/train\nval: images/val\n",
            "boats/images/train/a.png": draw(1),
            "boats/labels/train/a.txt": CAT,
            "boats/images/val/a.png": draw(2),
            "boats/labels/val/a.txt": DOG,
        },
        SPLIT,
    ),
    "YOLO with a yaml in its own folder": (
        {
            "conf/data.yaml": YAML + "train: ../train/images\nval: ../valid/images\n",
            "train/images/a.png": draw(1),
            "train/labels/a.txt": CAT,
            "valid/images/a.png": draw(2),
            "valid/labels/a.txt": DOG,
        },
        SPLIT,
    ),
    "YOLO with lists of absolute paths": (
        {
            "data.yaml": YAML + "path: /content/set\ntrain: train.txt\nval: val.txt\n",
            "train.txt": "/content/set/images/train/a.png\n",
            "val.txt": "C:\\set\\images\\val\\a.png\n",
            "images/train/a.png": draw(1),
            "labels/train/a.txt": CAT,
            "images/val/a.png": draw(2),
            "labels/val/a.txt": DOG,
        },
        SPLIT,
    ),
    "YOLO beside another tool's files": (
        {
            "classes.txt": NAMES,
            "a.png": draw(1),
            "a.json": '{"shapes": [], "imagePath": "a.png"}',
            "a.txt": CAT,
            "b.png": draw(2),
            "b.json": '{"shapes": [], "imagePath": "b.png"}',
            "b.txt": DOG,
        },
        POOL,
    ),
    "YOLO with lists and no yaml": (
        {
            "classes.txt": NAMES,
            "lists/train.txt": "images/a.png\n",
            "lists/valid.txt": "images/b.png\n",
            "images/a.png": draw(1),
            "images/b.png": draw(2),
            "labels/a.txt": CAT,
            "labels/b.txt": DOG,
        },
        SPLIT,
    ),
}


@pytest.mark.parametrize(("files", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_layout_is_read(tmp_path: Path, files: Files, expected: Expected) -> None:
    assert describe(write_files(tmp_path, files)) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read_inside_other_folders(tmp_path: Path, layout: str) -> None:
    files, expected = LAYOUTS[layout]
    moved = {f"boats v1/set/{name}": content for name, content in files.items()}
    moved |= {"docs/README.md": "# Boats", "boats v1/LICENSE": "free", "notes.txt": "see docs"}
    assert describe(write_files(tmp_path, moved)) == expected


def test_names_that_differ_by_capitals_are_told_apart(tmp_path: Path) -> None:
    files: Files = {
        "classes.txt": NAMES,
        "images/a.png": draw(1),
        "images/A.png": draw(2),
        "labels/a.txt": CAT,
        "labels/A.txt": DOG,
    }
    write_files(tmp_path, files)
    if len(list((tmp_path / "images").iterdir())) < 2:
        pytest.skip("this file system takes both names for one file")
    assert describe(tmp_path) == POOL


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_frames_of_many_videos_with_the_same_names(tmp_path: Path, format: str) -> None:
    labels = {number: "cat" if number % 3 else "dog" for number in range(1, 41)}
    files: dict[str, str | bytes] = {}
    for number, label in labels.items():
        files[f"data/video {number}/rgb/1.png"] = draw(number)
        if format == "voc":
            files[f"xml/video {number}/1.xml"] = xml(label, "1.png")
    if format == "coco":
        names = {f"video {number}/rgb/1.png": label for number, label in labels.items()}
        files["set.json"] = coco_of(names)

    expected = {number: ("pool", label) for number, label in labels.items()}
    assert describe(write_files(tmp_path, files)) == expected


LISTS: dict[str, tuple[str, str]] = {
    "plain": ("ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
    "long names": ("ImageSets/Main/Training.txt", "ImageSets/Main/Validation.txt"),
    "valid": ("ImageSets/train.txt", "ImageSets/valid.txt"),
    "elsewhere": ("splits/fold one/TRAIN.TXT", "splits/fold one/VAL.TXT"),
    "a class": ("ImageSets/Main/cat_train.txt", "ImageSets/Main/cat_val.txt"),
    "trainval": ("ImageSets/Main/train.txt", "ImageSets/Main/trainval.txt"),
}
LINES: dict[str, tuple[str, str]] = {
    "stems": ("my photo (1)\n", "sub/b\n"),
    "flags": ("my photo (1)  1\n", "sub/b -1\n"),
    "numbers": ("my photo (1) 1 1 1\n", "b 2 1 1\n"),
    "names": ("my photo (1).png\r\n", "sub\\b.png\r\n"),
    "paths": ("/data/JPEGImages/my photo (1).png\n", "/data/JPEGImages/sub/b.png\n"),
    "pairs": (
        "JPEGImages/my photo (1).png Annotations/my photo (1).xml\n",
        "JPEGImages/sub/b.png Annotations/sub/b.xml\n",
    ),
    "quotes": ('"my photo (1)"\n', '"sub/b"\n'),
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
@pytest.mark.parametrize("lists", LISTS.values(), ids=LISTS)
def test_voc_list(tmp_path: Path, lists: tuple[str, str], lines: tuple[str, str]) -> None:
    files = {**VOC_FILES, lists[0]: lines[0], lists[1]: lines[1]}
    assert describe(write_files(tmp_path, files)) == SPLIT


def test_voc_list_of_no_split_is_the_pool(tmp_path: Path) -> None:
    files = {**VOC_FILES, "ImageSets/Main/default.txt": "my photo (1)\nsub/b\n"}
    assert describe(write_files(tmp_path, files)) == POOL


def test_voc_annotations_in_no_list_are_told_once(tmp_path: Path) -> None:
    files = {**VOC_FILES, "ImageSets/Main/train.txt": "sub/b\n"}
    (finding,) = read(write_files(tmp_path, files)).findings
    assert finding.severity is Severity.NOTE
    assert finding.where == "Annotations/my photo (1).xml"


def test_voc_test_list_without_annotations_is_told(tmp_path: Path) -> None:
    files = {
        **VOC_FILES,
        "annotations.txt": "no list",
        "ImageSets/Main/trainval.txt": "my photo (1)\nsub/b\n",
        "ImageSets/Main/test.txt": "c 1 1 1\nd 1 1 1\n",
    }
    assert describe(write_files(tmp_path, files)) == {1: ("train", "cat"), 2: ("train", "dog")}
    assert list_notes(tmp_path) == {"list of a test split without annotations left out"}

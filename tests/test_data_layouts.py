"""Layouts: files are known by content and found wherever they lie, and nothing is guessed.

Each table has a layout's name, its files, and for each image, by its shade, its split and the
label of its box. Images differ in content, so that a wrong one shows.
"""

import io
import json
import tarfile
import unicodedata
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from small_datasets import HEIGHT, WIDTH, encode_image

from detreg.cli import run
from detreg.data import load_dataset
from detreg.data.findings import Severity, list_problems
from detreg.data.formats import read
from detreg.data.formats.tree import list_files
from detreg.errors import DataError

Files = Mapping[str, str | bytes]
Expected = Mapping[int, tuple[str, str]]
"""Split and label of the only box, by the shade of the image; no label for no box."""


@cache
def draw(shade: int, kind: str = "PNG") -> bytes:
    return encode_image(shade, kind)


def xml(label: str, filename: str = "", root: str = "annotation") -> str:
    name = f"<filename>{filename}</filename>" if filename else ""
    box = "<xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>18</ymax>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return (
        f"<{root}>{name}{size}<object><name>{label}</name><bndbox>{box}</bndbox></object></{root}>"
    )


def coco(**labels: str) -> str:
    """Return a COCO document of images with a box each; "__" in a name stands for a slash."""
    return coco_of({name.replace("__", "/") + ".png": label for name, label in labels.items()})


def coco_of(labels: Mapping[str, str]) -> str:
    images = []
    annotations = []
    for number, (name, label) in enumerate(labels.items(), start=1):
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        category = 1 if label == "cat" else 2
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": category,
                "bbox": [2, 3, 18, 15],
                "area": 270,
            }
        )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


CAT = "0 0.5 0.5 0.2 0.2\n"
DOG = "1 0.5 0.5 0.2 0.2\n"
NAMES = "cat\ndog\n"
YAML = "names: [cat, dog]\n"


def write_files(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def describe(folder: Path) -> dict[int, tuple[str, str]]:
    """Return split and label of each image that is read, by its shade."""
    shades = {draw(shade, kind): shade for shade in range(1, 41) for kind in ("PNG", "JPEG")}
    described = {}
    raw = read(folder)
    assert list_problems(raw.findings) == ()
    for split, records in raw.splits.items():
        for record in records:
            labels = " ".join(box.label for box in record.boxes)
            described[shades[record.image.read_bytes()]] = (split, labels)
    return described


def list_notes(folder: Path) -> set[str]:
    return {finding.message for finding in read(folder).findings}


POOL: Expected = {1: ("pool", "cat"), 2: ("pool", "dog")}
SPLIT: Expected = {1: ("train", "cat"), 2: ("val", "dog")}

NFC = unicodedata.normalize("NFC", "été")
NFD = unicodedata.normalize("NFD", "été")

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


VOC_FILES: Files = {
    "Annotations/my photo (1).xml": xml("cat"),
    "Annotations/sub/b.xml": xml("dog"),
    "JPEGImages/my photo (1).png": draw(1),
    "JPEGImages/sub/b.png": draw(2),
}
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


TWO_PHOTOS: Files = {"photos/a.jpg": draw(1, "JPEG"), "photos/b.jpg": draw(2, "JPEG")}
YOLO_FILES: Files = {
    "data.yaml": YAML + "train: images/train\nval: images/val\n",
    "images/train/a.png": draw(1),
    "labels/train/a.txt": CAT,
    "images/val/b.png": draw(2),
    "labels/val/b.txt": CAT,
}
COCO_FILES: Files = {
    "annotations/train.json": coco(a="cat"),
    "annotations/val.json": coco(b="cat"),
    "images/train/a.png": draw(1),
    "images/val/b.png": draw(2),
}


def without(files: Files, *names: str) -> dict[str, str | bytes]:
    return {name: content for name, content in files.items() if name not in names}


LVIS = coco(a="cat").replace('"file_name": "a.png"', '"coco_url": "http://x/train2017/a.png"')
REFUSED: dict[str, tuple[Files, list[str]]] = {
    "image of one camera is missing": (
        {"set.json": coco(cam1__a="cat", cam2__a="dog"), "data/cam2/a.png": draw(1)},
        ["set.json image 2: cam2/a.png and cam1/a.png both lead to data/cam2/a.png"],
    ),
    "image of a folder that is there is missing": (
        {
            "set.json": coco(cam1__a="cat", cam1__b="cat"),
            "data/cam1/b.png": draw(1),
            "data/cam2/a.png": draw(2),
        },
        ["cam1/a.png (in set.json)", "missing"],
    ),
    "image of a split is missing": (
        {**without(COCO_FILES, "images/val/b.png"), "images/train/b.png": draw(2)},
        ["b.png (in annotations/val.json)", "missing"],
    ),
    "image of a split that is stated is missing": (
        {
            "set.json": coco(valid__images__a="cat", train__images__b="dog"),
            "data/train/images/a.png": draw(1),
            "data/train/images/b.png": draw(2),
        },
        ["valid/images/a.png (in set.json)", "missing"],
    ),
    "train is no list": (
        {**YOLO_FILES, "data.yaml": YAML + "train: data.yaml\nval: images/val\n"},
        ["data.yaml train: 'data.yaml' is neither a folder nor a .txt file"],
    ),
    "an image that is the folder around": (
        {"annotations/set.json": coco_of({"../../..": "cat"}), "a.png": draw(1)},
        ["'../../..' leads out of the dataset's folder"],
    ),
    "val is missing, and images has those of train": (
        {
            "data.yaml": YAML + "train: images\nval: ../valid/images\n",
            "images/a.png": draw(1),
            "labels/a.txt": CAT,
            "other/b.png": draw(2),
            "other/b.txt": DOG,
        },
        ["data.yaml val: '../valid/images' is not in the dataset's folder"],
    ),
    "two images of one name": (
        {"set.json": coco(a="cat"), "one/a.png": draw(1), "two/a.png": draw(2)},
        ["set.json image 1: a.png may be one/a.png or two/a.png"],
    ),
    "two images of an XML file": (
        {"xml/a.xml": xml("cat", "a.png"), "one/a.png": draw(1), "two/a.png": draw(2)},
        ["xml/a.xml: a.png may be one/a.png or two/a.png"],
    ),
    "mask of an image that is missing": (
        {
            **without(TWO_PHOTOS, "photos/a.jpg"),
            "xml/a.xml": xml("cat", "a.jpg"),
            "xml/b.xml": xml("dog", "b.jpg"),
            "masks/a.png": draw(3),
            "masks/b.png": draw(4),
        },
        ["xml/a.jpg (in xml/a.xml)", "missing"],
    ),
    "copy of an image that is missing": (
        {
            "set.json": coco(a="cat", b="dog"),
            "images/a.png": draw(1),
            "small/a.png": draw(3),
            "small/b.png": draw(4),
        },
        ["set.json: the image of b.png is missing where the others are, and small/b.png may be"],
    ),
    "frame of another video": (
        {
            "one/xml/a.xml": xml("cat"),
            "one/img/a.png": draw(1),
            "two/xml/a.xml": xml("dog"),
            "two/img/a.png": draw(2),
            "two/xml/b.xml": xml("dog"),
            "one/img/b.png": draw(3),
        },
        ["two/xml/b.xml: the image of two/xml/b.xml is missing where the others are"],
    ),
    "masks of images that are missing": (
        {"xml/a.xml": xml("cat", "a.png"), "masks/a.png": draw(3)},
        ["xml/a.png (in xml/a.xml)", "missing"],
    ),
    "labels of images that are missing beside masks": (
        {
            "classes.txt": NAMES,
            "cam/a.png": draw(1),
            "cam/a.txt": CAT,
            "cam/b.txt": CAT,
            "small/b.png": draw(3),
        },
        ["cam/b.txt: the image of this label file is missing"],
    ),
    "two XML files of one image": (
        {"one/a.xml": xml("cat"), "two/a.xml": xml("dog"), "images/a.png": draw(1)},
        ["two/a.xml: two/a.xml and one/a.xml both lead to images/a.png"],
    ),
    "lists of two folds": (
        {
            **VOC_FILES,
            "folds/1/train.txt": "sub/b\n",
            "folds/1/val.txt": "my photo (1)\n",
            "folds/2/train.txt": "my photo (1)\n",
            "folds/2/val.txt": "sub/b\n",
        },
        ["folds/1/val.txt: ", "is listed here, and for train in folds/2/train.txt"],
    ),
    "mask with the label of its image": (
        {**YOLO_FILES, "images/train/a.jpg": draw(3, "JPEG")},
        ["labels/train/a.txt: the label file belongs to images/train/a.jpg and"],
    ),
    "labels without images": (
        without(YOLO_FILES, "images/val/b.png") | {"images/val/c.png": draw(2)},
        ["labels/val/b.txt: the image of this label file is missing"],
    ),
    "labels without images beside them": (
        {"classes.txt": NAMES, "a.png": draw(1), "a.txt": CAT, "b.txt": DOG},
        ["b.txt: the image of this label file is missing"],
    ),
    "labels without names": (
        without(YOLO_FILES, "data.yaml"),
        ["nothing names them; add data.yaml"],
    ),
    "classes in two orders": (
        {
            "train/classes.txt": NAMES,
            "train/a.png": draw(1),
            "train/a.txt": CAT,
            "val/classes.txt": "dog\ncat\n",
            "val/b.png": draw(2),
            "val/b.txt": DOG,
        },
        ["train/classes.txt and val/classes.txt number the classes in different ways"],
    ),
    "classes of two yaml files": (
        {
            **without(YOLO_FILES, "data.yaml"),
            "a.yaml": YAML + "train: images/train\nval: images/val\n",
            "b.yaml": "names: [dog, cat]\n",
        },
        ["a.yaml and b.yaml both name classes, and differ"],
    ),
    "val that is elsewhere": (
        {**YOLO_FILES, "data.yaml": YAML + "train: images/train\nval: images/valid\n"},
        ["data.yaml val: 'images/valid' is not in the dataset's folder"],
    ),
    "LVIS, which names no files": (
        {**COCO_FILES, "annotations/train.json": LVIS},
        ["annotations/train.json image 1: LVIS", "coco_url"],
    ),
    "keypoints": (
        {**YOLO_FILES, "data.yaml": YAML + "train: images/train\nkpt_shape: [17, 3]\n"},
        ["data.yaml: this is a YOLO pose dataset"],
    ),
    "an annotation file that is broken": (
        {**COCO_FILES, "annotations/val.JSON": "[1, 2]"},
        ["annotations/val.JSON: the file is not a JSON object"],
    ),
    "an annotation file that is a folder": (
        {**without(COCO_FILES, "annotations/val.json"), "annotations/val.json/x": ""},
        ["annotations/val.json: this is a folder"],
    ),
    "a label file that is a folder": (
        {**without(YOLO_FILES, "labels/val/b.txt"), "labels/val/b.txt/x": ""},
        ["images/val/b.png: this is a folder"],
    ),
}


@pytest.mark.parametrize(("files", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_have_to_be_guessed_is_refused(
    tmp_path: Path, files: Files, words: list[str]
) -> None:
    folder = write_files(tmp_path / "data", files)
    with pytest.raises(DataError) as error:
        load_dataset(folder, tmp_path / "cache")
    for word in words:
        assert word in str(error.value)
    for problem in error.value.problems:
        assert "; " in problem, "a problem says how to put it right"


FOREIGN: dict[str, tuple[str, str, str]] = {
    "labelme": ("a.json", '{"shapes": [], "imagePath": "a.png"}', "labelme"),
    "VIA": ("via.json", '{"a.png9": {"regions": [{"shape_attributes": {}}]}}', "VIA"),
    "Label Studio": ("x.json", '[{"annotations": [{"result": [{"from_name": 1}]}]}]', "Studio"),
    "CVAT": ("annotations.xml", '<annotations><image id="0"></image></annotations>', "CVAT"),
    "CVAT's tracks": ("x.xml", '<annotations><track id="0"></track></annotations>', "tracks"),
    "a table": ("x.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
}


@pytest.mark.parametrize(("name", "content", "tool"), FOREIGN.values(), ids=FOREIGN)
def test_format_of_another_tool_is_named(
    tmp_path: Path, name: str, content: str, tool: str
) -> None:
    write_files(tmp_path, {"a.png": draw(1), name: content})
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert f"{name} is " in str(error.value)
    assert tool in str(error.value)
    assert "; " in str(error.value)


TOLD: dict[str, tuple[Files, set[str]]] = {
    "a split that is named and missing": (
        without(YOLO_FILES, "images/val/b.png", "labels/val/b.txt"),
        {"val split that data.yaml names but the folder lacks cut from train"},
    ),
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
def test_names_that_are_not_utf_8_are_refused_only_where_they_are_used(
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
    assert run(["check", str(folder)]) == 65

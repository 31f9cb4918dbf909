"""Datasets that could only be read by a guess are refused, with a line that names the place."""

from pathlib import Path

import pytest
from layout_files import (
    CAT,
    COCO_FILES,
    DOG,
    NAMES,
    TWO_PHOTOS,
    VOC_FILES,
    YAML,
    YOLO_FILES,
    Files,
    coco,
    coco_of,
    draw,
    without,
    write_files,
    xml,
)

from detreg.data import load_dataset
from detreg.data.formats import read
from detreg.errors import DataError

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

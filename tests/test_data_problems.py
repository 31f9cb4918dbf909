"""What the check says of each kind of bad dataset.

Each table has a name for a flaw, how to make it, and words that the message must hold.
"""

from pathlib import Path

import pytest
from bad_datasets import (
    CLASSES,
    SPLITS,
    check_only_problem,
    update_annotation,
    update_image,
    write_coco,
)
from small_datasets import Change, Document, make_image

from detreg.data.boxes import Box
from detreg.data.formats import write


def add_category(name: object, category_id: int = 3) -> Change:
    return lambda document: document["categories"].append({"id": category_id, "name": name})


def use_fractions(document: Document) -> None:
    for entry in document["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.3, 0.4]


def repeat_image_id(document: Document) -> None:
    document["images"][1]["id"] = 1
    for entry in document["annotations"]:
        entry["image_id"] = 1


COCO: dict[str, tuple[Change, list[str]]] = {
    "image is missing": (
        update_image(file_name="gone.jpg"),
        ["images/train/gone.jpg (in annotations/train.json)", "missing"],
    ),
    "stated size is another": (
        update_image(width=80, height=60),
        ["001.png", "80x60 is stated but the image is 40x30"],
    ),
    "size is not a number": (
        update_image(width="wide"),
        ["image 1", "(001.png)", "'wide'", "not numbers"],
    ),
    "NaN": (
        update_annotation(bbox=[float("nan"), 1, 2, 3]),
        ["annotations/train.json annotation 1 (class cat)", "NaN"],
    ),
    "infinite": (
        update_annotation(bbox=[1, 1, float("inf"), 3]),
        ["annotation 1 (class cat)", "finite"],
    ),
    "text in a box": (
        update_annotation(bbox=["1", 1, 2, 3]),
        ["annotation 1", "(class cat)", "not four numbers"],
    ),
    "three numbers": (update_annotation(bbox=[1, 2, 3]), ["annotation 1", "not four numbers"]),
    "no box": (
        lambda document: document["annotations"][0].pop("bbox"),
        ["annotation 1", "None is not four numbers"],
    ),
    "negative width": (
        update_annotation(bbox=[20, 5, -10, 5]),
        ["annotation 1 (class cat)", "ends before it begins"],
    ),
    "outside": (
        update_annotation(bbox=[100, 5, 10, 5]),
        ["annotation 1 (class cat)", "wholly outside its image of 40x30"],
    ),
    "fractions": (
        use_fractions,
        ["annotations/train.json: every box lies within 0..1", "multiply"],
    ),
    "unknown category": (
        update_annotation(category_id=9),
        ["annotation 1", "category_id 9", "1 cat, 2 dog"],
    ),
    "unknown image": (update_annotation(image_id=9), ["annotation 1", "image_id 9"]),
    "image id twice": (repeat_image_id, ["image id 1 is given more than once"]),
    "annotation id twice": (update_annotation(id=2), ["annotation id 2 is given more than once"]),
    "file name twice": (
        update_image(file_name="002.png"),
        ["file name 002.png is given more than once"],
    ),
    "leads out": (
        update_image(file_name="../../../x.jpg"),
        ["image 1", "'../../../x.jpg' leads out of the dataset's folder"],
    ),
    "absolute": (update_image(file_name="/etc/passwd"), ["image 1", "'/etc/passwd' leads out"]),
    "no file name": (
        lambda document: document["images"][0].pop("file_name"),
        ["image 1", "needs an id and a file_name"],
    ),
    "no boxes in train": (
        lambda document: document["annotations"].clear(),
        ["train split has no boxes"],
    ),
    "names differ by case": (add_category("Cat"), ["'cat' and 'Cat' differ only by case or space"]),
    "names differ by space": (
        add_category(" dog"),
        ["'dog' and ' dog' differ only by case or space"],
    ),
    "name twice": (add_category("cat"), ["two categories are named 'cat'"]),
    "category id twice": (
        add_category("emu", category_id=1),
        ["category id 1 is given twice"],
    ),
    "empty name": (add_category(""), ["empty name"]),
    "name is a number": (add_category(7), ["category at position 3", "a text as name"]),
    "no categories": (
        lambda document: document.pop("categories"),
        ["no list of objects under 'categories'"],
    ),
    "images is not a list": (
        lambda document: document.update(images={}),
        ["no list of objects under 'images'"],
    ),
}

VOC: dict[str, tuple[str, str, list[str]]] = {
    "not XML": (
        "<name>cat</name>",
        "<name>cat<name>",
        ["Annotations/001.xml", "is not XML", "line"],
    ),
    "not a number": (
        "<xmin>5</xmin>",
        "<xmin>five</xmin>",
        ["Annotations/001.xml object 1", "(class cat)", "not four numbers"],
    ),
    "corner missing": ("<xmin>5</xmin>", "", ["object 1", "not four numbers"]),
    "swapped corners": (
        "<xmin>5</xmin>",
        "<xmin>25</xmin>",
        ["Annotations/001.xml object 1 (class cat)", "ends before it begins"],
    ),
    "other XML": ("annotation>", "html>", ["Annotations/001.xml", "holds <html>"]),
    "no class": ("<name>cat</name>", "<name></name>", ["empty name"]),
    "class by space": (
        "<name>cat</name>",
        "<name>c at</name>",
        ["'c at' and 'cat' differ only by case or space"],
    ),
    "other size": (
        "<width>40</width>",
        "<width>400</width>",
        ["JPEGImages/001.png (in Annotations/001.xml)", "400x30 is stated"],
    ),
    "width is not a number": (
        "<width>40</width>",
        "<width>x</width>",
        ["Annotations/001.xml", "width 'x' is not a number"],
    ),
}

YOLO: dict[str, tuple[str, list[str]]] = {
    "words": ("cat 0.5 0.5 0.1 0.1", ["labels/train/001.txt line 2", "not a row of numbers"]),
    "too few": ("0 0.5 0.5 0.1", ["labels/train/001.txt line 2", "has 4 numbers"]),
    "a confidence": ("0 0.5 0.5 0.1 0.1 0.9", ["line 2", "has 6 numbers"]),
    "unknown class": ("5 0.5 0.5 0.1 0.1", ["line 2", "class 5 is not among the 2 names"]),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", ["line 2", "class 0.5"]),
    "pixels": ("0 20 15 10 10", ["line 2", "(class cat)", "not in fractions"]),
    "NaN": ("0 nan 0.5 0.1 0.1", ["line 2 (class cat)", "NaN"]),
    "outside": ("0 1.5 0.5 0.1 0.1", ["line 2 (class cat)", "wholly outside"]),
    "negative": ("0 0.5 0.5 -0.1 0.1", ["line 2 (class cat)", "ends before it begins"]),
}


@pytest.mark.parametrize(("change", "words"), COCO.values(), ids=COCO)
def test_bad_coco_entry(tmp_path: Path, change: Change, words: list[str]) -> None:
    check_only_problem(write_coco(tmp_path / "data", change), words)


@pytest.mark.parametrize(("old", "new", "words"), VOC.values(), ids=VOC)
def test_bad_voc_file(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    write("voc", tmp_path / "data", CLASSES, SPLITS)
    path = tmp_path / "data" / "Annotations" / "001.xml"
    # The tag of the root occurs twice: it is opened and closed.
    count = 2 if old == "annotation>" else 1
    path.write_text(path.read_text().replace(old, new, count))
    check_only_problem(tmp_path / "data", words)


def test_voc_fractions_are_found_per_file(tmp_path: Path) -> None:
    splits = {**SPLITS, "val": [make_image(3, Box((0.1, 0.2, 0.5, 0.9), "cat"))]}
    write("voc", tmp_path / "data", CLASSES, splits)
    check_only_problem(
        tmp_path / "data", ["Annotations/003.xml: every box lies within 0..1", "fractions"]
    )


def test_voc_listed_image_without_annotations(tmp_path: Path) -> None:
    write("voc", tmp_path / "data", CLASSES, SPLITS)
    (tmp_path / "data" / "Annotations" / "002.xml").unlink()
    check_only_problem(
        tmp_path / "data", ["ImageSets/Main/train.txt: 002 has no Annotations/002.xml"]
    )


@pytest.mark.parametrize(("line", "words"), YOLO.values(), ids=YOLO)
def test_bad_yolo_label(tmp_path: Path, line: str, words: list[str]) -> None:
    write("yolo", tmp_path / "data", CLASSES, SPLITS)
    labels = tmp_path / "data" / "labels" / "train" / "001.txt"
    labels.write_text(f"0 0.3 0.3 0.2 0.2\n{line}\n")
    check_only_problem(tmp_path / "data", words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("names: [cat, dog\n", ["data.yaml: line", "is not YAML"]),
        ("train: images/train\n", ["data.yaml", "needs the class names"]),
        ("names: [cat, no]\n", ["data.yaml", "in quotes"]),
        ("names: {a: cat}\n", ["data.yaml", "number the classes"]),
        ("names: [cat, dog]\nnc: 3\n", ["data.yaml: nc says 3 classes and names has 2"]),
        ("names: {0: cat, 1: dog, 0: ant}\n", ["data.yaml: line 1", "'0' is given twice"]),
        ("names: [cat, cat]\n", ["data.yaml: two classes are named 'cat'"]),
        ("names: [cat, Cat]\n", ["'cat' and 'Cat' differ only by case"]),
        (
            "names: [cat, dog]\ntrain: images/train\nval: /nowhere/val\n",
            ["data.yaml val: '/nowhere/val' is not in the dataset's folder"],
        ),
    ],
)
def test_bad_yolo_settings(tmp_path: Path, settings: str, words: list[str]) -> None:
    write("yolo", tmp_path / "data", CLASSES, SPLITS)
    (tmp_path / "data" / "data.yaml").write_text(settings)
    check_only_problem(tmp_path / "data", words)


def test_yolo_label_without_its_image(tmp_path: Path) -> None:
    write("yolo", tmp_path / "data", CLASSES, SPLITS)
    (tmp_path / "data" / "images" / "train" / "001.png").unlink()
    check_only_problem(
        tmp_path / "data", ["labels/train/001.txt", "image of this label file is missing"]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"images": [\n}', ["line 2 column 1", "not JSON"]), ("[]", ["not a JSON object"])],
)
def test_bad_json(tmp_path: Path, text: str, words: list[str]) -> None:
    folder = write_coco(tmp_path / "data")
    (folder / "annotations" / "train.json").write_text(text)
    check_only_problem(folder, ["annotations/train.json", *words])

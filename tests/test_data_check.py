"""The check: one table of bad datasets with what must be said of each, one of harmless flaws, and everything told at once."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from detreg.data import load_dataset, summarize_dataset
from detreg.data.boxes import Box
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage
from detreg.data.probe import probe_image
from detreg.errors import DataError


def picture(shade: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (40, 30), (shade, 120, 200)).save(stream, kind, exif=exif)
    return stream.getvalue()


SPLITS = {
    "train": [
        AnnotatedImage(
            f"{shade}.jpg",
            picture(shade),
            40,
            30,
            (Box((5, 6, 20, 16), "cat"), Box((1, 1, 9, 9), "dog")),
        )
        for shade in (1, 2)
    ],
    "val": [AnnotatedImage("3.jpg", picture(3), 40, 30, (Box((5, 6, 20, 16), "cat"),))],
}
Change = Callable[[dict], object]


def annotation(**values: object) -> Change:
    return lambda document: document["annotations"][0].update(values)


def image(**values: object) -> Change:
    return lambda document: document["images"][0].update(values)


def fractions(document: dict) -> None:
    for entry in document["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.3, 0.4]


def same_image_id(document: dict) -> None:
    document["images"][1]["id"] = 1
    for entry in document["annotations"]:
        entry["image_id"] = 1


def category(name: object) -> Change:
    return lambda document: document["categories"].append({"id": 3, "name": name})


COCO = {
    "image is missing": (
        image(file_name="gone.jpg"),
        ["images/train/gone.jpg (in annotations/train.json)", "missing"],
    ),
    "stated size is another": (
        image(width=80, height=60),
        ["1.jpg", "80x60 is stated but the image is 40x30"],
    ),
    "size is no number": (image(width="wide"), ["image 1", "(1.jpg)", "'wide'", "not numbers"]),
    "NaN": (
        annotation(bbox=[float("nan"), 1, 2, 3]),
        ["annotations/train.json annotation 1 (class cat)", "NaN"],
    ),
    "infinite": (annotation(bbox=[1, 1, float("inf"), 3]), ["annotation 1 (class cat)", "finite"]),
    "text in a box": (
        annotation(bbox=["1", 1, 2, 3]),
        ["annotation 1", "(class cat)", "not four numbers"],
    ),
    "three numbers": (annotation(bbox=[1, 2, 3]), ["annotation 1", "not four numbers"]),
    "no box": (
        lambda document: document["annotations"][0].pop("bbox"),
        ["annotation 1", "None is not four numbers"],
    ),
    "negative width": (
        annotation(bbox=[20, 5, -10, 5]),
        ["annotation 1 (class cat)", "ends before it begins"],
    ),
    "outside": (
        annotation(bbox=[100, 5, 10, 5]),
        ["annotation 1 (class cat)", "wholly outside its image of 40x30"],
    ),
    "fractions": (fractions, ["annotations/train.json: every box lies within 0..1", "multiply"]),
    "unknown category": (
        annotation(category_id=9),
        ["annotation 1", "category_id 9", "1 cat, 2 dog"],
    ),
    "unknown image": (annotation(image_id=9), ["annotation 1", "image_id 9"]),
    "image id twice": (same_image_id, ["image id 1 is given more than once"]),
    "annotation id twice": (annotation(id=2), ["annotation id 2 is given more than once"]),
    "file name twice": (image(file_name="2.jpg"), ["file name 2.jpg is given more than once"]),
    "leads out": (
        image(file_name="../../../x.jpg"),
        ["image 1", "'../../../x.jpg' leads out of the dataset's folder"],
    ),
    "absolute": (image(file_name="/etc/passwd"), ["image 1", "'/etc/passwd' leads out"]),
    "no file name": (
        lambda document: document["images"][0].pop("file_name"),
        ["image 1", "needs an id and a file_name"],
    ),
    "no boxes in train": (
        lambda document: document["annotations"].clear(),
        ["train split has no boxes"],
    ),
    "names differ by case": (category("Cat"), ["'cat' and 'Cat' differ only by case or space"]),
    "names differ by space": (category(" dog"), ["'dog' and ' dog' differ only by case or space"]),
    "name twice": (category("cat"), ["two categories are named 'cat'"]),
    "category id twice": (
        lambda document: document["categories"].append({"id": 1, "name": "emu"}),
        ["category id 1 is given twice"],
    ),
    "empty name": (category(""), ["empty name"]),
    "name is a number": (category(7), ["category at position 3", "a text as name"]),
    "no categories": (
        lambda document: document.pop("categories"),
        ["no list of objects under 'categories'"],
    ),
    "images is no list": (
        lambda document: document.update(images={}),
        ["no list of objects under 'images'"],
    ),
}

VOC = {
    "not XML": ("<name>cat</name>", "<name>cat<name>", ["Annotations/1.xml", "is not XML", "line"]),
    "not a number": (
        "<xmin>5</xmin>",
        "<xmin>five</xmin>",
        ["Annotations/1.xml object 1", "(class cat)", "not four numbers"],
    ),
    "corner missing": ("<xmin>5</xmin>", "", ["object 1", "not four numbers"]),
    "swapped corners": (
        "<xmin>5</xmin>",
        "<xmin>25</xmin>",
        ["Annotations/1.xml object 1 (class cat)", "ends before it begins"],
    ),
    "other XML": ("annotation>", "html>", ["Annotations/1.xml", "holds <html>"]),
    "no class": ("<name>cat</name>", "<name></name>", ["empty name"]),
    "class by space": (
        "<name>cat</name>",
        "<name>cat </name>",
        ["'cat' and 'cat ' differ only by case or space"],
    ),
    "other size": (
        "<width>40</width>",
        "<width>400</width>",
        ["JPEGImages/1.jpg (in Annotations/1.xml)", "400x30 is stated"],
    ),
    "width is no number": (
        "<width>40</width>",
        "<width>x</width>",
        ["Annotations/1.xml", "width 'x' is not a number"],
    ),
}

YOLO = {
    "words": ("cat 0.5 0.5 0.1 0.1", ["labels/train/1.txt line 2", "not a row of numbers"]),
    "too few": ("0 0.5 0.5 0.1", ["labels/train/1.txt line 2", "has 4 numbers"]),
    "a confidence": ("0 0.5 0.5 0.1 0.1 0.9", ["line 2", "has 6 numbers"]),
    "unknown class": ("5 0.5 0.5 0.1 0.1", ["line 2", "class 5 is not among the 2 names"]),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", ["line 2", "class 0.5"]),
    "pixels": ("0 20 15 10 10", ["line 2", "(class cat)", "not in fractions"]),
    "NaN": ("0 nan 0.5 0.1 0.1", ["line 2 (class cat)", "NaN"]),
    "outside": ("0 1.5 0.5 0.1 0.1", ["line 2 (class cat)", "wholly outside"]),
    "negative": ("0 0.5 0.5 -0.1 0.1", ["line 2 (class cat)", "ends before it begins"]),
}


def problems(folder: Path, cache: Path) -> list[str]:
    found = summarize_dataset(folder, cache)
    assert found["ok"] is (not found["problems"])
    with pytest.raises(DataError) as error:
        load_dataset(folder, cache)
    assert list(error.value.problems) == found["problems"]
    assert not (cache / "datasets").exists()
    return found["problems"]


def expect_only(found: list[str], words: list[str]) -> None:
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]
    assert "; " in found[0], "a problem says how to put it right"


def coco(folder: Path, *changes: Change) -> Path:
    write("coco", folder, ("cat", "dog"), SPLITS)
    file = folder / "annotations" / "train.json"
    document = json.loads(file.read_text())
    for change in changes:
        change(document)
    file.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(("change", "words"), COCO.values(), ids=COCO)
def test_bad_coco(tmp_path: Path, change: Change, words: list[str]) -> None:
    expect_only(problems(coco(tmp_path / "data", change), tmp_path / "cache"), words)


@pytest.mark.parametrize(("old", "new", "words"), VOC.values(), ids=VOC)
def test_bad_voc(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    write("voc", tmp_path / "data", ("cat", "dog"), SPLITS)
    file = tmp_path / "data" / "Annotations" / "1.xml"
    file.write_text(file.read_text().replace(old, new, 2 if old == "annotation>" else 1))
    expect_only(problems(tmp_path / "data", tmp_path / "cache"), words)


def test_voc_fractions_are_told_per_file(tmp_path: Path) -> None:
    write(
        "voc",
        tmp_path / "data",
        ("cat",),
        {
            **SPLITS,
            "val": [
                AnnotatedImage("3.jpg", picture(3), 40, 30, (Box((0.1, 0.2, 0.5, 0.9), "cat"),))
            ],
        },
    )
    expect_only(
        problems(tmp_path / "data", tmp_path / "cache"),
        ["Annotations/3.xml: every box lies within 0..1"],
    )


def test_voc_listed_picture_without_annotations(tmp_path: Path) -> None:
    write("voc", tmp_path / "data", ("cat", "dog"), SPLITS)
    (tmp_path / "data" / "Annotations" / "2.xml").unlink()
    expect_only(
        problems(tmp_path / "data", tmp_path / "cache"),
        ["ImageSets/Main/train.txt: 2 has no Annotations/2.xml"],
    )


@pytest.mark.parametrize(("line", "words"), YOLO.values(), ids=YOLO)
def test_bad_yolo_label(tmp_path: Path, line: str, words: list[str]) -> None:
    write("yolo", tmp_path / "data", ("cat", "dog"), SPLITS)
    (tmp_path / "data" / "labels" / "train" / "1.txt").write_text(f"0 0.3 0.3 0.2 0.2\n{line}\n")
    expect_only(problems(tmp_path / "data", tmp_path / "cache"), words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("names: [cat, dog\n", ["data.yaml: line", "is not YAML"]),
        ("train: images/train\n", ["data.yaml", "needs the class names"]),
        ("names: [cat, no]\n", ["data.yaml", "in quotes"]),
        ("names: {a: cat}\n", ["data.yaml", "number the classes"]),
        ("names: [cat, dog]\nnc: 3\n", ["data.yaml: nc says 3 classes and names has 2"]),
        ("names: [cat, cat]\n", ["data.yaml: two classes are named 'cat'"]),
        ("names: [cat, Cat]\n", ["'cat' and 'Cat' differ only by case"]),
        (
            "names: [cat, dog]\ntrain: images/train\nval: /nowhere/val\n",
            ["data.yaml val: '/nowhere/val' is not in the dataset's folder"],
        ),
    ],
)
def test_bad_yolo_settings(tmp_path: Path, settings: str, words: list[str]) -> None:
    write("yolo", tmp_path / "data", ("cat", "dog"), SPLITS)
    (tmp_path / "data" / "data.yaml").write_text(settings)
    expect_only(problems(tmp_path / "data", tmp_path / "cache"), words)


def test_yolo_label_without_its_picture(tmp_path: Path) -> None:
    write("yolo", tmp_path / "data", ("cat", "dog"), SPLITS)
    (tmp_path / "data" / "images" / "train" / "1.jpg").unlink()
    expect_only(
        problems(tmp_path / "data", tmp_path / "cache"),
        ["labels/train/1.txt", "image of this label file is missing"],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"images": [\n}', ["line 2 column 1", "not JSON"]), ("[]", ["not a JSON object"])],
)
def test_bad_json(tmp_path: Path, text: str, words: list[str]) -> None:
    (coco(tmp_path / "data") / "annotations" / "train.json").write_text(text)
    expect_only(problems(tmp_path / "data", tmp_path / "cache"), ["annotations/train.json", *words])


def test_annotation_files_whose_split_cannot_be_told(tmp_path: Path) -> None:
    folder = coco(tmp_path / "data") / "annotations"
    (folder / "train.json").rename(folder / "one.json")
    (folder / "val.json").rename(folder / "two.json")
    first = problems(tmp_path / "data", tmp_path / "cache")[0]
    assert first.startswith(
        "annotations/one.json, annotations/two.json: these annotation files name no split; "
    )


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_no_pictures(tmp_path: Path, format: str) -> None:
    write(format, tmp_path / "data", ("cat",), {"train": [], "val": []})
    expect_only(problems(tmp_path / "data", tmp_path / "cache"), ["there are no images"])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_pictures_that_are_cut_short_or_are_none(tmp_path: Path, kind: str) -> None:
    whole = picture(1, "JPEG") if kind == "JPEG" else picture(1, "PNG")
    if kind == "BMP":
        stream = io.BytesIO()
        Image.new("RGB", (40, 30)).save(stream, "BMP")
        whole = stream.getvalue()
    for content in (whole[: len(whole) - 40], whole[:30], b"", b"<html>not found</html>"):
        (tmp_path / "x.jpg").write_bytes(content)
        assert "cannot be read" in str(probe_image(tmp_path / "x.jpg").error)
    (tmp_path / "x.jpg").write_bytes(whole + b"trailing bytes")
    assert probe_image(tmp_path / "x.jpg").error is None


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut_short(tmp_path: Path) -> None:
    # An EXIF segment with a whole JPEG in it, right after the start of image.
    inner = b"Exif\0\0" + picture(1)
    whole = picture(2)
    content = whole[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + whole[2:]
    (tmp_path / "x.jpg").write_bytes(content[:-10])
    assert "cut short" in str(probe_image(tmp_path / "x.jpg").error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_that_opencv_loads(tmp_path: Path, kind: str, orientation: int) -> None:
    file = tmp_path / f"x.{kind.lower()}"
    file.write_bytes(picture(1, kind, orientation))
    found = probe_image(file)
    pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    assert (found.height, found.width) == pixels.shape[:2]
    assert found.turned == (orientation >= 5)


def test_boxes_of_a_picture_before_its_exif_rotation(tmp_path: Path) -> None:
    folder = coco(tmp_path / "data")
    (folder / "images" / "train" / "1.jpg").write_bytes(picture(1, orientation=6))
    expect_only(
        problems(folder, tmp_path / "cache"),
        ["images/train/1.jpg", "40x30 is stated", "EXIF", "turns it to 30x40"],
    )
    right = coco(tmp_path / "right", image(width=30, height=40))
    (right / "images" / "train" / "1.jpg").write_bytes(picture(1, orientation=6))
    assert load_dataset(right, tmp_path / "cache").repairs == {}


def test_a_flood_of_problems_is_told_in_a_hundred_lines(tmp_path: Path) -> None:
    write("yolo", tmp_path / "flood", ("cat",), {"train": SPLITS["val"], "val": SPLITS["val"]})
    (tmp_path / "flood" / "labels" / "train" / "3.txt").write_text("0\n" * 300)
    assert len(summarize_dataset(tmp_path / "flood", tmp_path / "cache")["problems"]) == 300
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path / "flood", tmp_path / "cache")
    assert len(error.value.problems) == 101
    assert "200 more" in error.value.problems[-1]


REPAIRS = {
    "box clipped to its image": annotation(bbox=[30, 20, 25, 25]),
    "box without extent dropped": annotation(bbox=[5, 5, 0, 4]),
    "box less than one pixel wide or high dropped": annotation(bbox=[5, 5, 0.5, 4]),
    "exact duplicate of a box dropped": lambda document: document["annotations"].append(
        {**document["annotations"][0], "id": 99}
    ),
    "missing or zero area computed from the box": annotation(area=0),
    "missing width or height read from the image": image(width=None),
}


@pytest.mark.parametrize(("sentence", "change"), REPAIRS.items())
def test_repairs(tmp_path: Path, sentence: str, change: Change) -> None:
    dataset = load_dataset(coco(tmp_path / "data", change), tmp_path / "cache")
    assert dataset.repairs == {sentence: 1}
    assert summarize_dataset(tmp_path / "data", tmp_path / "cache")["repairs"] == {sentence: 1}
    for entry in json.loads(dataset.splits["train"].annotations.read_text())["annotations"]:
        x, y, width, height = entry["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 40
        assert y + height <= 30
        assert entry["area"] == width * height > 0


ODD = (
    None,
    [],
    {},
    "x",
    "",
    -1,
    0.5,
    True,
    float("inf"),
    float("nan"),
    10**400,
    "a\0b",
    "a" * 5000,
    [[1]],
    ["1", None, {}, 4],
)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
def test_no_value_in_a_coco_file_breaks_the_check(tmp_path: Path, value: object) -> None:
    folder = coco(tmp_path / "data")
    file = folder / "annotations" / "train.json"
    good = json.loads(file.read_text())
    for kind in ("images", "annotations", "categories"):
        for key in (*good[kind][0], "supercategory"):
            document = json.loads(json.dumps(good))
            document[kind][0][key] = value
            file.write_text(json.dumps(document))
            summarize_dataset(folder, tmp_path / "cache")
        file.write_text(json.dumps({**good, kind: value}))
        summarize_dataset(folder, tmp_path / "cache")


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    def ruin(document: dict) -> None:
        document["images"][0]["file_name"] = "gone.jpg"
        document["images"][1]["width"] = 41
        document["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
        document["annotations"][1]["category_id"] = 9
        document["annotations"][2]["bbox"] = [90, 90, 5, 5]
        document["categories"].append({"id": 3, "name": "DOG"})

    folder = coco(tmp_path / "data", ruin)
    (folder / "annotations" / "val.json").write_text("{")
    found = "\n".join(problems(folder, tmp_path / "cache"))
    assert len(found.splitlines()) == 7
    for words in (
        "gone.jpg",
        "41x30",
        "NaN",
        "category_id 9",
        "wholly outside",
        "'dog' and 'DOG'",
        "val.json: line 1",
    ):
        assert words in found

"""Files of small datasets as tests lay them out, and what is read of them.

Images differ in content, so that a wrong one shows.
"""

import json
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from small_datasets import HEIGHT, WIDTH, encode_image

from detreg.data.findings import list_problems
from detreg.data.formats import read

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

VOC_FILES: Files = {
    "Annotations/my photo (1).xml": xml("cat"),
    "Annotations/sub/b.xml": xml("dog"),
    "JPEGImages/my photo (1).png": draw(1),
    "JPEGImages/sub/b.png": draw(2),
}
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

"""Builds datasets as tools write them, from parts that can be combined.

A dataset is a `Files`: the content of each file by its path. A builder takes photos and says where
their files go and how they are named; functions from `Files` to `Files` then move, rename or
re-encode them. Photos are drawn, so that nothing needs to be downloaded.
"""

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH = 120
HEIGHT = 80

Files = dict[str, bytes]
"""The content of each file by its path, relative to the dataset's folder."""

Document = dict[str, Any]
"""A COCO document, as it goes into JSON."""


@dataclass(frozen=True)
class Thing:
    """A labeled object, with its corners in pixels."""

    label: str
    corners: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True)
class Photo:
    """An image with what is on it.

    number: from it the pixels are drawn, so that two numbers are two contents.
    kind: the format of the file, by its name in Pillow.
    data: the bytes of the file where they are not drawn.
    """

    number: int
    split: str
    things: tuple[Thing, ...]
    kind: str = "JPEG"
    data: bytes = b""

    @property
    def stem(self) -> str:
        """The name of the file without its extension."""
        return f"p{self.number}"

    @property
    def name(self) -> str:
        """The name of the file."""
        suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}
        return f"{self.stem}.{suffix[self.kind]}"

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        return self.data or draw(self.number, self.kind)


Naming = Callable[[Photo], str]
"""Gives each photo a path or a name."""


@cache
def draw(number: int, kind: str = "JPEG") -> bytes:
    """Return an image file of colored blocks that no other number has."""
    colors = random.Random(number).randbytes(12 * 8 * 3)
    image = Image.frombytes("RGB", (12, 8), colors).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return encode(image, kind)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the file of an image."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


CLASSES = ("cat", "dog")


def make_photo(number: int, split: str) -> Photo:
    """Return a photo of a cat and a dog, elsewhere on each photo."""
    cat = Thing("cat", (10 + number, 8, 40 + number, 38))
    dog = Thing("dog", (60, 20 + number, 100, 60 + number))
    return Photo(number, split, (cat, dog))


TRAIN = tuple(make_photo(number, "train") for number in range(4))
VAL = tuple(make_photo(number, "val") for number in (4, 5))
TEST = (make_photo(6, "test"),)
PHOTOS = TRAIN + VAL


def select(photos: Sequence[Photo], split: str) -> list[Photo]:
    """Return the photos of a split."""
    return [photo for photo in photos if photo.split == split]


def list_splits(photos: Sequence[Photo]) -> list[str]:
    """Return the splits of photos in their order."""
    return list(dict.fromkeys(photo.split for photo in photos))


# Where images go.


def at(template: str) -> Naming:
    """Return the naming by a template of {name}, {stem}, {split} and {number}."""
    return lambda photo: template.format(
        name=photo.name, stem=photo.stem, split=photo.split, number=photo.number
    )


# Where files go unless somebody says otherwise, and the names of images alone.
BY_NAME = at("{name}")
_IN_IMAGES = at("images/{split}/{name}")
_IN_LABELS = at("labels/{split}/{stem}.txt")
_IN_ANNOTATIONS = at("Annotations/{stem}.xml")
_IN_JPEG_IMAGES = at("JPEGImages/{name}")
_BY_STEM = at("{stem}")


def put_images(photos: Sequence[Photo], place: Naming) -> Files:
    """Return the image files of photos."""
    return {place(photo): photo.content for photo in photos}


# COCO.


def make_coco(
    photos: Sequence[Photo], name: Naming = BY_NAME, classes: Sequence[str] = CLASSES
) -> Document:
    """Return a COCO document."""
    annotations: list[Document] = []
    for photo in photos:
        for thing in photo.things:
            x1, y1, x2, y2 = thing.corners
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo.number + 1,
                    "category_id": classes.index(thing.label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [],
                    "iscrowd": int(thing.crowd),
                }
            )
    images = [
        {"id": photo.number + 1, "file_name": name(photo), "width": WIDTH, "height": HEIGHT}
        for photo in photos
    ]
    categories = [{"id": number, "name": label} for number, label in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def to_json(document: object) -> bytes:
    """Return a document as a JSON file."""
    return json.dumps(document).encode()


Change = Callable[[Document], object]
"""Changes a COCO document in place."""


def change_annotations(change: Change) -> Change:
    """Return the change that applies another to each annotation."""
    return lambda document: [change(entry) for entry in document["annotations"]]


def build_coco(
    photos: Sequence[Photo] = PHOTOS,
    annotations: str = "annotations/instances_{split}.json",
    place: Naming = _IN_IMAGES,
    name: Naming = BY_NAME,
    change: Change | None = None,
    classes: Sequence[str] = CLASSES,
) -> Files:
    """Return a COCO dataset.

    annotations: the annotation file; one for each split where it has {split} in it.
    change: applied to each document.
    """
    groups = {
        annotations.format(split=split): select(photos, split) for split in list_splits(photos)
    }
    if "{split}" not in annotations:
        groups = {annotations: list(photos)}

    files = put_images(photos, place)
    for path, members in groups.items():
        document = make_coco(members, name, classes)
        if change is not None:
            change(document)
        files[path] = to_json(document)
    return files


# Pascal VOC.


def make_voc(
    photo: Photo, filename: str | None = None, extra: str = "", difficult: str = "0"
) -> bytes:
    """Return the XML file of a photo.

    filename: what it names as its image, by default the name of the photo; empty for none.
    extra: elements behind it.
    difficult: the text of <difficult> for things that are no crowd.
    """
    stated = photo.name if filename is None else filename
    parts = ["<annotation>", f"<filename>{stated}</filename>" if stated else "", extra]
    size = f"<width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth>"
    parts.append(f"<size>{size}</size>")
    for thing in photo.things:
        corners = "".join(
            f"<{key}>{value:g}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), thing.corners, strict=True)
        )
        flag = "1" if thing.crowd else difficult
        parts.append(
            f"<object><name>{thing.label}</name><difficult>{flag}</difficult>"
            f"<bndbox>{corners}</bndbox></object>"
        )
    return "\n".join([*parts, "</annotation>"]).encode()


def build_voc(
    photos: Sequence[Photo] = PHOTOS,
    annotations: Naming = _IN_ANNOTATIONS,
    place: Naming = _IN_JPEG_IMAGES,
    lists: str | None = "ImageSets/Main/{split}.txt",
    line: Naming = _BY_STEM,
    xml: Callable[[Photo], bytes] = make_voc,
) -> Files:
    """Return a VOC dataset.

    lists: the list of each split; None for no lists.
    line: what a list says of a photo.
    """
    files = put_images(photos, place)
    for photo in photos:
        files[annotations(photo)] = xml(photo)
    if lists:
        for split in list_splits(photos):
            text = "".join(f"{line(photo)}\n" for photo in select(photos, split))
            files[lists.format(split=split)] = text.encode()
    return files


# YOLO.


def make_labels(photo: Photo, classes: Sequence[str] = CLASSES) -> bytes:
    """Return the label file of a photo."""
    lines = []
    for thing in photo.things:
        numbers = " ".join(f"{value:.6f}" for value in find_center(thing))
        lines.append(f"{classes.index(thing.label)} {numbers}\n")
    return "".join(lines).encode()


def find_center(thing: Thing) -> tuple[float, float, float, float]:
    """Return center x, center y, width and height of a thing in fractions of its image."""
    x1, y1, x2, y2 = thing.corners
    return (
        (x1 + x2) / 2 / WIDTH,
        (y1 + y2) / 2 / HEIGHT,
        (x2 - x1) / WIDTH,
        (y2 - y1) / HEIGHT,
    )


DATA_YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def build_yolo(
    photos: Sequence[Photo] = PHOTOS,
    place: Naming = _IN_IMAGES,
    labels: Naming = _IN_LABELS,
    settings: Mapping[str, str] | str | None = DATA_YAML,
    text: Callable[[Photo], bytes] = make_labels,
) -> Files:
    """Return a YOLO dataset.

    settings: the content of data.yaml, or of several files by their paths.
    text: gives the label file of each photo.
    """
    files = put_images(photos, place)
    for photo in photos:
        files[labels(photo)] = text(photo)
    named = {"data.yaml": settings} if isinstance(settings, str) else settings or {}
    for path, content in named.items():
        files[path] = content.encode()
    return files


def make_list(photos: Sequence[Photo], line: Naming, end: str = "\n") -> str:
    """Return the text of a list of photos."""
    return "".join(line(photo) + end for photo in photos)


# What happens to files on their way.


def wrap(files: Files, folder: str) -> Files:
    """Return the files inside another folder."""
    return {f"{folder}/{path}": content for path, content in files.items()}


def rename(files: Files, old: str, new: str) -> Files:
    """Return the files with a part of their paths replaced."""
    return {path.replace(old, new): content for path, content in files.items()}


def rewrite(files: Files, suffix: str, change: Callable[[bytes], bytes]) -> Files:
    """Return the files with the content of those with a suffix changed."""
    return {
        path: change(content) if path.endswith(suffix) else content
        for path, content in files.items()
    }


def drop(files: Files, *paths: str) -> Files:
    """Return the files without some, each of which must be there."""
    assert all(path in files for path in paths)
    return {path: content for path, content in files.items() if path not in paths}


def to_crlf(content: bytes) -> bytes:
    """Return a text with the line ends of Windows."""
    return content.replace(b"\n", b"\r\n")


def add_bom(content: bytes) -> bytes:
    """Return a text with the byte order mark that Windows puts before UTF-8."""
    return b"\xef\xbb\xbf" + content


# Onto the disk.


def write_files(folder: Path, files: Files) -> Path:
    """Write files into a folder, in the order in which they come, and return it."""
    made: set[Path] = set()
    for name, content in files.items():
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(content)
    return folder


def write_zip(path: Path, files: Files) -> Path:
    """Write files into a zip archive, with their names as they are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            # Python turns the separators of its own system into slashes, but not those of others.
            entry.filename = name
            archive.writestr(entry, content)
    return path


def write_tar(path: Path, files: Files) -> Path:
    """Write files into a compressed tar archive."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path

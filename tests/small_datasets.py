"""Small datasets that the tests of detreg.data write, break and read."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from detreg.data.boxes import Box
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage

WIDTH = 40
HEIGHT = 30

Document = dict[str, Any]
"""A COCO document, as JSON gives it."""

Change = Callable[[Document], object]
"""Changes a COCO document in place."""


def encode_image(
    shade: int, kind: str = "PNG", size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1
) -> bytes:
    """Return an image file of one color; two shades are two contents.

    kind: the format, by its name in Pillow.
    orientation: the value of EXIF's orientation.
    """
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation

    stream = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 7)).save(stream, kind, exif=exif)
    return stream.getvalue()


def make_image(shade: int, *boxes: Box) -> AnnotatedImage:
    """Return an image of one color with boxes."""
    return AnnotatedImage(f"{shade:03}.png", encode_image(shade), WIDTH, HEIGHT, boxes)


def make_labeled_image(shade: int, *labels: str) -> AnnotatedImage:
    """Return an image with a box for each label, each of 10 x 15 pixels."""
    boxes = []
    for position, label in enumerate(labels):
        x = 4.0 * position
        boxes.append(Box((x, 5.0, x + 10, 20.0), label))
    return make_image(shade, *boxes)


def write_pets(folder: Path, format: str = "coco") -> Path:
    """Write a dataset of cats and dogs with four images in three splits, and return its folder."""
    splits = {
        "train": [make_labeled_image(1, "cat", "dog"), make_labeled_image(2, "cat")],
        "val": [make_labeled_image(3, "dog")],
        "test": [make_labeled_image(4)],
    }
    write(format, folder, ("cat", "dog"), splits)
    return folder


def read_json(path: Path) -> Document:
    """Return the JSON document in a file."""
    document: Document = json.loads(path.read_text())
    return document


def edit_json(path: Path, change: Change) -> None:
    """Apply a change to the JSON document in a file."""
    document = read_json(path)
    change(document)
    path.write_text(json.dumps(document))

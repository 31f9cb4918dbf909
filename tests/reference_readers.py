"""Reads datasets of known layouts by the letter, to compare with what detreg reads.

Each reader is short because it knows where everything lies. What may be read in several ways is
`UnclearError`; what must not be read at all is `BadDatasetError`.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath

from dataset_builders import HEIGHT, WIDTH, Files
from dataset_readings import ReadBox, ReadSplits, merge_splits
from PIL import Image

SIZE = (WIDTH, HEIGHT)
SPLITS = ("train", "val", "test")


class BadDatasetError(Exception):
    """The files say what must not be accepted."""


class UnclearError(Exception):
    """The files say what may be understood in several ways."""


@dataclass(frozen=True)
class Reference:
    """What files say: classes in order, and the boxes of each image by the hash of its content."""

    classes: tuple[str, ...]
    splits: ReadSplits


Corners = tuple[float, float, float, float]


def repair_box(label: str, corners: Corners, crowd: bool, size: tuple[int, int]) -> ReadBox | None:
    """Return the box inside its image, None where it is dropped as it is too small."""
    width, height = size
    if not all(math.isfinite(value) for value in corners):
        raise BadDatasetError(f"{corners} is not finite")
    x1, y1, x2, y2 = (round(value, 3) + 0.0 for value in corners)
    if x2 < x1 or y2 < y1:
        raise BadDatasetError(f"{corners} ends before it begins")
    if x1 == x2 or y1 == y2:
        return None
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise BadDatasetError(f"{corners} is outside")
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if round(x2 - x1, 3) < 1 or round(y2 - y1, 3) < 1:
        return None
    return label, x1, y1, x2, y2, crowd


def finish(classes: Sequence[str], splits: dict[str, dict[str, list[ReadBox | None]]]) -> Reference:
    """Return the reference of splits with their boxes repaired and each once."""
    finished: ReadSplits = {}
    for split, images in splits.items():
        if images:
            finished[split] = {}
            for image, boxes in images.items():
                finished[split][image] = sorted({box for box in boxes if box is not None})
    labels = {split: _list_labels(images) for split, images in finished.items()}
    if not any(labels.values()):
        raise BadDatasetError("no box at all")
    if len(finished) == 1:
        return Reference(tuple(classes), merge_splits(finished))
    if "train" not in finished:
        raise BadDatasetError("no train split")
    if "val" not in finished:
        # It is cut from train; test stays what it is.
        raise UnclearError("val is cut from train")
    if labels["train"] and len(finished["train"]) < len(set().union(*labels.values())):
        raise UnclearError("train has fewer images than there are classes: a warning")
    if not labels["train"] or labels["val"] - labels["train"]:
        raise BadDatasetError(f"val has {labels['val']} and train {labels['train']}")
    return Reference(tuple(classes), finished)


def _list_labels(images: dict[str, list[ReadBox]]) -> set[str]:
    return {box[0] for boxes in images.values() for box in boxes if not box[5]}


def add_image(
    images: dict[str, list[ReadBox | None]], content: bytes, boxes: list[ReadBox | None]
) -> None:
    key = sha256(content).hexdigest()
    if key in images:
        raise UnclearError("the same image twice")
    images[key] = boxes


def find_image(files: Files, folder: str, name: str) -> bytes:
    """Return the image that a name means: itself, or the only one of its stem in the folder."""
    path = f"{folder}/{name}"
    if path in files:
        return files[path]
    stem = get_stem(name)
    found = [path for path in files if is_image(path) and get_stem(path) == stem]
    if not found:
        raise BadDatasetError(f"no image {name}")
    if len(found) > 1:
        raise UnclearError(f"several images {name}")
    return files[found[0]]


def read_size(content: bytes) -> tuple[int, int]:
    """Return width and height of an image by its header, which is all that the check looks at."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except OSError as error:
        raise BadDatasetError("no image") from error


def is_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".png"))


def get_stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem.strip().casefold()


def check_size(value: object, actual: int) -> None:
    if value is None or value == 0:
        return
    if isinstance(value, str) or value is False or value is True:
        raise UnclearError(f"the size {value!r}")
    if not isinstance(value, int | float) or round(value) != actual:
        raise BadDatasetError(f"the size {value!r}")


def read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadDatasetError(f"{text!r} is no number") from error

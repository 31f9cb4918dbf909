"""Reads a dataset through detreg, as plain values that can be compared with what was built."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataset_builders import PHOTOS, Photo, list_splits, select

from detreg.data.dataset import load_dataset
from detreg.errors import DetregError

ReadBox = tuple[str, float, float, float, float, bool]
"""Label, corners in pixels, and whether it is a region to ignore."""

ReadSplits = dict[str, dict[str, list[ReadBox]]]
"""The boxes of each image by split and by the hash of its content, whatever its name is."""

ANY = "any"
"""A split that stands for all: which image is in which does not matter."""


@dataclass(frozen=True)
class Reading:
    """What was read.

    refusal: the message of the error; the rest is then empty.
    told: everything that was said of an accepted dataset.
    """

    classes: tuple[str, ...] = ()
    splits: Mapping[str, Mapping[str, Sequence[ReadBox]]] | None = None
    digest: str = ""
    told: str = ""
    refusal: str = ""


def read_dataset(path: Path, cache_folder: Path) -> Reading:
    """Return what detreg reads. Any exception but DetregError is a bug and goes through."""
    try:
        dataset = load_dataset(path, cache_folder)
    except DetregError as error:
        return Reading(refusal=str(error))

    splits: ReadSplits = {}
    for name, split in dataset.splits.items():
        document = json.loads(split.annotations.read_text())
        labels = {category["id"]: category["name"] for category in document["categories"]}
        images = {}
        for image in document["images"]:
            content = (split.annotations.parent / image["file_name"]).read_bytes()
            images[image["id"]] = hashlib.sha256(content).hexdigest()
        boxes: dict[str, list[ReadBox]] = {content_hash: [] for content_hash in images.values()}
        for annotation in document["annotations"]:
            x, y, width, height = annotation["bbox"]
            corners = (x, y, x + width, y + height)
            box = make_box(labels[annotation["category_id"]], corners, bool(annotation["iscrowd"]))
            boxes[images[annotation["image_id"]]].append(box)
        splits[name] = {content_hash: sorted(group) for content_hash, group in boxes.items()}
    return Reading(dataset.classes, splits, dataset.digest, "\n".join(dataset.repairs))


def make_box(label: str, corners: Sequence[float], crowd: bool = False) -> ReadBox:
    """Return a box with corners as exact as fractions of six decimals are."""
    x1, y1, x2, y2 = (round(value, 2) + 0.0 for value in corners)
    return label, x1, y1, x2, y2, crowd


def expect(photos: Sequence[Photo] = PHOTOS) -> ReadSplits:
    """Return the splits as photos name them."""
    return {split: _list_boxes(select(photos, split)) for split in list_splits(photos)}


def expect_any(photos: Sequence[Photo] = PHOTOS) -> ReadSplits:
    """Return all photos in one: they are in splits, no matter which."""
    return {ANY: _list_boxes(photos)}


def merge_splits(splits: Mapping[str, Mapping[str, Sequence[ReadBox]]]) -> ReadSplits:
    """Return the splits as one."""
    merged: dict[str, list[ReadBox]] = {}
    for images in splits.values():
        merged.update({content_hash: list(boxes) for content_hash, boxes in images.items()})
    return {ANY: merged}


def _list_boxes(photos: Sequence[Photo]) -> dict[str, list[ReadBox]]:
    return {
        _hash(photo): sorted(
            make_box(thing.label, thing.corners, thing.crowd) for thing in photo.things
        )
        for photo in photos
    }


@cache
def _hash(photo: Photo) -> str:
    return hashlib.sha256(photo.content).hexdigest()

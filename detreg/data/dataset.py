"""Loads a dataset of any format into one shape: a canonical COCO file per split, which training and scoring read.

    data, in any format -> formats.read -> check -> canonical copy -> Dataset

Canonical means: image ids 1, 2, ... in the order of the pictures' paths, category ids 1, 2, ... in the order of `Dataset.classes` in every
split, boxes that lie inside their picture, and `file_name` the absolute path of the picture where the user keeps it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from detreg.data import formats
from detreg.data.check import Report, boxes_per_class, check
from detreg.data.formats.coco import box_entry
from detreg.data.raw import Box, DatasetImage
from detreg.data.source import SAMPLE, Source, open_source, resolve_cache_folder
from detreg.errors import DataError

MOST_TOLD = 100


@dataclass(frozen=True)
class Split:
    """One split of a dataset; `boxes` and `boxes_per_class` (in the order of the classes) leave crowd regions out."""

    name: str
    annotations: Path
    images: int
    boxes: int
    boxes_per_class: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A checked dataset with its canonical copy in `folder`.

    format: "coco", "roboflow", "voc", "yolo" or "sample".
    splits: always "train" and "val", and "test" where the dataset has one.
    digest: 16 hex digits over classes, splits, picture files and boxes; the same wherever the dataset lies and whatever its format.
    repairs: what was mended in the canonical copy, with how often.
    """

    name: str
    format: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    digest: str
    folder: Path
    repairs: Mapping[str, int]


def load_dataset(data: str | Path, cache: str | Path | None = None) -> Dataset:
    """Checks the dataset at `data` ("sample", a folder, or a zip or tar of one) and writes its canonical copy into the cache.

    Raises DataError with every problem of the dataset, NotFoundError where there is none.
    """
    root = resolve_cache_folder(cache)
    source = open_source(data, root)
    raw = formats.read(source.folder)
    found = check(raw)
    if found.problems:
        raise DataError(_shortened(found.problems, data))
    digest = _digest(raw.classes, found.splits)
    folder = root / "datasets" / f"{digest}-{_place(found.splits)}"
    splits = {
        name: _write_split(name, folder, pictures, raw.classes)
        for name, pictures in found.splits.items()
    }
    return Dataset(
        name=source.name,
        format=_format(source, raw.format),
        classes=raw.classes,
        splits=MappingProxyType(splits),
        digest=digest,
        folder=folder,
        repairs=MappingProxyType(dict(found.repairs)),
    )


def summarize_dataset(data: str | Path, cache: str | Path | None = None) -> dict[str, Any]:
    """What `detreg check` tells of the dataset at `data`, as plain values for JSON; writes no canonical copy.

    Keys: ok, format (None where none is recognised), classes, splits ({name: {images, boxes, boxes_per_class: {class: boxes}}}), problems,
    repairs ({what: how often}), digest (None unless ok). Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    try:
        source = open_source(data, resolve_cache_folder(cache))
        raw = formats.read(source.folder)
    except DataError as error:
        return _summary(None, (), Report(error.problems, {}, {}))
    return _summary(_format(source, raw.format), raw.classes, check(raw))


def _summary(format: str | None, classes: tuple[str, ...], found: Report) -> dict[str, Any]:
    splits = {}
    for name, pictures in found.splits.items():
        counts = boxes_per_class(pictures, classes)
        splits[name] = {
            "images": len(pictures),
            "boxes": sum(counts),
            "boxes_per_class": dict(zip(classes, counts, strict=True)),
        }
    return {
        "ok": not found.problems,
        "format": format,
        "classes": list(classes),
        "splits": splits,
        "problems": list(found.problems),
        "repairs": dict(found.repairs),
        "digest": None if found.problems else _digest(classes, found.splits),
    }


def _shortened(problems: Sequence[str], data: str | Path) -> list[str]:
    """At most `MOST_TOLD` problems: one mistake in a script can make as many as there are boxes."""
    more = len(problems) - MOST_TOLD
    return [
        *problems[:MOST_TOLD],
        *(
            [f"{data}: and {more} more; `detreg check {data} --json` tells all of them"]
            if more > 0
            else []
        ),
    ]


def _format(source: Source, format: str) -> str:
    return SAMPLE if source.drawn else format


def _digest(classes: Sequence[str], splits: Mapping[str, Sequence[DatasetImage]]) -> str:
    """Content only: no path enters, and everything that a file may list in another order is sorted."""
    content = {
        name: sorted(
            (picture.sha256, sorted(map(_box_key, picture.boxes))) for picture in splits[name]
        )
        for name in sorted(splits)
    }
    return hashlib.sha256(json.dumps([list(classes), content]).encode()).hexdigest()[:16]


def _box_key(box: Box) -> tuple[str, list[str], bool]:
    return box.label, [f"{value:.2f}" for value in box.corners], box.crowd


def _place(splits: Mapping[str, Sequence[DatasetImage]]) -> str:
    """Tells apart the canonical copies of one dataset that lies at two places: they name different paths."""
    paths = sorted(str(picture.path) for pictures in splits.values() for picture in pictures)
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]


def _write_split(
    name: str, folder: Path, pictures: Sequence[DatasetImage], classes: Sequence[str]
) -> Split:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = {label: number for number, label in enumerate(classes, start=1)}
    for number, picture in enumerate(pictures, start=1):
        images.append(
            {
                "id": number,
                "file_name": str(picture.path),
                "width": picture.width,
                "height": picture.height,
            }
        )
        for box in picture.boxes:
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": categories[box.label],
                **box_entry(box),
            }
            annotations.append(entry)
    listed = [{"id": number, "name": label} for label, number in categories.items()]
    file = folder / f"{name}.json"
    _write_whole(
        file, json.dumps({"images": images, "annotations": annotations, "categories": listed})
    )
    counts = boxes_per_class(pictures, classes)
    return Split(name, file, len(images), sum(counts), counts)


def _write_whole(file: Path, text: str) -> None:
    """Writes beside the file and renames: a reader, such as another training on the same dataset, never sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as temporary:
        part = Path(temporary) / file.name
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)

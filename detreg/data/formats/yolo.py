"""YOLO (https://docs.ultralytics.com/datasets/detect): data.yaml, images, a label file per image.

Accepted: the folders that data.yaml names, or `images/train/`, `images/val/` ... An image without
a label file shows no object.

This module knows which images belong to which split; yolo_settings.py parses data.yaml, and
yolo_labels.py the label file of one image.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path

import yaml

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.lookup import ImageLocator, find_images
from detreg.data.formats.yolo_labels import (
    find_label_file,
    format_labels,
    read_label_file,
)
from detreg.data.formats.yolo_settings import YoloSettings, find_settings_file, read_settings
from detreg.data.images import AnnotatedImage
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import parse_split
from detreg.documents import read_text
from detreg.errors import quote
from detreg.files import exists

EXPECTED_FILES = "YOLO (data.yaml with names)"


def detect(folder: Path) -> bool:
    """Whether `folder` holds data.yaml, or another YAML file beside a folder of labels."""
    return find_settings_file(folder) is not None


def read(folder: Path) -> RawDataset:
    """Read data.yaml, find the images of each split, and read their label files."""
    problems = ProblemCollector()
    classes: tuple[str, ...] = ()
    splits: dict[str, list[ImageRecord]] = {}

    path = find_settings_file(folder) or folder / "data.yaml"
    with problems.catch_bad_entry(path.name):
        settings = read_settings(path, problems)
        classes = tuple(settings.classes.values())
        for split, images in _find_split_images(folder, settings, problems).items():
            splits[split] = []
            for image in images:
                name = image.relative_to(folder).as_posix()
                of_image = problems.for_image(name)
                with of_image.catch_bad_entry(name):
                    record = read_label_file(image, folder, settings.classes, of_image)
                    splits[split].append(record)

    _check_orphaned_labels(folder, splits, problems)
    return RawDataset("yolo", folder, classes, splits, tuple(problems.findings), fractions=True)


def write(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> None:
    """Write `data.yaml`, `images/<split>/` and `labels/<split>/`.

    Raises BadEntryError for a crowd region, which the format does not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {split: f"images/{split}" for split in splits}
    text = yaml.safe_dump({**settings, "names": list(classes)}, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")

    for split, images in splits.items():
        image_folder = folder / "images" / split
        label_folder = folder / "labels" / split
        image_folder.mkdir(parents=True, exist_ok=True)
        label_folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            (image_folder / image.file_name).write_bytes(image.content)
            labels = format_labels(image, classes)
            label_name = f"{Path(image.file_name).stem}.txt"
            (label_folder / label_name).write_text(labels, encoding="utf-8")


def _find_split_images(
    folder: Path, settings: YoloSettings, problems: ProblemCollector
) -> dict[str, list[Path]]:
    """Return the images of each split.

    data.yaml decides where it names any split; else the names of folders do; else all images are
    one pool.
    """
    if settings.places:
        return _find_named_images(folder, settings, problems)

    # A folder in images/ comes later and replaces one of the same split beside it.
    splits = {}
    for base in (folder, folder / "images"):
        for child in sorted(base.glob("*/")):
            split = parse_split(child.name)
            if split is not None:
                splits[split] = find_images(child)
    return splits or {POOL: find_images(folder)}


def _find_named_images(
    folder: Path, settings: YoloSettings, problems: ProblemCollector
) -> dict[str, list[Path]]:
    """Return the images of each split at the places that data.yaml names."""
    found: dict[str, list[Path]] = {}
    for split, places in settings.places.items():
        where = f"{settings.source} {split}"
        for place in places:
            with problems.catch_bad_entry(where):
                path = _resolve_place(place, folder, settings.path)
                if path is not None:
                    found.setdefault(split, []).extend(_list_images(path, folder, problems))
                elif split == "test":
                    # Roboflow names a test split whether the export has one or not.
                    problems.add(
                        FindingKind.MISSING_PATH,
                        Severity.NOTE,
                        where,
                        "test split that data.yaml names but the folder lacks left out",
                    )
                else:
                    raise BadEntryError(
                        FindingKind.MISSING_PATH,
                        f"{quote(place)} is not in the dataset's folder; "
                        "copy the images into it and name them relative to it",
                    )

    # Two places may hold the same image, such as a folder and a list of files in it.
    return {split: sorted(set(images)) for split, images in found.items()}


def _resolve_place(place: str, folder: Path, base: str) -> Path | None:
    """Return the path inside the folder that a place in data.yaml means, None where there is none.

    base: the value of `path` in data.yaml, which may be empty.

    Such files often hold the paths of the machine that they come from. Where a place does not
    exist as it stands, it is looked for without a leading `/` or `..`.
    """
    parts = Path(place.replace("\\", "/")).parts
    inner_place = "/".join(dropwhile(lambda part: part in ("..", "/"), parts))

    for name in (place, inner_place):
        for root in (folder / base, folder):
            candidate = Path(os.path.normpath(root / name))
            if candidate.is_relative_to(folder) and exists(candidate):
                return candidate
    return None


def _list_images(place: Path, folder: Path, problems: ProblemCollector) -> Iterator[Path]:
    """Yield the images in a folder, or those that a text file lists, one a line."""
    if place.is_dir():
        yield from find_images(place)
        return

    text = read_text(place)
    source = place.relative_to(folder).as_posix()
    locator = ImageLocator(folder, (folder, place.parent))
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if name:
            with problems.catch_bad_entry(f"{source} line {number}"):
                yield locator.locate(name)


def _check_orphaned_labels(
    folder: Path, splits: Mapping[str, Sequence[ImageRecord]], problems: ProblemCollector
) -> None:
    """Add an error for each label file without an image.

    In this format images are looked up first, so nothing else would notice that one is gone.
    """
    expected = {find_label_file(image, folder) for image in find_images(folder)}
    for records in splits.values():
        expected.update(folder / record.source for record in records)

    for path in sorted(folder.glob("labels/**/*.txt")):
        # Labeling tools keep a list of the classes beside the labels.
        if path in expected or path.name == "classes.txt":
            continue
        source = path.relative_to(folder).as_posix()
        problems.for_image(source).add_error(
            FindingKind.MISSING_IMAGE,
            source,
            "the image of this label file is missing; add it or remove the labels",
        )

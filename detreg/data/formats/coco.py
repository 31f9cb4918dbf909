"""COCO's detection format (https://cocodataset.org/#format-data), also as Roboflow exports it.

Accepted: `annotations/*.json`, `*.json`, or a file in a folder per split
(`train/_annotations.coco.json`). Images lie beside the file, in the folder, in `images/`, or in a
folder named after the split or the file (`train2017/`, `images/val/`).

This module knows which files belong to which split; coco_file.py parses one of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.data.findings import FindingKind, ProblemCollector
from detreg.data.formats.coco_entries import (
    CocoEntry,
    make_annotation,
    make_categories,
    make_image_entry,
)
from detreg.data.formats.coco_file import read_annotation_file
from detreg.data.formats.lookup import ImageLocator, find_duplicates
from detreg.data.images import AnnotatedImage
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import SPLITS, parse_split

EXPECTED_FILES = "COCO (annotations/*.json, *.json or train/_annotations.coco.json)"

_ROBOFLOW_NAME = "_annotations.coco.json"
_SPLIT_ORDER = (*SPLITS, POOL)


@dataclass(frozen=True)
class _AnnotationFile:
    """One annotation file; `source` is its path relative to the dataset's folder."""

    path: Path
    source: str
    split: str


def detect(folder: Path) -> bool:
    """Whether `folder` holds annotation files where COCO or Roboflow puts them."""
    return bool(_find_annotation_files(folder))


def read(folder: Path) -> RawDataset:
    """Read every annotation file.

    Categories of several files are matched by name. Classes are in the order of the category ids
    of train's file, followed by those that only other files have.
    """
    problems = ProblemCollector()
    splits: dict[str, list[ImageRecord]] = {}
    # A dict keeps each name once, at the place where it came first.
    classes: dict[str, None] = {}

    paths = _find_annotation_files(folder)
    for file in _assign_splits(folder, paths, problems):
        locator = ImageLocator(folder, _find_image_roots(folder, file))
        with problems.catch_bad_entry(file.source):
            names, records = read_annotation_file(file.path, file.source, locator, problems)
            classes.update(dict.fromkeys(names))
            splits.setdefault(file.split, []).extend(records)

    is_roboflow = all(path.name == _ROBOFLOW_NAME for path in paths)
    return RawDataset(
        format="roboflow" if is_roboflow else "coco",
        folder=folder,
        classes=tuple(classes),
        splits=splits,
        findings=tuple(problems.findings),
    )


def write(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> None:
    """Write `annotations/<split>.json` and `images/<split>/`."""
    annotation_folder = folder / "annotations"
    annotation_folder.mkdir(parents=True, exist_ok=True)

    for split, images in splits.items():
        image_folder = folder / "images" / split
        image_folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            (image_folder / image.file_name).write_bytes(image.content)

        text = json.dumps(_make_document(images, classes), indent=1)
        (annotation_folder / f"{split}.json").write_text(text, encoding="utf-8")


def _make_document(
    images: Sequence[AnnotatedImage], classes: Sequence[str]
) -> dict[str, list[CocoEntry]]:
    """Return the content of one split's annotation file."""
    image_entries = []
    annotations: list[CocoEntry] = []
    for image_id, image in enumerate(images, start=1):
        entry = make_image_entry(image_id, image.file_name, image.width, image.height)
        image_entries.append(entry)
        for box in image.boxes:
            annotation_id = len(annotations) + 1
            category_id = classes.index(box.label) + 1
            annotations.append(make_annotation(annotation_id, image_id, category_id, box))

    return {
        "images": image_entries,
        "annotations": annotations,
        "categories": make_categories(classes),
    }


def _find_annotation_files(folder: Path) -> list[Path]:
    """Return the annotation files of the first layout that `folder` has."""
    found = []
    for child in sorted(folder.glob("*/")):
        if parse_split(child.name) is not None:
            found.extend(sorted(child.glob("*.json")))
    if not found:
        found = sorted(folder.glob("annotations/*.json"))
    if not found:
        found = sorted(folder.glob("*.json"))

    # COCO's own download has captions and keypoints beside the boxes.
    instances = [path for path in found if path.name.startswith("instances_")]
    return instances or found


def _assign_splits(
    folder: Path, paths: Sequence[Path], problems: ProblemCollector
) -> list[_AnnotationFile]:
    """Return the annotation files with their splits, train first.

    A file that names no split is the pool. Two files of one split are an error.
    """
    files = []
    for path in paths:
        source = path.relative_to(folder).as_posix()
        files.append(_AnnotationFile(path, source, _choose_split(folder, path)))

    for split in find_duplicates(file.split for file in files):
        sources = ", ".join(file.source for file in files if file.split == split)
        if split == POOL:
            advice = "name no split; put train, val or test into each name"
        else:
            advice = f"are all for {split}; merge them or keep one"
        problems.add_error(FindingKind.AMBIGUOUS_SPLIT, sources, f"these annotation files {advice}")

    return sorted(files, key=lambda file: (_SPLIT_ORDER.index(file.split), file.path))


def _choose_split(folder: Path, path: Path) -> str:
    """Return the split that the file's folder names, else the file itself, else `POOL`."""
    split_of_parent = None
    if path.parent != folder:
        split_of_parent = parse_split(path.parent.name)
    return split_of_parent or parse_split(path.stem) or POOL


def _find_image_roots(folder: Path, file: _AnnotationFile) -> tuple[Path, ...]:
    """Return the folders that a file's images may lie in, in the order to look.

    Folders that belong to this file or its split come first: two splits may use the same names.
    """
    children = []
    for base in (folder, folder / "images"):
        children.extend(sorted(base.glob("*/")))

    stem = file.path.stem.removeprefix("instances_")
    named_after_file = [child for child in children if child.name == stem]
    named_after_split = [child for child in children if parse_split(child.name) == file.split]

    beside_file = file.path.parent
    return (
        *named_after_file,
        *named_after_split,
        beside_file,
        beside_file / "images",
        beside_file / "data",
        folder,
        folder / "images",
        folder / "data",
    )

"""COCO's detection format (https://cocodataset.org/#format-data), also as Roboflow exports it.

A JSON file is known by its keys, wherever it lies. Images lie beside it, in a folder named after
the split or the file (`train2017/`, `images/val/`), or elsewhere in the dataset's folder.

coco_layout.py knows which files belong to which split, coco_file.py parses one of them, and
coco_batches.py merges those of one split.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.findings import ProblemCollector
from detreg.data.formats.coco_batches import Batch, merge_batches
from detreg.data.formats.coco_entries import (
    CocoEntry,
    make_annotation,
    make_categories,
    make_image_entry,
    make_segmentation,
)
from detreg.data.formats.coco_file import read_annotation_file
from detreg.data.formats.coco_layout import (
    AnnotationFile,
    assign_splits,
    find_annotation_files,
    find_image_roots,
    is_coco,
)
from detreg.data.formats.evidence import Evidence
from detreg.data.formats.file_index import Hint
from detreg.data.formats.lookup import ImageIndex, ImageLocator
from detreg.data.formats.tree import FileTree, get_folder
from detreg.data.images import AnnotatedImage
from detreg.data.outlines import Outline
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import choose_splits_by_folder

EXPECTED_FILES = "COCO (images, annotations and categories in .json, as annotations/*.json)"

_ROBOFLOW_NAME = "_annotations.coco.json"


def detect(tree: FileTree) -> Evidence:
    """Return whether there is a JSON file with COCO's keys."""
    is_found = any(is_coco(tree, path) for path in tree.select(".json"))
    return Evidence.SURE if is_found else Evidence.NONE


def read(tree: FileTree) -> RawDataset:
    """Read every annotation file.

    Categories of several files are matched by name. Classes are in the order of the category ids
    of train's file, followed by those that only other files have.
    """
    problems = ProblemCollector()
    batches: dict[str, list[Batch]] = {}
    # A dict keeps each name once, at the place where it came first.
    classes: dict[str, None] = {}

    index = ImageIndex(tree)
    sources = find_annotation_files(tree, problems)
    for file in assign_splits(sources, problems):
        split = None if file.split == POOL else file.split
        hint = Hint(file.source, split)
        locator = ImageLocator(index, find_image_roots(tree, file), hint, problems)
        with problems.catch_bad_entry(file.source):
            path = tree.folder / file.source
            names, records = read_annotation_file(path, file.source, locator, problems)
            classes.update(dict.fromkeys(names))
            for name, part in _group_by_split(file, records, tree).items():
                batches.setdefault(name, []).append(Batch(file.source, tuple(names), part))

    splits = {name: merge_batches(parts, problems) for name, parts in batches.items()}
    index.check_companions(problems)
    is_roboflow = all(path.endswith(_ROBOFLOW_NAME) for path in sources)
    return RawDataset(
        format="roboflow" if is_roboflow else "coco",
        folder=tree.folder,
        classes=tuple(classes),
        splits=splits,
        findings=tuple(problems.findings),
    )


def read_outlines(
    folder: Path,
    source: str,
    problems: ProblemCollector,  # noqa: ARG001 (as of other formats)
) -> dict[str, Outline]:
    """Return the outlines in a file that was read without errors, by the places of their boxes."""
    # Not at the top: its parser takes longer to import than a small dataset to check.
    from detreg.data.formats import coco_outlines  # noqa: PLC0415

    return coco_outlines.read_outlines(folder / source)


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
            image.store(image_folder)

        text = _format_document(_make_document(images, classes))
        (annotation_folder / f"{split}.json").write_text(text, encoding="utf-8")


def _format_document(document: Mapping[str, Sequence[CocoEntry]]) -> str:
    """Return a document as JSON with a line for each entry."""
    parts = []
    for key, entries in document.items():
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        parts.append(f'"{key}": [\n{lines}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def _make_document(
    images: Sequence[AnnotatedImage], classes: Sequence[str]
) -> dict[str, list[CocoEntry]]:
    """Return the content of one split's annotation file."""
    image_entries = []
    annotations: list[CocoEntry] = []
    for image_id, image in enumerate(images, start=1):
        entry = make_image_entry(image_id, image.file_name, image.width, image.height)
        image_entries.append(entry)
        for position, box in enumerate(image.boxes):
            annotation_id = len(annotations) + 1
            category_id = classes.index(box.label) + 1
            annotation = make_annotation(annotation_id, image_id, category_id, box)
            if position in image.outlines:
                annotation["segmentation"] = make_segmentation(image.outlines[position])
            annotations.append(annotation)

    return {
        "images": image_entries,
        "annotations": annotations,
        "categories": make_categories(classes),
    }


def _group_by_split(
    file: AnnotationFile, records: Sequence[ImageRecord], tree: FileTree
) -> dict[str, Sequence[ImageRecord]]:
    """Return the records by split: the file's, else the one that the image's folder names."""
    if file.split != POOL:
        return {file.split: records}
    root = f"{tree.folder}/"
    folders = [get_folder(str(record.image).removeprefix(root)) for record in records]
    groups: dict[str, list[ImageRecord]] = {}
    for split, record in zip(choose_splits_by_folder(folders), records, strict=True):
        groups.setdefault(split, []).append(record)
    return dict(groups)

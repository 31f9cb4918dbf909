"""COCO's detection format (https://cocodataset.org/#format-data), also as Roboflow exports it.

A JSON file is known by its keys, wherever it lies. Images lie beside it, in a folder named after
the split or the file (`train2017/`, `images/val/`), or elsewhere in the dataset's folder.

This module knows which files belong to which split; coco_file.py parses one of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.data.findings import FindingKind, ProblemCollector, Severity
from detreg.data.formats.coco_entries import (
    CocoEntry,
    make_annotation,
    make_categories,
    make_image_entry,
    make_segmentation,
)
from detreg.data.formats.coco_file import read_annotation_file
from detreg.data.formats.coco_outlines import read_outlines as read_outlines
from detreg.data.formats.evidence import Evidence
from detreg.data.formats.file_index import Hint
from detreg.data.formats.foreign import describe_foreign_file
from detreg.data.formats.lookup import ImageIndex, ImageLocator, find_duplicates
from detreg.data.formats.tree import FileTree, get_folder, get_stem, join_path, split_name
from detreg.data.images import AnnotatedImage
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import (
    SPLITS,
    choose_splits_by_folder,
    names_trainval,
    parse_split,
    parse_split_of_folder,
)
from detreg.documents import contains_words

EXPECTED_FILES = "COCO (images, annotations and categories in .json, as annotations/*.json)"

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_MIN_KEYS = 2
"""How many of the keys show that COCO is meant: who reads the file names the one it lacks."""

_ROBOFLOW_NAME = "_annotations.coco.json"
_SPLIT_ORDER = (*SPLITS, POOL)


@dataclass(frozen=True)
class _AnnotationFile:
    """One annotation file; `source` is its path relative to the dataset's folder."""

    source: str
    split: str


def detect(tree: FileTree) -> Evidence:
    """Return whether there is a JSON file with COCO's keys."""
    is_found = any(_is_coco(tree, path) for path in tree.select(".json"))
    return Evidence.SURE if is_found else Evidence.NONE


def read(tree: FileTree) -> RawDataset:
    """Read every annotation file.

    Categories of several files are matched by name. Classes are in the order of the category ids
    of train's file, followed by those that only other files have.
    """
    problems = ProblemCollector()
    splits: dict[str, list[ImageRecord]] = {}
    # A dict keeps each name once, at the place where it came first.
    classes: dict[str, None] = {}

    index = ImageIndex(tree)
    sources = _find_annotation_files(tree, problems)
    for file in _assign_splits(sources, problems):
        split = None if file.split == POOL else file.split
        hint = Hint(file.source, split)
        locator = ImageLocator(index, _find_image_roots(tree, file), hint, problems)
        with problems.catch_bad_entry(file.source):
            path = tree.folder / file.source
            names, records = read_annotation_file(path, file.source, locator, problems)
            classes.update(dict.fromkeys(names))
            for name, record in zip(_choose_splits(file, records, tree), records, strict=True):
                splits.setdefault(name, []).append(record)

    index.check_companions(problems)
    is_roboflow = all(path.endswith(_ROBOFLOW_NAME) for path in sources)
    return RawDataset(
        format="roboflow" if is_roboflow else "coco",
        folder=tree.folder,
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


def _is_coco(tree: FileTree, path: str) -> bool:
    """Whether a JSON file is meant to be COCO's."""
    file = tree.folder / path
    if not contains_words(file, _KEYS, _MIN_KEYS):
        return False
    # Other tools use two of these words, too; all three are COCO's alone.
    is_foreign = describe_foreign_file(tree, path) is not None
    return not is_foreign or contains_words(file, _KEYS, len(_KEYS))


def _find_annotation_files(tree: FileTree, problems: ProblemCollector) -> list[str]:
    """Return the annotation files of the first layout that the dataset has.

    A JSON file that lies among them is one of them, too, if it names a split or holds no object:
    it is broken, and must not be passed over. What else is left out is noted.
    """
    paths = tree.select(".json")
    files = [path for path in paths if _is_coco(tree, path)]
    layout = min(map(_rank_layout, files))
    chosen = [path for path in files if _rank_layout(path) == layout]

    folders = {get_folder(path) for path in chosen}
    for path in paths:
        is_beside = get_folder(path) in folders or _rank_layout(path) == layout < _OTHER_LAYOUT
        if path not in chosen and is_beside and _is_broken(tree, path):
            chosen.append(path)

    # COCO's own download has captions and keypoints beside the boxes.
    instances = [path for path in chosen if split_name(path)[1].startswith("instances_")]
    for path in sorted({*files, *chosen} - {*(instances or chosen)}):
        if not instances or _rank_layout(path) != layout:
            problems.add(
                FindingKind.UNUSED_FILE,
                Severity.NOTE,
                path,
                "annotation file in another folder than the others left out",
            )
    return sorted(instances or chosen)


_OTHER_LAYOUT = 3


def _rank_layout(path: str) -> int:
    """Return which of the usual places an annotation file is in; the first that is used counts."""
    folder = get_folder(path)
    if "/" not in folder and parse_split(folder) is not None:
        return 0
    if folder.lower() == "annotations":
        return 1
    return 2 if folder == "" else _OTHER_LAYOUT


def _is_broken(tree: FileTree, path: str) -> bool:
    """Whether a JSON file without COCO's keys stands where one with them belongs."""
    head = tree.read_head(path, 64).removeprefix(b"\xef\xbb\xbf").lstrip()
    return parse_split(get_stem(path)) is not None or not head.startswith(b"{")


def _assign_splits(sources: Sequence[str], problems: ProblemCollector) -> list[_AnnotationFile]:
    """Return the annotation files with their splits, train first.

    A file that names no split is the pool, and one that names train and val together is train, of
    which val is cut. Two files of one split are an error.
    """
    files = []
    for source in sources:
        stem = get_stem(source)
        split = parse_split_of_folder(get_folder(source)) or parse_split(stem)
        if split is None and names_trainval(stem):
            split = "train"
        files.append(_AnnotationFile(source, split or POOL))

    for split in find_duplicates(file.split for file in files):
        sources_of_split = ", ".join(file.source for file in files if file.split == split)
        if split == POOL:
            advice = "name no split; put train, val or test into each name"
        else:
            advice = f"are all for {split}; merge them or keep one"
        problems.add_error(
            FindingKind.AMBIGUOUS_SPLIT, sources_of_split, f"these annotation files {advice}"
        )

    return sorted(files, key=lambda file: (_SPLIT_ORDER.index(file.split), file.source))


def _choose_splits(
    file: _AnnotationFile, records: Sequence[ImageRecord], tree: FileTree
) -> list[str]:
    """Return the split of each record: the file's, else the one that the image's folder names."""
    if file.split != POOL:
        return [file.split] * len(records)
    root = f"{tree.folder}/"
    folders = [get_folder(str(record.image).removeprefix(root)) for record in records]
    return choose_splits_by_folder(folders)


def _find_image_roots(tree: FileTree, file: _AnnotationFile) -> tuple[str, ...]:
    """Return the folders that a file's images may lie in, in the order to look.

    Folders that belong to this file or its split come first: two splits may use the same names.
    """
    stem = get_stem(file.source).removeprefix("instances_")
    named_after_file = []
    named_after_split = []
    for folder in tree.folders:
        base, name = split_name(folder)
        if base not in ("", "images"):
            continue
        if name == stem:
            named_after_file.append(folder)
        if parse_split(name) == file.split:
            named_after_split.append(folder)

    # Those in the dataset's folder come before those in images/.
    named_after_file.sort(key=split_name)
    named_after_split.sort(key=split_name)
    beside_file = get_folder(file.source)
    return (
        *named_after_file,
        *named_after_split,
        beside_file,
        join_path(beside_file, "images"),
        join_path(beside_file, "data"),
        "",
        "images",
        "data",
    )

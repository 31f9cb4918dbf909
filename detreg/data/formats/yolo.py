"""YOLO (https://docs.ultralytics.com/datasets/detect): images, and a label file for each.

Accepted: the folders or lists that data.yaml or Darknet's obj.data names, lists such as train.txt,
or folders named after splits. Label files lie in `labels/` parallel to `images/`, or beside the
images. An image without a label file shows no object.

yolo_settings.py finds and parses data.yaml, yolo_splits.py finds the images of each split,
yolo_layout.py their label files, and yolo_labels.py parses one of these.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.evidence import Evidence
from detreg.data.formats.tree import FileTree
from detreg.data.formats.yolo_class_files import find_class_files
from detreg.data.formats.yolo_labels import format_labels, read_label_file
from detreg.data.formats.yolo_labels import read_outlines as read_outlines
from detreg.data.formats.yolo_layout import LabelFiles, has_labels, match_labels
from detreg.data.formats.yolo_settings import YoloSettings, find_settings_file, read_settings
from detreg.data.formats.yolo_splits import find_split_images
from detreg.data.formats.yolo_wide_labels import WideLabels
from detreg.data.images import AnnotatedImage
from detreg.data.raw import ImageRecord, RawDataset
from detreg.errors import shorten

EXPECTED_FILES = "YOLO (data.yaml with names, or classes.txt, and a .txt file per image)"


def detect(tree: FileTree) -> Evidence:
    """Return how sure it is that the folder is a YOLO dataset: settings, labels or both."""
    try:
        has_settings = find_settings_file(tree) is not None
    except BadEntryError:
        has_settings = True

    labels = match_labels(tree)
    is_labeled = has_labels(tree, labels)
    if has_settings and is_labeled:
        return Evidence.SURE
    has_class_files = bool(find_class_files(tree))
    if is_labeled and has_class_files:
        return Evidence.LIKELY
    if has_settings or is_labeled or (labels.orphans and has_class_files):
        return Evidence.WEAK
    return Evidence.NONE


def read(tree: FileTree) -> RawDataset:
    """Read the settings, find the images of each split, and read their label files."""
    problems = ProblemCollector()
    classes: tuple[str, ...] = ()
    splits: dict[str, list[ImageRecord]] = {}

    labels = match_labels(tree)
    where = tree.folder.name or str(tree.folder)
    with problems.catch_bad_entry(where):
        settings_file = find_settings_file(tree)
        with problems.catch_bad_entry(settings_file or where):
            settings = read_settings(tree, settings_file, problems)
            classes = tuple(settings.classes.values())
            splits = _read_splits(tree, settings, labels, problems)

    for path in labels.orphans:
        problems.for_image(path).add_error(
            FindingKind.MISSING_IMAGE,
            path,
            "the image of this label file is missing; add it or remove the labels",
        )
    findings = tuple(problems.findings)
    return RawDataset("yolo", tree.folder, classes, splits, findings, fractions=True)


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
            image.store(image_folder)
            labels = format_labels(image, classes)
            label_name = f"{Path(image.file_name).stem}.txt"
            (label_folder / label_name).write_text(labels, encoding="utf-8")


def _read_splits(
    tree: FileTree, settings: YoloSettings, labels: LabelFiles, problems: ProblemCollector
) -> dict[str, list[ImageRecord]]:
    """Return the records of each split."""
    images_by_split = find_split_images(tree, settings, labels, problems)
    _check_shared_labels(tree, images_by_split, labels, problems)

    splits: dict[str, list[ImageRecord]] = {}
    wide_labels = WideLabels()
    for split, images in images_by_split.items():
        splits[split] = []
        for image in images:
            record = _read_image(tree, image, labels, settings, wide_labels, problems)
            if record is not None:
                splits[split].append(record)

    other_meaning = wide_labels.find_other_meaning()
    if other_meaning:
        problems.add_error(FindingKind.KEYPOINTS, wide_labels.source, other_meaning)
    else:
        problems.findings.extend(wide_labels.findings)
    return splits


def _check_shared_labels(
    tree: FileTree,
    images_by_split: Mapping[str, Sequence[str]],
    labels: LabelFiles,
    problems: ProblemCollector,
) -> None:
    """Add an error for each label file of two images, of which one may be a mask of the other."""
    holders: dict[str, str] = {}
    for images in images_by_split.values():
        for image in images:
            label = labels.of_image.get(image)
            if label is None or holders.setdefault(label, image) == image:
                continue
            # A link may show a folder of images under a second name.
            if _is_same_file(tree.folder, holders[label], image):
                continue
            problems.add_error(
                FindingKind.AMBIGUOUS_FILE,
                label,
                f"the label file belongs to {shorten(holders[label])} and to {shorten(image)}; "
                "remove the one that is not labeled, or rename it",
            )


def _is_same_file(folder: Path, first: str, second: str) -> bool:
    """Whether two paths lead to one file."""
    return (folder / first).resolve() == (folder / second).resolve()


def _read_image(
    tree: FileTree,
    image: str,
    labels: LabelFiles,
    settings: YoloSettings,
    wide_labels: WideLabels,
    problems: ProblemCollector,
) -> ImageRecord | None:
    """Return the record of an image, None where its label file cannot be read."""
    path = tree.folder / image
    label = labels.of_image.get(image)
    if label is None:
        problems.add(
            FindingKind.MISSING_ANNOTATIONS,
            Severity.WARNING,
            image,
            "image without a label file taken as one that shows no object",
        )
        return ImageRecord(path, image, ())
    of_image = problems.for_image(image)
    with of_image.catch_bad_entry(image):
        return read_label_file(path, tree.folder / label, label, settings, wide_labels, of_image)
    return None

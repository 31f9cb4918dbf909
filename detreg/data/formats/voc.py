"""Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC): an XML file per image, and lists per split.

Accepted: `Annotations/*.xml` with `JPEGImages/` (also `annotations/`, `images/`), or XML files
beside their images in a folder per split (`train/`, `valid/`), as Roboflow exports them.

This module knows which images belong to which split; voc_file.py parses the file of one image.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.findings import FindingKind, ProblemCollector
from detreg.data.formats.lookup import ImageLocator, find_images
from detreg.data.formats.voc_file import read_annotation_file, write_annotation_file
from detreg.data.images import AnnotatedImage
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import SPLITS, parse_split
from detreg.documents import read_text
from detreg.errors import shorten
from detreg.files import exists

EXPECTED_FILES = "Pascal VOC (Annotations/*.xml, or train/*.xml)"


def detect(folder: Path) -> bool:
    """Whether `folder` holds XML files where VOC puts them."""
    return _find_annotation_folder(folder) is not None or bool(_find_split_folders(folder))


def read(folder: Path) -> RawDataset:
    """Read the XML file of every listed image.

    Classes are the sorted names of all objects. Difficult objects become crowd regions.
    """
    problems = ProblemCollector()
    annotation_folder = _find_annotation_folder(folder)
    if annotation_folder is not None:
        splits = _read_listed_images(folder, annotation_folder, problems)
    else:
        splits = _read_split_folders(folder, problems)

    # VOC has no list of classes: those are the classes that some object has.
    labels: set[str] = set()
    for records in splits.values():
        for record in records:
            labels.update(box.label for box in record.boxes)
    return RawDataset("voc", folder, tuple(sorted(labels)), splits, tuple(problems.findings))


def write(
    folder: Path,
    classes: Sequence[str],  # noqa: ARG001 (VOC has no list of classes)
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> None:
    """Write `Annotations/`, `JPEGImages/` and `ImageSets/Main/<split>.txt`."""
    annotation_folder = folder / "Annotations"
    image_folder = folder / "JPEGImages"
    list_folder = _get_list_folder(folder)
    for child in (annotation_folder, image_folder, list_folder):
        child.mkdir(parents=True, exist_ok=True)

    for split, images in splits.items():
        names = []
        for image in images:
            name = Path(image.file_name).stem
            names.append(name)
            (image_folder / image.file_name).write_bytes(image.content)
            write_annotation_file(annotation_folder / f"{name}.xml", image)

        lines = "".join(f"{name}\n" for name in names)
        (list_folder / f"{split}.txt").write_text(lines, encoding="utf-8")


def _find_annotation_folder(folder: Path) -> Path | None:
    """Return the folder of all XML files, None where `folder` has no such folder."""
    for name in ("Annotations", "annotations"):
        for path in folder.glob(f"{name}/*.xml"):
            return path.parent
    return None


def _find_split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders that hold XML files and whose names mean a split, by split."""
    folders = {}
    for child in sorted(folder.glob("*/")):
        split = parse_split(child.name)
        has_annotations = any(child.glob("*.xml"))
        if split is not None and has_annotations:
            folders[split] = child
    return folders


def _get_list_folder(folder: Path) -> Path:
    """Return the folder with the lists of the image names of each split."""
    return folder / "ImageSets" / "Main"


def _read_listed_images(
    folder: Path, annotation_folder: Path, problems: ProblemCollector
) -> dict[str, list[ImageRecord]]:
    """Return the records of each split that ImageSets/Main lists, or all as one pool."""
    lists = _read_split_lists(_get_list_folder(folder))
    if lists:
        names_by_split = _drop_unannotated_names(lists, annotation_folder, problems)
    else:
        names_by_split = {POOL: sorted(path.stem for path in annotation_folder.glob("*.xml"))}

    # In the order in which an image is looked for.
    roots = (folder / "JPEGImages", folder / "images", annotation_folder, folder)
    locator = ImageLocator(folder, roots)
    splits = {}
    for split, names in names_by_split.items():
        paths = [annotation_folder / f"{name}.xml" for name in names]
        splits[split] = _read_annotation_files(paths, locator, problems)
    return splits


def _read_split_folders(folder: Path, problems: ProblemCollector) -> dict[str, list[ImageRecord]]:
    """Return the records of each folder that holds a split, with images beside XML files."""
    splits = {}
    for split, child in _find_split_folders(folder).items():
        paths = sorted(child.glob("*.xml"))
        locator = ImageLocator(folder, (child,))
        splits[split] = _read_annotation_files(paths, locator, problems)
    return splits


def _read_split_lists(list_folder: Path) -> dict[str, list[str]]:
    """Return the image names of each split that has a list; empty where there are no lists."""
    lists = {}
    for split in SPLITS:
        path = list_folder / f"{split}.txt"
        if exists(path):
            lists[split] = _read_names(path)

    trainval_path = list_folder / "trainval.txt"
    if exists(trainval_path):
        lists = _add_list_from_trainval(lists, _read_names(trainval_path))
    return lists


def _add_list_from_trainval(
    lists: Mapping[str, list[str]], trainval_names: Sequence[str]
) -> dict[str, list[str]]:
    """Return the lists with the missing one of train and val derived from trainval.txt.

    trainval.txt lists the images of train and val together. Where both have lists of their own it
    says nothing new. Where one of them is missing, it gets the names that the other leaves; where
    both are missing, train gets all (and val is cut from it later, as for any dataset).
    """
    completed = dict(lists)
    if not trainval_names or ("train" in lists and "val" in lists):
        return completed

    missing_split = "val" if "train" in lists else "train"
    taken = {*lists.get("train", []), *lists.get("val", [])}
    completed[missing_split] = [name for name in trainval_names if name not in taken]
    return completed


def _read_names(path: Path) -> list[str]:
    """Return the image names in a list file, sorted, each once.

    A line holds a name. Lists of a single class have a flag behind it (1, 0 or -1: the class is in
    the image, is hard to see, is not), which is ignored: the XML file says what is in the image.
    """
    text = read_text(path)
    names = {line.split()[0] for line in text.splitlines() if line.strip()}
    return sorted(names)


def _drop_unannotated_names(
    lists: Mapping[str, Sequence[str]], annotation_folder: Path, problems: ProblemCollector
) -> dict[str, list[str]]:
    """Return the names that have an XML file; add an error for each of the others."""
    annotated: dict[str, list[str]] = {}
    for split, names in lists.items():
        annotated[split] = []
        for name in names:
            path = annotation_folder / f"{name}.xml"
            is_inside = Path(os.path.normpath(path)).is_relative_to(annotation_folder)
            if is_inside and exists(path):
                annotated[split].append(name)
                continue
            shown = shorten(name)
            problems.for_image(shown).add_error(
                FindingKind.MISSING_ANNOTATIONS,
                f"ImageSets/Main/{split}.txt",
                f"{shown} has no {annotation_folder.name}/{shown}.xml; add the file (one without "
                "objects where the image shows none) or remove the name",
            )
    return annotated


def _read_annotation_files(
    paths: Sequence[Path], locator: ImageLocator, problems: ProblemCollector
) -> list[ImageRecord]:
    """Return the records of XML files whose images lie anywhere under the locator's roots."""
    image_of_stem: dict[str, Path] = {}
    # Backwards, so that an image of an earlier root replaces one of a later root.
    for root in reversed(locator.roots):
        for path in find_images(root):
            image_of_stem[path.stem] = path

    records = []
    for path in paths:
        source = path.relative_to(locator.folder).as_posix()
        image = image_of_stem.get(path.stem)
        of_image = problems.for_image(source)
        with of_image.catch_bad_entry(source):
            record = read_annotation_file(path, source, image, locator, of_image)
            records.append(record)
    return records

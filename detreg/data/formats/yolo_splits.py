"""Finds the images of each split of a YOLO dataset."""

import posixpath
from collections.abc import Iterator

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.file_index import Hint, split_path
from detreg.data.formats.lookup import ImageIndex, ImageLocator, note_comment
from detreg.data.formats.readable_names import read_names
from detreg.data.formats.tree import FileTree, get_folder, get_stem, join_path, list_under
from detreg.data.formats.yolo_layout import LabelFiles
from detreg.data.formats.yolo_settings import YoloSettings
from detreg.data.splits import (
    choose_splits_by_folder,
    is_split_name,
    parse_split,
    parse_split_of_folder,
)
from detreg.errors import quote
from detreg.files import IMAGE_SUFFIXES

_HEAD = 4096  # bytes
_LIST_LINES = 10
_MAX_PARTS = 20
"""How much of the end of a path of another machine is looked for."""


def find_split_images(
    tree: FileTree, settings: YoloSettings, labels: LabelFiles, problems: ProblemCollector
) -> dict[str, list[str]]:
    """Return the images of each split, relative to the dataset's folder.

    The settings decide where they name any split; else folders that are called after splits; else
    text files that list images; else folders whose names hold a split; else all are one pool.
    """
    if settings.places:
        return _find_named_images(tree, settings, labels, problems)

    images = _list_images_by_folder(tree, labels)
    folders = [get_folder(image) for image in images]
    lists = _find_lists(tree)
    has_split_folders = any(is_split_name(part) for name in folders for part in name.split("/"))
    if lists and not has_split_folders:
        listing = YoloSettings(settings.source, settings.classes, "", lists)
        return _find_named_images(tree, listing, labels, problems)

    splits: dict[str, list[str]] = {}
    for split, image in zip(choose_splits_by_folder(folders), images, strict=True):
        splits.setdefault(split, []).append(image)
    return splits


def _list_images_by_folder(tree: FileTree, labels: LabelFiles) -> list[str]:
    """Return the images in folders that hold labeled ones or that names of splits lead to.

    Other folders hold previews, masks and the like.
    """
    labeled_folders = {get_folder(image) for image in labels.of_image}
    images = []
    for image in tree.images:
        folder = get_folder(image)
        if folder in labeled_folders or parse_split_of_folder(folder) is not None:
            images.append(image)
    return images


def _find_lists(tree: FileTree) -> dict[str, tuple[str, ...]]:
    """Return the text files by split that are named after one and list images."""
    lists: dict[str, list[str]] = {}
    for path in tree.select(".txt"):
        split = parse_split(get_stem(path))
        if split is None or not is_split_name(get_stem(path)):
            continue
        lines = tree.read_head(path, _HEAD).decode("utf-8-sig", errors="replace").splitlines()
        if any(line.strip().lower().endswith(IMAGE_SUFFIXES) for line in lines[:_LIST_LINES]):
            lists.setdefault(split, []).append(path)
    return {split: tuple(paths) for split, paths in lists.items()}


def _find_named_images(
    tree: FileTree, settings: YoloSettings, labels: LabelFiles, problems: ProblemCollector
) -> dict[str, list[str]]:
    """Return the images of each split at the places that the settings name."""
    index = ImageIndex(tree)
    found: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for split, places in settings.places.items():
        for place in places:
            with problems.catch_bad_entry(f"{settings.source} {split}"):
                path = _resolve_place(tree, place, settings)
                if path is None:
                    missing.setdefault(split, []).append(place)
                else:
                    images = _list_images(index, path, split, settings, problems)
                    found.setdefault(split, []).extend(images)

    named = {image for images in found.values() for image in images}
    left_out = [image for image in labels.of_image if image not in named]
    for split, missing_places in missing.items():
        # Labeled images that no split has may be those of the place that is not found.
        is_harmless = split not in found and (split == "test" or not left_out) and "train" in found
        for place in missing_places:
            _report_missing_place(place, split, settings, is_harmless, problems)
    for image in left_out:
        problems.add(
            FindingKind.UNUSED_FILE,
            Severity.NOTE,
            image,
            "labeled image that is in no split left out",
        )

    # Two places may hold the same image, such as a folder and a list of files in it.
    return {split: sorted(set(images)) for split, images in found.items()}


def _report_missing_place(
    place: str, split: str, settings: YoloSettings, is_harmless: bool, problems: ProblemCollector
) -> None:
    """Add an error, for a whole test split that is missing, as Roboflow names some, a note.

    Of a whole val split that is missing the check tells, which cuts another.
    """
    where = f"{settings.source} {split}"
    if is_harmless:
        if split == "test":
            message = "test split that data.yaml names but the folder lacks left out"
            problems.add(FindingKind.MISSING_PATH, Severity.NOTE, where, message)
        return
    problems.add_error(
        FindingKind.MISSING_PATH,
        where,
        f"{quote(place)} is not in the dataset's folder; "
        "copy the images into it and name them relative to it",
    )


def _resolve_place(tree: FileTree, place: str, settings: YoloSettings) -> str | None:
    """Return the folder or file that a place in the settings means, None where there is none.

    Such files often hold the paths of the machine that they come from. Where a place does not
    exist as it stands, its end is looked for, without the folders at its start one by one.
    """
    bases = [*_list_ends(settings.path), ""]
    own_folder = get_folder(settings.source)
    for name in (place, *_list_ends(place)):
        for base in bases:
            for folder in (own_folder, ""):
                path = posixpath.normpath(join_path(folder, join_path(base, name)))
                path = "" if path == "." else path
                if path in tree.folders or path in tree.file_set:
                    return path
    return None


def _list_ends(path: str) -> list[str]:
    """Return a path without its first folder, without its first two and so on, longest first.

    The name of a split is not left out: what is in valid/images is not in images.
    """
    ends = []
    parts = split_path(path)[-_MAX_PARTS:]
    for start, part in enumerate(parts):
        ends.append("/".join(parts[start:]))
        if is_split_name(part):
            break
    return ends


def _list_images(
    index: ImageIndex, place: str, split: str, settings: YoloSettings, problems: ProblemCollector
) -> Iterator[str]:
    """Yield the images in a folder, or those that a text file lists, one a line.

    Raises BadEntryError for a file of another kind.
    """
    tree = index.tree
    if place in tree.folders:
        yield from list_under(tree.images, place)
        return

    if place.lower().endswith(IMAGE_SUFFIXES):
        yield place
        return
    if not place.lower().endswith(".txt"):
        raise BadEntryError(
            FindingKind.MISSING_PATH,
            f"{quote(place)} is neither a folder nor a .txt file that lists images; name one",
        )

    lines = read_names(tree.folder / place)
    roots = (*_list_ends(settings.path), "", get_folder(place))
    locator = ImageLocator(index, roots, Hint(place, split), problems)
    root = f"{tree.folder}/"
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        if tree.is_comment(name):
            note_comment(place, problems)
            continue
        with problems.catch_bad_entry(f"{place} line {number}"):
            yield str(locator.locate(name)).removeprefix(root)

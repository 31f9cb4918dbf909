"""Finds the label file of each image of a YOLO dataset, and label files without an image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from detreg.data.formats.file_index import drop_upload_prefix, fold, rank_folders
from detreg.data.formats.tree import (
    FileTree,
    get_folder,
    get_stem,
    join_path,
    list_ancestors,
    split_name,
)
from detreg.data.splits import parse_split_of_folder

_HEAD = 4096  # bytes
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]*(e[-+]?[0-9]+)?", re.IGNORECASE)
_MIN_NUMBERS = 5
_MAX_SNIFFED = 100


@dataclass(frozen=True)
class LabelFiles:
    """The label files of a dataset.

    of_image: the label file of each image that has one; both relative to the dataset's folder.
    orphans: label files of which no image is known.
    """

    of_image: Mapping[str, str]
    orphans: tuple[str, ...]


def match_labels(tree: FileTree) -> LabelFiles:
    """Return which label file belongs to which image.

    YOLO's rule: the last folder `images` of the image's path becomes `labels`; or the label file
    lies beside the image. What is left is matched between folders whose paths differ in one name,
    such as `img/` and `txt/`.
    """
    unclaimed = set(tree.select(".txt"))
    # Datasets of other formats, which need not wait for their images to be matched.
    if not unclaimed:
        return LabelFiles({}, ())

    of_image = _match_exactly(tree)
    for image in tree.images:
        # The second place of an image that has a label file at the first is nobody else's.
        unclaimed.difference_update(_list_places(image))
    _match_spellings(tree.images, of_image, unclaimed)

    orphans = [path for path in sorted(unclaimed) if _is_orphan(tree, path)]
    if orphans:
        parallel = _match_parallel(tree, of_image, orphans)
        of_image.update(parallel)
        claimed = set(parallel.values())
        orphans = [path for path in orphans if path not in claimed]
    return LabelFiles(of_image, tuple(orphans))


def is_label_file(tree: FileTree, path: str) -> bool:
    """Whether the first line of a text file is a label: a number and four more or so."""
    lines = tree.read_head(path, _HEAD).decode("utf-8-sig", errors="replace").split("\n")
    words = next((line.replace(",", " ").split() for line in lines if line.strip()), [])
    return len(words) >= _MIN_NUMBERS and all(_NUMBER.fullmatch(word) for word in words[:20])


def has_labels(tree: FileTree, labels: LabelFiles) -> bool:
    """Whether some of the first label files of images holds a label; others may be captions."""
    first = sorted(labels.of_image.values())[:_MAX_SNIFFED]
    return any(is_label_file(tree, path) for path in first)


def _match_exactly(tree: FileTree) -> dict[str, str]:
    """Return the label files that lie where YOLO's rule says."""
    of_image: dict[str, str] = {}
    for image in tree.images:
        for place in _list_places(image):
            if place in tree.file_set:
                of_image[image] = place
                break
    return of_image


def _match_spellings(images: Sequence[str], of_image: dict[str, str], unclaimed: set[str]) -> None:
    """Match the other images with label files whose paths differ in capitals or in accents."""
    if not unclaimed:
        return

    spellings = {fold(path): path for path in sorted(unclaimed)}
    for image in images:
        if image in of_image:
            continue
        for place in _list_places(image):
            path = spellings.get(fold(place))
            if path is not None:
                of_image[image] = path
                unclaimed.discard(path)
                break


def _list_places(image: str) -> Iterator[str]:
    """Yield where the label file of an image may be."""
    name = f"{get_stem(image)}.txt"
    folder = get_folder(image)
    parts = folder.split("/")
    for position in reversed(range(len(parts))):
        if parts[position].lower() in ("images", "jpegimages"):
            parts[position] = "labels"
            yield join_path("/".join(parts), name)
            break
    yield join_path(folder, name)


def _is_orphan(tree: FileTree, path: str) -> bool:
    """Whether a text file that belongs to no image holds labels, or lies where they belong."""
    folder, name = split_name(path)
    if "labels" in fold(folder).split("/"):
        # Labeling tools keep a list of the classes beside the labels.
        return fold(name) != "classes.txt"
    return is_label_file(tree, path)


def _match_parallel(
    tree: FileTree, of_image: Mapping[str, str], orphans: list[str]
) -> dict[str, str]:
    """Return the label files that lie in a folder parallel to that of their images.

    A folder counts as a whole: at least half of its label files have their images in one other, or
    in the folders inside one, such as `labels/` for `images/train/` and `images/val/`.
    """
    images = _group_unlabeled_images(tree, of_image)
    labels: dict[str, list[str]] = {}
    claimed_folders = {get_folder(path) for path in of_image.values()}
    for path in orphans:
        # Where other label files have their images, this one has lost its own.
        if get_folder(path) not in claimed_folders:
            labels.setdefault(get_folder(path), []).append(path)

    matches: dict[str, str] = {}
    for label_folder, paths in labels.items():
        stems = {fold(get_stem(path)): path for path in paths}
        found = _match_folder(stems, label_folder, images)
        if not found:
            without_prefix = {drop_upload_prefix(stem): path for stem, path in stems.items()}
            if len(without_prefix) == len(stems):
                found = _match_folder(without_prefix, label_folder, images)
        matches.update(found)
    return matches


def _group_unlabeled_images(
    tree: FileTree, of_image: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return the images without label files by their folder and by their stem."""
    images: dict[str, dict[str, str]] = {}
    for image in tree.images:
        if image not in of_image:
            images.setdefault(get_folder(image), {})[fold(get_stem(image))] = image
    return images


def _match_folder(
    stems: Mapping[str, str], label_folder: str, images: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return the label files of one folder by their images, none where several folders fit.

    stems: the label files by their stems.
    """
    fitting: dict[int, list[dict[str, str]]] = {}
    inside: dict[tuple[int, str], list[dict[str, str]]] = {}
    for image_folder, image_of_stem in images.items():
        rank = rank_folders(fold(image_folder).split("/"))
        found = stems.keys() & image_of_stem.keys()
        if rank < 0 or not found or not _have_same_split(image_folder, label_folder):
            continue
        match = {image_of_stem[stem]: stems[stem] for stem in found}
        if 2 * len(found) >= len(stems) and _are_parallel(image_folder, label_folder):
            fitting.setdefault(rank, []).append(match)
        for outer_folder in list_ancestors(image_folder):
            if _are_parallel(outer_folder, label_folder):
                inside.setdefault((rank, outer_folder), []).append(match)

    joined = _join_matches(stems, inside)
    # Of `train/` and `val/`, one alone may hold the images of half of `labels/`.
    are_in_splits = all(parse_split_of_folder(get_folder(image)) is not None for image in joined)
    if not fitting or (len(joined) == len(stems) and are_in_splits):
        return joined
    best = fitting[max(fitting)]
    return best[0] if len(best) == 1 else {}


def _join_matches(
    stems: Mapping[str, str], inside: Mapping[tuple[int, str], Sequence[Mapping[str, str]]]
) -> dict[str, str]:
    """Return the label files by their images in the folders inside a parallel one.

    None where several parallel folders fit, or where a label file would belong to two images.

    inside: for each parallel folder with its rank, the matches of each folder inside it.
    """
    joined: dict[int, list[dict[str, str]]] = {}
    for (rank, _), matches in inside.items():
        match = {image: label for part in matches for image, label in part.items()}
        is_unique = len(set(match.values())) == len(match)
        others = joined.setdefault(rank, [])
        # Folders that lie in each other may hold the same images.
        if is_unique and 2 * len(match) >= len(stems) and match not in others:
            others.append(match)
    best = joined[max(joined)] if joined else []
    return best[0] if len(best) == 1 else {}


def _have_same_split(image_folder: str, label_folder: str) -> bool:
    """Whether the names of two folders do not mean different splits."""
    splits = {parse_split_of_folder(image_folder), parse_split_of_folder(label_folder)} - {None}
    return len(splits) <= 1


def _are_parallel(image_folder: str, label_folder: str) -> bool:
    """Whether two folders differ in one name at most."""
    rest_of_image = _list_without_one(image_folder)
    rest_of_label = _list_without_one(label_folder)
    return not rest_of_image.isdisjoint(rest_of_label)


def _list_without_one(folder: str) -> set[tuple[str, ...]]:
    """Return the parts of a path, and what is left of them without each one."""
    parts = tuple(folder.split("/")) if folder else ()
    shorter = {parts[:position] + parts[position + 1 :] for position in range(len(parts))}
    return {parts, *shorter}

"""Splits: which one a name means, and how a missing one is cut from the images that are there."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from detreg.data.findings import BadEntryError, FindingKind
from detreg.data.images import DatasetImage
from detreg.data.raw import POOL

SPLITS = ("train", "val", "test")
VAL_FRACTION = 0.2
_MAX_VAL_FRACTION = 1 / 3

_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainset": "train",
    "valset": "val",
    "testset": "test",
}


def parse_split(name: str) -> str | None:
    """Return the split that a file or folder name means, None where it means none or several.

    "instances_train2017" means train; "train_and_val" means none, because it names two.
    """
    words = re.findall("[a-z]+", name.lower())
    found = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return found.pop() if len(found) == 1 else None


def is_split_name(name: str) -> bool:
    """Whether a name says a split and nothing else, such as "Train" or "val2017"."""
    words = re.findall("[a-z]+", name.lower())
    return len(words) == 1 and words[0] in _SPLIT_OF_WORD


def names_trainval(name: str) -> bool:
    """Whether a name means train and val together, such as "trainval" or "train_val"."""
    words = re.findall("[a-z]+", name.lower())
    found = {_SPLIT_OF_WORD.get(word) for word in words}
    return "trainval" in words or found == {"train", "val"}


@lru_cache(maxsize=1 << 16)
def parse_split_of_folder(folder: str) -> str | None:
    """Return the split that the names of a relative folder and those around it mean.

    Where they name several, those that say nothing but a split count, and of these the outermost.
    """
    parts = folder.split("/")
    named = [part for part in parts if parse_split(part) is not None]
    if len({parse_split(part) for part in named}) > 1:
        named = [part for part in named if is_split_name(part)]
    return parse_split(named[0]) if named else None


def choose_splits_by_folder(folders: Iterable[str]) -> list[str]:
    """Return a split for each folder of an image, or `POOL` for it.

    Folders without a split among others that have one make all of them the pool: "test-site" and
    "harbor" mean no splits. Where some are called "train", "val" or "test" and nothing else, those
    are meant, and the others are left in the pool, which is refused later.
    """
    given = list(folders)
    splits = {folder: parse_split_of_folder(folder) for folder in set(given)}
    is_plain = any(is_split_name(part) for folder in splits for part in folder.split("/"))
    if None in splits.values() and not is_plain:
        return [POOL] * len(given)
    return [splits[folder] or POOL for folder in given]


def complete_splits(
    splits: Mapping[str, Sequence[DatasetImage]],
    near_copies: Sequence[Sequence[Path]] = (),
) -> dict[str, tuple[DatasetImage, ...]]:
    """Return the same images with train and val both present, and test where it was given.

    A single split, or a pool without splits, is cut into train and val; where only train and
    test have images, val is cut from train. Empty splits count as missing.

    near_copies: groups of images that look the same, which a cut keeps together.

    Raises BadEntryError where no train split can be had.
    """
    given = {name: tuple(images) for name, images in splits.items() if images}

    if len(given) == 1:
        (images,) = given.values()
        train, val = _cut_val(images, near_copies)
        return {"train": train, "val": val}

    if "train" not in given:
        names = " and ".join(given) or "no split"
        raise BadEntryError(
            FindingKind.MISSING_SPLIT,
            f"there are images for {names} but none for train; add a train split",
        )
    if POOL in given:
        raise BadEntryError(
            FindingKind.AMBIGUOUS_SPLIT,
            "some images belong to a split and others to none; "
            "name a split for all of them or for none",
        )

    if "val" not in given:
        given["train"], given["val"] = _cut_val(given["train"], near_copies)
    return {name: given[name] for name in SPLITS if name in given}


def _cut_val(
    images: Sequence[DatasetImage], near_copies: Sequence[Sequence[Path]]
) -> tuple[tuple[DatasetImage, ...], tuple[DatasetImage, ...]]:
    """Return images for train and for val, about four to one, at least one for each.

    An image's own content decides: it stays on its side when others are added or removed, and
    copies of it stay together, near copies too. Only where that would leave val with nothing or
    more than a third, or train without a class, some are moved.

    Raises BadEntryError for too few different images, or too few with boxes.
    """
    if len({image.sha256 for image in images}) < 2:
        raise BadEntryError(
            FindingKind.TOO_FEW_IMAGES,
            "a train and a val split cannot be cut from fewer than two different images; "
            "add images",
        )

    val = _choose_val_of_groups(images, near_copies) if near_copies else None
    if val is None:
        # Without near copies, or where they leave nothing else, as in frames of one scene.
        val = _choose_val_of_units(images, {image.path: image.sha256 for image in images})
    train = tuple(image for image in images if image.path not in val)
    return train, tuple(image for image in images if image.path in val)


def _choose_val_of_groups(
    images: Sequence[DatasetImage], near_copies: Sequence[Sequence[Path]]
) -> set[Path] | None:
    """Return the images for val such that near copies stay together.

    None where val would have less than half of its share, more than a third, or no boxes.
    """
    hashes = {image.path: image.sha256 for image in images}
    units = dict(hashes)
    for group in near_copies:
        members = [path for path in group if path in hashes]
        if members:
            # Not the lowest hash of all, which is the likelier in the first fifth the larger the
            # group is: the last digits choose the image whose first ones decide.
            chosen = min((hashes[path] for path in members), key=lambda sha256: sha256[::-1])
            units |= dict.fromkeys(members, chosen)

    try:
        val = _choose_val_of_units(images, units)
    except BadEntryError:
        return None
    share = len(val) / len(images)
    return val if VAL_FRACTION / 2 <= share <= _MAX_VAL_FRACTION else None


def _choose_val_of_units(images: Sequence[DatasetImage], units: Mapping[Path, str]) -> set[Path]:
    """Return the images for val. Raises BadEntryError where none can be spared.

    units: for each image the hash of what it belongs to, which stays together.
    """
    sizes = Counter(units[image.path] for image in images)
    labels: dict[str, set[str]] = {unit: set() for unit in sizes}
    for image in images:
        labels[units[image.path]].update(box.label for box in image.boxes if not box.crowd)

    val_units = _keep_classes_in_train(_choose_val(sizes), labels)
    return {image.path for image in images if units[image.path] in val_units}


def _choose_val(sizes: Mapping[str, int]) -> set[str]:
    """Return the hashes of the units for val.

    sizes: how many images each unit has, by its hash: copies of an image, or near copies.
    """
    total = sum(sizes.values())
    # Hashes are spread evenly, so the first fifth of all possible values holds about a fifth.
    limit = f"{int(VAL_FRACTION * 16**8):08x}"
    chosen = {sha256 for sha256 in sizes if sha256[:8] < limit}
    num_chosen = sum(sizes[sha256] for sha256 in chosen)
    if chosen and num_chosen <= _MAX_VAL_FRACTION * total:
        return chosen

    # In few images, chance can leave far fewer or more than a fifth there.
    wanted = max(1, round(VAL_FRACTION * total))
    chosen = set()
    for sha256 in sorted(sizes):
        if sizes[sha256] <= wanted:
            chosen.add(sha256)
            wanted -= sizes[sha256]
    return chosen or {min(sizes, key=lambda sha256: (sizes[sha256], sha256))}


def _keep_classes_in_train(chosen: set[str], labels: Mapping[str, set[str]]) -> set[str]:
    """Return the hashes for val, changed so that train has each class and val has boxes.

    labels: the classes of the boxes of each image, by its hash.

    Raises BadEntryError where that is impossible.
    """
    val = set(chosen)
    all_labels = set().union(*labels.values())
    in_train = Counter(label for sha256 in labels.keys() - val for label in labels[sha256])
    for label in sorted(all_labels):
        if in_train[label] == 0:
            moved = max(sha256 for sha256 in val if label in labels[sha256])
            val.remove(moved)
            in_train.update(labels[moved])

    if not all_labels or any(labels[sha256] for sha256 in val):
        return val
    for sha256 in sorted(labels.keys() - val):
        is_spare = all(in_train[label] > 1 for label in labels[sha256])
        if labels[sha256] and is_spare:
            return val | {sha256}
    raise BadEntryError(
        FindingKind.TOO_FEW_IMAGES,
        "no val split with boxes can be cut without taking a class from train; label more images, "
        "or give a val split",
    )

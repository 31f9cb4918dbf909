"""Which split a name means, and how a missing split is cut from the pictures that are there."""

import re
from collections.abc import Mapping, Sequence

from detreg.data.raw import POOL, BadEntry, DatasetImage

SPLITS = ("train", "val", "test")
VAL_FRACTION = 0.2

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> str | None:
    """The split that a file or folder name means ("instances_train2017" is train), None where it means none or several."""
    found = {_NAMES[word] for word in re.findall("[a-z]+", name.lower()) if word in _NAMES}
    return found.pop() if len(found) == 1 else None


def complete(splits: Mapping[str, Sequence[DatasetImage]]) -> dict[str, tuple[DatasetImage, ...]]:
    """The same pictures with "train" and "val" both present, and "test" where it was given.

    Where only one split (or a pool without splits) has pictures it is cut into train and val; where train and test have, val is cut from
    train. Empty splits count as missing. Raises BadEntry where no train split can be had.
    """
    given = {name: tuple(pictures) for name, pictures in splits.items() if pictures}
    if len(given) == 1:
        train, val = _cut(*given.values())
        return {"train": train, "val": val}
    if "train" not in given:
        raise BadEntry(
            f"there are pictures for {' and '.join(given) or 'no split'} but none for train; add a train split"
        )
    if POOL in given:
        raise BadEntry(
            "some pictures belong to a split and others to none; name a split for all of them or for none"
        )
    if "val" not in given:
        given["train"], given["val"] = _cut(given["train"])
    return {name: given[name] for name in SPLITS if name in given}


def _cut(
    pictures: Sequence[DatasetImage],
) -> tuple[tuple[DatasetImage, ...], tuple[DatasetImage, ...]]:
    """Pictures for train and for val, about four to one, at least one for each.

    A picture's own content decides, so it stays on its side when others come or go, and copies of it stay together.
    """
    contents = sorted({picture.sha256 for picture in pictures})
    if len(contents) < 2:
        raise BadEntry(
            "a train and a val split cannot be cut from fewer than two different pictures; add pictures"
        )
    limit = f"{int(VAL_FRACTION * 16**8):08x}"
    chosen = {content for content in contents if content[:8] < limit} or {contents[0]}
    if len(chosen) == len(contents):
        chosen.remove(contents[-1])
    train = tuple(picture for picture in pictures if picture.sha256 not in chosen)
    return train, tuple(picture for picture in pictures if picture.sha256 in chosen)

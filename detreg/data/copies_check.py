"""Warns of copies: an image that two splits have, as it is or saved again, flatters the scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.data.boxes import Corners
from detreg.data.findings import Finding, FindingKind, ProblemCollector, Severity
from detreg.data.images import DatasetImage, name_inside
from detreg.data.looks import DatasetLooks, decode_thumbnails

Splits = Mapping[str, Sequence[DatasetImage]]

_EARLIER_SPLITS = {"val": ("train",), "test": ("train", "val")}
"""For each split those that must not have its images; a copy is told of in the first only."""

_SUBJECTS = {"train": "image of another split", "val": "image of test"}
_HARMS = {
    "train": "left there, but it flatters the scores",
    "val": "left there, but the model is chosen by val",
}
"""By the split that has the image, too."""


@dataclass(frozen=True)
class _CopyPair:
    """An image, and the one of an earlier split, or of its own, that it is a copy of."""

    image: Path
    original: Path
    split_of_original: str


def warn_of_copies(
    splits: Splits, folder: Path, looks: DatasetLooks | None, problems: ProblemCollector
) -> None:
    """Add a warning for each image that another split has, and for copies with other boxes.

    Copies have the same content, whatever their names; near copies look the same. An image is told
    of once, as a copy if it is one. The splits are those that will be used.

    looks: None where images were not compared.
    """
    exact_pairs = _find_exact_pairs(splits)
    for pair in exact_pairs:
        split = pair.split_of_original
        message = f"{_SUBJECTS[split]} found in {split} too: {_HARMS[split]}"
        kind = FindingKind.IMAGE_IN_SEVERAL_SPLITS
        problems.findings.append(_warn(kind, pair, folder, message, "keep it in one split"))

    exact_copies = {pair.image for pair in exact_pairs}
    for pair in _find_near_pairs(splits, looks) if looks is not None else ():
        if pair.image not in exact_copies:
            split = pair.split_of_original
            message = f"{_SUBJECTS[split]} that looks like one of {split}: {_HARMS[split]}"
            remedy = "keep both in one split"
            problems.findings.append(_warn(FindingKind.NEAR_COPY, pair, folder, message, remedy))

    for pair in _find_pairs_with_other_boxes(splits):
        kind = FindingKind.COPIES_THAT_DIFFER
        message = (
            "copy of an image of the same split with other boxes: left there, but the two "
            "contradict each other"
        )
        remedy = "correct one of them, or leave it out"
        problems.findings.append(_warn(kind, pair, folder, message, remedy))


def _warn(kind: FindingKind, pair: _CopyPair, folder: Path, message: str, remedy: str) -> Finding:
    """Return a warning of a copy, whose place names both files."""
    image, original = (name_inside(path, folder) for path in (pair.image, pair.original))
    relation = "looks like" if kind is FindingKind.NEAR_COPY else "the same file as"
    where = image if image == original else f"{image} ({relation} {original})"
    return Finding(kind, Severity.WARNING, where, message, remedy, image, original)


def _find_exact_pairs(splits: Splits) -> list[_CopyPair]:
    """Return the images whose content an earlier split has."""
    first_of_content: dict[str, dict[str, Path]] = {}
    for split, images in splits.items():
        firsts = first_of_content[split] = {}
        for image in images:
            firsts.setdefault(image.sha256, image.path)

    pairs = []
    for split, earlier_splits in _EARLIER_SPLITS.items():
        for image in splits.get(split, ()):
            for earlier in earlier_splits:
                original = first_of_content[earlier].get(image.sha256)
                if original is not None:
                    pairs.append(_CopyPair(image.path, original, earlier))
                    break
    return pairs


def _find_near_pairs(splits: Splits, looks: DatasetLooks) -> list[_CopyPair]:
    """Return the images that look like one of an earlier split, each with the most similar one."""
    group_of_path: dict[Path, int] = {}
    for number, group in enumerate(looks.near_copies):
        group_of_path |= dict.fromkeys(group, number)
    members: dict[int, dict[str, list[Path]]] = {}
    for split, images in splits.items():
        for image in images:
            group_number = group_of_path.get(image.path)
            if group_number is not None:
                members.setdefault(group_number, {}).setdefault(split, []).append(image.path)

    pairs = []
    for paths_of_split in members.values():
        for split, earlier_splits in _EARLIER_SPLITS.items():
            earlier = next((name for name in earlier_splits if name in paths_of_split), None)
            if split in paths_of_split and earlier is not None:
                originals = paths_of_split[earlier]
                for path in paths_of_split[split]:
                    original = _find_most_similar(path, originals, looks)
                    pairs.append(_CopyPair(path, original, earlier))
    return pairs


def _find_most_similar(path: Path, others: Sequence[Path], looks: DatasetLooks) -> Path:
    """Return the one of some images that looks the most like an image."""
    (thumbnail,) = decode_thumbnails([looks.by_path[path]])
    thumbnails = decode_thumbnails(looks.by_path[other] for other in others)
    return others[int((thumbnails @ thumbnail).argmax())]


def _find_pairs_with_other_boxes(splits: Splits) -> list[_CopyPair]:
    """Return the copies of images of the same split that have other boxes."""
    pairs = []
    for split, images in splits.items():
        num_copies = Counter(image.sha256 for image in images)
        originals: dict[str, DatasetImage] = {}
        for image in images:
            # Nearly all images: no more is computed of those that have no copy.
            if num_copies[image.sha256] == 1:
                continue
            original = originals.setdefault(image.sha256, image)
            if _describe_boxes(image) != _describe_boxes(original):
                pairs.append(_CopyPair(image.path, original.path, split))
    return pairs


def _describe_boxes(image: DatasetImage) -> set[tuple[str, Corners, bool]]:
    """Return the boxes of an image, whatever their order."""
    return {(box.label, box.corners, box.crowd) for box in image.boxes}

"""Checks a dataset as it was read: everything that would change what is learned is a problem, all told at once; the rest is repaired.

A problem is one line: where (file, annotation, class), what is wrong, and how to put it right.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from detreg.data.images import Probe, probe_all
from detreg.data.raw import BadEntry, Box, DatasetImage, ProblemCollector, RawDataset, Record
from detreg.data.splits import SPLITS, complete

CLIPPED = "box clipped to its picture"
EMPTY = "box without extent dropped"
THIN = "box less than one pixel wide or high dropped"
REPEATED = "exact duplicate of a box dropped"
LEAKED = "picture of another split found in train too: left there, but it flatters the scores"

_DECIMALS = 3
"""A thousandth of a pixel: finer than any label, coarser than the rounding of fractions to pixels and back."""


@dataclass(frozen=True)
class Report:
    """What the check found: problems, repairs with how often each was made, and the pictures of each split as they will be used.

    With problems, `splits` is what is left of the given ones, for counting only.
    """

    problems: tuple[str, ...]
    repairs: Mapping[str, int]
    splits: Mapping[str, tuple[DatasetImage, ...]]


def check(raw: RawDataset) -> Report:
    """Looks at every picture and box of `raw`, completes the splits, and reports; raises nothing on bad data."""
    notes = ProblemCollector([*raw.problems, *_class_problems(raw.classes)], Counter(raw.repairs))
    probes = probe_all(record.picture for records in raw.splits.values() for record in records)
    normalised = set() if raw.fractions else _normalised_sources(raw)
    for source in sorted(normalised):
        notes.problems.append(
            f"{source}: every box lies within 0..1, so these are fractions of the picture; multiply them by its size in pixels"
        )
    checked: dict[str, list[DatasetImage]] = {}
    for split, records in raw.splits.items():
        checked[split] = []
        for record in records:
            probe = probes[record.picture]
            with notes.at(_where(record, raw)):
                _compare_sizes(record, probe)
            boxes = () if record.source in normalised else _checked_boxes(record, probe, raw, notes)
            if not probe.problem:
                checked[split].append(
                    DatasetImage(record.picture, probe.width, probe.height, probe.sha256, boxes)
                )
    splits = {
        split: tuple(sorted(pictures, key=lambda picture: picture.path))
        for split, pictures in checked.items()
    }
    # Splits are completed only when all else is right: pictures that are left out could make them look wrong, too.
    if not notes.problems:
        with notes.at(raw.folder.name):
            splits = _complete(splits, notes)
    return Report(
        tuple(notes.problems),
        {name: count for name, count in notes.repairs.items() if count},
        splits,
    )


def boxes_per_class(pictures: Iterable[DatasetImage], classes: Iterable[str]) -> tuple[int, ...]:
    """How many boxes each class has, crowd regions left out."""
    counts = Counter(box.label for picture in pictures for box in picture.boxes if not box.crowd)
    return tuple(counts[name] for name in classes)


def _class_problems(classes: Iterable[str]) -> list[str]:
    problems = []
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(classes):
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    for key, names in alike.items():
        if not key:
            problems.append("classes: a class has an empty name; give it one in the annotations")
        elif len(names) > 1:
            listed = " and ".join(repr(name) for name in names)
            problems.append(
                f"classes: {listed} differ only by case or space; write them in one way in all annotations"
            )
    return problems


def _normalised_sources(raw: RawDataset) -> set[str]:
    """Annotation files all of whose boxes lie within 0..1, empty boxes left out."""
    largest: dict[str, float] = {}
    for records in raw.splits.values():
        for record in records:
            for box in record.boxes:
                x1, y1, x2, y2 = box.corners
                if x2 > x1 and y2 > y1:
                    largest[record.source] = max(largest.get(record.source, 0), *box.corners)
    return {source for source, value in largest.items() if value <= 1}


def _where(record: Record, raw: RawDataset) -> str:
    name = record.picture.relative_to(raw.folder).as_posix()
    return f"{name} (in {record.source})"


def _compare_sizes(record: Record, probe: Probe) -> None:
    if probe.problem:
        raise BadEntry(probe.problem)
    stated = (record.width or probe.width, record.height or probe.height)
    if stated == (probe.width, probe.height):
        return
    real, told = f"{probe.width}x{probe.height}", f"{stated[0]}x{stated[1]}"
    if probe.turned and stated == (probe.height, probe.width):
        raise BadEntry(
            f"{told} is stated, which is the picture before its EXIF orientation turns it to {real}; "
            "turn the pixels and remove the orientation, or label the turned picture"
        )
    raise BadEntry(
        f"{told} is stated but the picture is {real}; the boxes belong to a picture of another size: bring back that one or label anew"
    )


def _checked_boxes(
    record: Record, probe: Probe, raw: RawDataset, notes: ProblemCollector
) -> tuple[Box, ...]:
    # An unreadable picture's boxes are still checked as far as the stated size goes, so that all problems are told at once.
    width, height = (
        (record.width or 0, record.height or 0) if probe.problem else (probe.width, probe.height)
    )
    kept: dict[tuple[object, ...], Box] = {}
    for box in record.boxes:
        with notes.at(f"{record.source} {box.where}"):
            mended = _mended(
                _in_pixels(box, width, height) if raw.fractions else box, width, height, notes
            )
            if mended is not None:
                notes.repairs[REPEATED] += (
                    key := (mended.label, mended.corners, mended.crowd)
                ) in kept
                kept.setdefault(key, mended)
    return tuple(kept.values())


def _in_pixels(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box.corners
    return replace(box, corners=(x1 * width, y1 * height, x2 * width, y2 * height))


def _mended(box: Box, width: int, height: int, notes: ProblemCollector) -> Box | None:
    """The box clipped to its picture, with an area; None for one too small to be an object. Width and height 0 mean not known."""
    if not all(math.isfinite(value) for value in box.corners):
        raise BadEntry(
            "the box has a coordinate that is not a finite number (NaN or infinite); correct or remove it"
        )
    # Adding zero turns -0.0 into 0.0, which would be another digest.
    x1, y1, x2, y2 = corners = tuple(round(value, _DECIMALS) + 0.0 for value in box.corners)
    if x2 < x1 or y2 < y1:
        raise BadEntry(
            f"the box ({_text(corners)}) ends before it begins: a negative width or height, or swapped corners; correct it"
        )
    if x1 == x2 or y1 == y2:
        notes.repairs[EMPTY] += 1
        return None
    if not (width and height):
        return None
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise BadEntry(
            f"the box ({_text(corners)}) lies wholly outside its picture of {width}x{height}; correct or remove it"
        )
    x1, y1, x2, y2 = clipped = (
        max(x1, 0.0),
        max(y1, 0.0),
        min(x2, float(width)),
        min(y2, float(height)),
    )
    # MMDetection leaves such boxes out of training without a word, while scoring would still ask for them.
    if round(x2 - x1, _DECIMALS) < 1 or round(y2 - y1, _DECIMALS) < 1:
        notes.repairs[THIN] += 1
        return None
    notes.repairs[CLIPPED] += clipped != corners
    area = None if clipped != corners else box.area
    return replace(box, corners=clipped, area=area or round((x2 - x1) * (y2 - y1), _DECIMALS))


def _text(corners: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in corners)


def _complete(
    given: Mapping[str, tuple[DatasetImage, ...]], notes: ProblemCollector
) -> dict[str, tuple[DatasetImage, ...]]:
    """The completed splits; raises BadEntry for what only shows now, and counts the pictures that splits share."""
    if not any(given.values()):
        raise BadEntry("there are no pictures; add some, and see that the annotations list them")
    splits = complete(given)
    if not any(not box.crowd for picture in splits["train"] for box in picture.boxes):
        raise BadEntry(
            "the train split has no boxes, so there is nothing to learn; label its pictures"
        )
    seen = {picture.sha256 for picture in splits["train"]}
    for split in SPLITS[1:]:
        notes.repairs[LEAKED] += sum(picture.sha256 in seen for picture in splits.get(split, ()))
    return splits

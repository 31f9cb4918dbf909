"""Cases: a dataset as somebody has it, and what a user must get."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builders import CLASSES, Files, write_files
from dataset_readings import (
    ANY,
    Reading,
    ReadSplits,
    merge_splits,
    read_dataset,
)

Pack = Callable[[Path, Files], Path]
"""Writes files to a path, as a folder or as an archive, and returns what a user gives detreg."""


@dataclass(frozen=True)
class Case:
    """A dataset and what must come of it.

    splits: what is read of an accepted dataset; None where it must be refused.
    refused: words of the refusal, "a|b" for one of several; None where it must be accepted. Where
        both are given, either may happen, but nothing else may be read.
    told: words that the user must read of an accepted dataset.
    pack: how the files lie; `name` is that of the folder or archive.
    """

    id: str
    build: Callable[[], Files]
    splits: ReadSplits | None = None
    refused: Sequence[str] | None = None
    told: Sequence[str] = ()
    classes: Sequence[str] = CLASSES
    pack: Pack = write_files
    name: str = "boats"


def find_fault(case: Case, folder: Path) -> str:
    """Return what is wrong with how a case is read, empty where nothing is."""
    path = case.pack(folder / case.name, case.build())
    cache = folder / "cache"
    reading = read_dataset(path, cache)
    if reading.refusal:
        return _find_fault_of_refusal(case, reading)
    return _find_fault_of_reading(case, reading, path, cache)


def _find_fault_of_refusal(case: Case, reading: Reading) -> str:
    if case.refused is None:
        return f"refused: {reading.refusal[:300]}"
    missing = _find_missing_words(case.refused, reading.refusal)
    return f"refused without {missing}: {reading.refusal[:300]}" if missing else ""


def _find_fault_of_reading(case: Case, reading: Reading, path: Path, cache: Path) -> str:
    assert reading.splits is not None
    if case.splits is None:
        return f"accepted; must be refused with {case.refused}"
    if tuple(case.classes) != reading.classes:
        return f"classes {reading.classes} instead of {tuple(case.classes)}"

    got = {split: dict(images) for split, images in reading.splits.items()}
    if ANY in case.splits:
        fault = _find_fault_of_cut(reading)
        if fault:
            return fault
        got = merge_splits(reading.splits)  # type: ignore[assignment]
    if got != case.splits:
        return f"read {_count(got)} instead of {_count(case.splits)}: {_differ(got, case.splits)}"

    missing = _find_missing_words(case.told, reading.told)
    return f"not told: {missing}; told was {reading.told!r}" if missing else ""


def _find_fault_of_cut(reading: Reading) -> str:
    """Return what is wrong with splits that detreg has cut itself."""
    assert reading.splits is not None
    train, val = len(reading.splits["train"]), len(reading.splits["val"])
    if val > max(1, 0.4 * (train + val)):
        return f"val has {val} images and train {train}"
    boxes = [box for images in reading.splits["train"].values() for box in images]
    missing = set(reading.classes) - {box[0] for box in boxes}
    return f"train lacks {missing}" if missing else ""


def _find_missing_words(words: Sequence[str], text: str) -> list[str]:
    """Return the words that are not in a text, whatever their case."""
    lowered = text.lower()
    return [word for word in words if not any(part in lowered for part in word.lower().split("|"))]


def _count(splits: object) -> dict[str, int]:
    assert isinstance(splits, dict)
    return {split: len(images) for split, images in splits.items()}


def _differ(got: object, wanted: object) -> str:
    """Return the first difference in the boxes of an image."""
    assert isinstance(got, dict) and isinstance(wanted, dict)
    for split, images in wanted.items():
        for image, boxes in images.items():
            found = got.get(split, {}).get(image)
            if found != boxes:
                return f"in {split} {found} instead of {boxes}"
    return "more than there is"

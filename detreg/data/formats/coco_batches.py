"""Merges the annotation files of one split, as tools export one for each job or annotator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.data.findings import FindingKind, ProblemCollector, Severity
from detreg.data.raw import ImageRecord
from detreg.errors import quote, shorten


@dataclass(frozen=True)
class Batch:
    """What one annotation file says of one split.

    source: its path relative to the dataset's folder.
    classes: the names of its categories, also those without boxes.
    """

    source: str
    classes: tuple[str, ...]
    records: Sequence[ImageRecord]


def merge_batches(batches: Sequence[Batch], problems: ProblemCollector) -> list[ImageRecord]:
    """Return the records of all batches; an image that several have with the same boxes once.

    Different boxes of an image are an error, and so is a class that was labeled in one batch only:
    its objects in the images of the others would be learned as background.
    """
    if len(batches) == 1:
        return list(batches[0].records)

    sources = ", ".join(batch.source for batch in batches)
    problems.add(
        FindingKind.UNUSED_FILE, Severity.NOTE, sources, "annotation files of one split merged"
    )
    _check_classes(batches, problems)

    merged: list[ImageRecord] = []
    record_of_image: dict[Path, ImageRecord] = {}
    conflicts: dict[tuple[str, str], list[str]] = {}
    for batch in batches:
        # What one file says twice of an image is no matter of this module.
        added = []
        for record in batch.records:
            other = record_of_image.get(record.image)
            if other is None:
                added.append(record)
            elif _describe_boxes(record) != _describe_boxes(other):
                conflicts.setdefault((other.source, batch.source), []).append(record.image.name)
            else:
                problems.add(
                    FindingKind.DUPLICATE_ENTRY,
                    Severity.NOTE,
                    f"{batch.source} {shorten(record.image.name)}",
                    "image that several annotation files list with the same boxes taken once",
                )
        merged.extend(added)
        record_of_image.update({record.image: record for record in added})
    _add_conflicts(conflicts, problems)
    return merged


def _check_classes(batches: Sequence[Batch], problems: ProblemCollector) -> None:
    """Add an error for each batch that does not know a class with boxes in another one."""
    source_of_label: dict[str, str] = {}
    for batch in batches:
        for record in batch.records:
            for box in record.boxes:
                source_of_label.setdefault(box.label, batch.source)

    for batch in batches:
        missing = sorted(source_of_label.keys() - set(batch.classes))
        if missing:
            problems.add_error(
                FindingKind.UNKNOWN_CLASS,
                batch.source,
                f"lacks the class {quote(missing[0])} of {source_of_label[missing[0]]}, which is "
                "of the same split; label it in the images of both and add it to the categories, "
                "or keep one of the files",
            )


def _describe_boxes(record: ImageRecord) -> list[tuple[str, str, bool]]:
    """Return what must be the same where two files list an image, whatever the order."""
    described = []
    for box in record.boxes:
        # Programs round in different ways.
        corners = " ".join(f"{value:.2f}" for value in box.corners)
        described.append((box.label, corners, box.crowd))
    return sorted(described)


def _add_conflicts(
    conflicts: Mapping[tuple[str, str], Sequence[str]], problems: ProblemCollector
) -> None:
    """Add an error for each two files that list images with different boxes.

    conflicts: the names of these images by the two files.
    """
    for (first, second), names in conflicts.items():
        count = f"{shorten(names[0])}, and {len(names)} images in all," if names[1:] else names[0]
        verb = "have" if names[1:] else "has"
        problems.add_error(
            FindingKind.DUPLICATE_ENTRY,
            f"{first}, {second}",
            f"{count} {verb} other boxes in one of these annotation files of a split than in the "
            "other; merge their boxes, or keep one of the files",
        )

"""Leaves out the images that cannot be used: where they, or entries of their annotations, are bad.

What is left out is always an image as a whole, with all its annotations: an image that lacks some
of its boxes would teach that their objects are background. And it is left out only where the rest
of the dataset is right without it. A class number that no class has, for one, is an error in the
annotations of one image, but says that the numbers of all others may be wrong, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from detreg.data.findings import Finding, FindingKind, Severity
from detreg.data.images import DatasetImage, name_inside
from detreg.data.raw import ImageRecord, RawDataset

LEFT_OUT_MESSAGE = "image left out, because it or its annotations cannot be used"

CheckedRecord = tuple[ImageRecord, DatasetImage | None]
"""An image as it was read and as it was checked; None where its file cannot be used."""

_KINDS_OF_ALL_LABELS = (
    FindingKind.UNKNOWN_CLASS,
    FindingKind.INVALID_CLASS,
    FindingKind.SIMILAR_CLASSES,
)
"""What is wrong with a class at one image may be wrong with the class everywhere."""


@dataclass(frozen=True)
class UsableImages:
    """What remains of a dataset without the images that cannot be used.

    raw, checked: the dataset as it was read and as it was checked, without these images.
    findings: those that remain, and a warning for each image that is left out.
    left_out: the errors of the images that are left out.
    """

    raw: RawDataset
    checked: Mapping[str, Sequence[CheckedRecord]]
    findings: tuple[Finding, ...]
    left_out: tuple[Finding, ...]


def can_leave_out(finding: Finding) -> bool:
    """Whether an error is mended by leaving out the image that it concerns."""
    is_error = finding.severity is Severity.ERROR
    return is_error and finding.image != "" and finding.kind not in _KINDS_OF_ALL_LABELS


def leave_out_unusable(
    raw: RawDataset,
    checked: Mapping[str, Sequence[CheckedRecord]],
    findings: Sequence[Finding],
) -> UsableImages:
    """Leave out the images that have errors of their own, in every split that has them."""
    left_out = [finding for finding in findings if can_leave_out(finding)]
    remaining = [finding for finding in findings if not can_leave_out(finding)]

    # Of an entry without an image, such as one whose file is missing, there is no record.
    unusable = {finding.image for finding in left_out}
    names = set(unusable)
    for record, _ in chain.from_iterable(checked.values()):
        found = unusable & {record.source, record.entry}
        if found:
            names -= found
            names.add(name_inside(record.image, raw.folder))

    usable: dict[str, list[CheckedRecord]] = {}
    for split, pairs in checked.items():
        usable[split] = [
            pair for pair in pairs if name_inside(pair[0].image, raw.folder) not in names
        ]

    for name in sorted(names):
        remaining.append(
            Finding(FindingKind.IMAGE_LEFT_OUT, Severity.WARNING, name, LEFT_OUT_MESSAGE)
        )
    records = {split: [record for record, _ in pairs] for split, pairs in usable.items()}
    return UsableImages(replace(raw, splits=records), usable, tuple(remaining), tuple(left_out))

"""Checks what shows over a whole split only: its classes, its boxes, images listed twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from detreg.data.boxes import Box
from detreg.data.findings import Finding, FindingKind, ProblemCollector, Severity
from detreg.data.formats.lookup import find_duplicates
from detreg.data.raw import ImageRecord, RawDataset
from detreg.errors import quote

_MIN_CUT_BOXES = 3
_MIN_CUT_SHARE = 0.2
"""From so many boxes on that reach far over their image, the boxes are wrong and not sloppy."""

_CORNERS_SHARE = 0.95
"""How many of the boxes have to look like corners before that is said."""


def check_given_splits(raw: RawDataset, problems: ProblemCollector) -> None:
    """Add an error for what the splits as they were given cannot be trained and scored with."""
    for split, records in raw.splits.items():
        for image in find_duplicates(record.image for record in records):
            name = image.relative_to(raw.folder).as_posix()
            problems.for_image(name).add_error(
                FindingKind.DUPLICATE_ENTRY,
                name,
                f"the image is listed more than once in {split}; merge the entries into one",
            )

    learned = _find_first_boxes(raw.splits.get("train", ()))
    if not learned:
        return
    # So few images are a trial, such as the first ten of a large dataset.
    is_trial = len(raw.splits["train"]) < len(raw.classes)
    for split in ("val", "test"):
        _check_classes(split, raw.splits.get(split, ()), learned, is_trial, problems)

    val = raw.splits.get("val", ())
    if val and not _find_first_boxes(val):
        problems.add_error(
            FindingKind.NOTHING_TO_LEARN,
            val[0].source,
            "the val split has no boxes, so nothing can be scored; label its images, or leave the "
            "split out to have it cut from train",
        )


def check_cut_boxes(
    split: str,
    records: Sequence[ImageRecord],
    findings: Sequence[Finding],
    raw: RawDataset,
    problems: ProblemCollector,
) -> None:
    """Add an error where many boxes of a split reach far over the edge of their images.

    findings: those of the split's boxes.
    """
    num_cut = sum(finding.kind is FindingKind.BOX_CUT for finding in findings)
    if num_cut < _MIN_CUT_BOXES:
        return
    boxes = [box for record in records for box in record.boxes]
    if num_cut < _MIN_CUT_SHARE * len(boxes):
        return

    if raw.format != "voc" and _look_like_corners(boxes, raw.fractions):
        reason = "they look like corners x1, y1, x2, y2 where width and height belong"
        remedy = "convert them"
    else:
        reason = "they belong to images of another size, or are given in another way"
        remedy = "correct them, or leave them out where most of an object is not in its image"
    where = records[0].source if len({record.source for record in records}) == 1 else split
    problems.add_error(
        FindingKind.BOX_CUT,
        where,
        f"{num_cut} of {len(boxes)} boxes reach over their image by more than a quarter of "
        f"themselves: {reason}; {remedy}",
    )


def _find_first_boxes(records: Sequence[ImageRecord]) -> dict[str, tuple[ImageRecord, Box]]:
    """Return the first box of each class with its record; regions to ignore do not count."""
    first_boxes: dict[str, tuple[ImageRecord, Box]] = {}
    for record in records:
        for box in record.boxes:
            if not box.crowd and box.label not in first_boxes:
                first_boxes[box.label] = (record, box)
    return first_boxes


def _check_classes(
    split: str,
    records: Sequence[ImageRecord],
    learned: Mapping[str, object],
    is_trial: bool,
    problems: ProblemCollector,
) -> None:
    """Add an error, in a trial a warning, for each class that a split has and train has not."""
    counts = Counter(box.label for record in records for box in record.boxes if not box.crowd)
    for label, (record, box) in _find_first_boxes(records).items():
        if label in learned:
            continue
        remedy = "label it in train, too, or leave its boxes out"
        similar = get_close_matches(label, learned, n=1)
        if similar:
            remedy = f"it may be a typo of {quote(similar[0])}: correct it, or {remedy}"
        where = f"{record.source} {box.where}"
        if is_trial:
            reason = "class that train lacks, which has fewer images than there are classes"
            problems.add(FindingKind.UNKNOWN_CLASS, Severity.WARNING, where, f"{reason}; {remedy}")
            continue
        reason = (
            f"class {quote(label)} has {counts[label]} boxes in {split} and none in train, so that "
            "it cannot be learned"
        )
        problems.add_error(FindingKind.UNKNOWN_CLASS, where, f"{reason}; {remedy}")


def _look_like_corners(boxes: Sequence[Box], fractions: bool) -> bool:
    """Whether the two last numbers of nearly all boxes would be a second corner, if they were one.

    fractions: whether the first two numbers are the center of a box, and not its first corner.
    """
    count = 0
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        width = x2 - x1
        height = y2 - y1
        x = (x1 + x2) / 2 if fractions else x1
        y = (y1 + y2) / 2 if fractions else y1
        count += width > x and height > y
    return count >= _CORNERS_SHARE * len(boxes)

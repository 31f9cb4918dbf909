"""Checks a dataset as it was read, and repairs what is harmless.

Everything that would change what is learned is an error. All errors are collected, so that they
can be mended in one go; the rest is repaired in the canonical copy, and counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detreg.data.box_check import check_boxes
from detreg.data.boxes import Box
from detreg.data.class_names import check_class_names, warn_of_typos
from detreg.data.copies_check import warn_of_copies
from detreg.data.findings import (
    BadEntryError,
    Finding,
    FindingKind,
    ProblemCollector,
    Severity,
    has_errors,
)
from detreg.data.good_boxes import keep_good_boxes
from detreg.data.images import DatasetImage, name_inside
from detreg.data.leaving_out import CheckedRecord, leave_out_unusable
from detreg.data.looks import DatasetLooks, has_few_pixels, locate_looks, look_at_images
from detreg.data.manifest import locate_manifest, probe_with_manifest
from detreg.data.mask_check import check_masks, check_masks_of_splits
from detreg.data.probe import ImageProbe, probe_images
from detreg.data.raw import ImageRecord, RawDataset
from detreg.data.split_check import check_cut_boxes, check_given_splits
from detreg.data.splits import complete_splits
from detreg.progress import Progress

_BATCH = 4096
"""Images whose boxes are checked at once: many enough to be quick, few enough to take no memory."""


@dataclass(frozen=True)
class CheckResult:
    """What the check found in a dataset.

    splits: the images of each split as they will be used. With errors among the findings, what is
        left of the splits as they were given, which is good for counting only.
    left_out: the errors of images that are left out, which are not among the findings.
    looks: how the images look, None where they were not compared: there are many, or none.
    """

    findings: tuple[Finding, ...]
    splits: Mapping[str, tuple[DatasetImage, ...]]
    left_out: tuple[Finding, ...] = ()
    looks: DatasetLooks | None = None


def check_dataset(
    raw: RawDataset,
    cache: Path | None = None,
    progress: Progress | None = None,
    *,
    leaves_out: bool = False,
    compares_all: bool = False,
    with_masks: bool = False,
) -> CheckResult:
    """Check every image and box of a dataset, and complete its splits. Bad data raises nothing.

    cache: the folder of `resolve_cache_folder`, which remembers images that have not changed; all
        are read where it is None.
    leaves_out: whether images that cannot be used are left out (leaving_out.py), and not errors.
    compares_all: whether images are compared however many they are. It changes what is found, and
        never the splits: a cut knows of near copies in small datasets only.
    with_masks: whether the masks of the boxes are read and checked, too. It changes no box.
    """
    progress = progress or Progress()
    problems = ProblemCollector(list(raw.findings))
    check_class_names(raw.classes, problems)
    raw = _drop_normalized_boxes(raw, problems)

    paths = [record.image for records in raw.splits.values() for record in records]
    progress.begin("reading images", len(paths))
    probes = _probe_images(paths, raw.folder, cache, progress)

    progress.begin("checking boxes", len(paths))
    checked: dict[str, Sequence[CheckedRecord]] = {}
    for split, records in raw.splits.items():
        num_findings = len(problems.findings)
        found: list[CheckedRecord] = []
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            found += _check_records(batch, probes, raw, problems)
            progress.add(len(batch))
        checked[split] = found
        check_cut_boxes(split, records, problems.findings[num_findings:], raw, problems)

    if with_masks:
        progress.begin("reading masks")
        checked = dict(check_masks(raw, checked, problems))

    left_out: tuple[Finding, ...] = ()
    if leaves_out:
        usable = leave_out_unusable(raw, checked, problems.findings)
        raw, checked, left_out = usable.raw, dict(usable.checked), usable.left_out
        problems = ProblemCollector(list(usable.findings))

    splits = {split: _sort_images(pairs) for split, pairs in checked.items()}
    is_compared = compares_all or has_few_pixels(splits)
    looks = _look_at_images(splits, raw.folder, cache, progress) if is_compared else None

    # Splits are judged and completed only when all else is right: an image or a box that was left
    # out because of an error could make them look wrong, too.
    if not has_errors(problems.findings):
        check_given_splits(raw, problems)
    if not has_errors(problems.findings):
        # The name of the folder is empty for the root of a file system.
        where = raw.folder.name or str(raw.folder)
        with problems.catch_bad_entry(where):
            splits = _complete_splits(raw, splits, looks, problems)
    if with_masks and not has_errors(problems.findings):
        check_masks_of_splits(splits, raw.folder.name or str(raw.folder), problems)

    return CheckResult(tuple(problems.findings), splits, left_out, looks)


def _sort_images(checked: Sequence[CheckedRecord]) -> tuple[DatasetImage, ...]:
    """Return the images that can be used in the order of their paths.

    Image ids follow this order, and readers list images in any order.
    """
    usable = [image for _, image in checked if image is not None]
    # By parts, as Path compares, but a hundred thousand paths in a tenth of the time.
    return tuple(sorted(usable, key=_get_path_parts))


def _get_path_parts(image: DatasetImage) -> tuple[str, ...]:
    """Return the parts of an image's path, by which Path compares, too."""
    return image.path.parts


def count_boxes(images: Iterable[DatasetImage], classes: Iterable[str]) -> tuple[int, ...]:
    """Return how many boxes each class has, in the order of the classes, without crowd regions."""
    boxes = [box for image in images for box in image.boxes]
    counts = Counter(box.label for box in boxes if not box.crowd)
    return tuple(counts[name] for name in classes)


def _probe_images(
    paths: Sequence[Path], folder: Path, cache: Path | None, progress: Progress
) -> dict[Path, ImageProbe]:
    """Return the probe of each image of the dataset in `folder`."""
    if cache is None:
        return probe_images(paths, progress.add)
    return probe_with_manifest(paths, locate_manifest(folder, cache), progress.add)


def _look_at_images(
    splits: Mapping[str, Sequence[DatasetImage]],
    folder: Path,
    cache: Path | None,
    progress: Progress,
) -> DatasetLooks:
    """Return how the images of the dataset in `folder` look."""
    if cache is None:
        return look_at_images(splits, None, progress)
    return look_at_images(splits, locate_looks(locate_manifest(folder, cache)), progress)


def _drop_normalized_boxes(raw: RawDataset, problems: ProblemCollector) -> RawDataset:
    """Return the dataset without the boxes that are fractions where pixels are expected.

    Adds one error for each annotation file, instead of one for each box.
    """
    normalized_sources = _find_normalized_sources(raw)
    for source in sorted(normalized_sources):
        problems.add_error(
            FindingKind.WRONG_UNIT,
            source,
            "every box lies within 0..1, so these are fractions of the image; "
            "multiply them by its size in pixels",
        )

    if not normalized_sources:
        return raw

    splits: dict[str, list[ImageRecord]] = {}
    for split, records in raw.splits.items():
        splits[split] = []
        for record in records:
            if record.source in normalized_sources:
                record = replace(record, boxes=())
            splits[split].append(record)
    return replace(raw, splits=splits)


def _find_normalized_sources(raw: RawDataset) -> set[str]:
    """Return the annotation files whose boxes all lie within 0..1 although pixels are expected."""
    if raw.fractions:
        return set()

    # Whether all boxes of a file that have an extent lie within 0..1.
    is_normalized: dict[str, bool] = {}
    for records in raw.splits.values():
        for record in records:
            if is_normalized.get(record.source, True):
                largest = _find_largest_coordinate(record.boxes)
                if largest is not None:
                    is_normalized[record.source] = largest <= 1
    return {source for source, value in is_normalized.items() if value}


def _find_largest_coordinate(boxes: Iterable[Box]) -> float | None:
    """Return the largest coordinate of the boxes, None where none has an extent."""
    largest: float | None = None
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        # A box without extent, often all zeros, says nothing about the unit.
        if x2 > x1 and y2 > y1:
            largest = max(x2, y2) if largest is None else max(largest, x2, y2)
    return largest


def _check_records(
    records: Sequence[ImageRecord],
    probes: Mapping[Path, ImageProbe],
    raw: RawDataset,
    problems: ProblemCollector,
) -> list[CheckedRecord]:
    """Return the records, each with its checked image."""
    probes_of_records = [probes[record.image] for record in records]
    # Of a file that cannot be used, the size is 0.
    sizes = [(probe.width, probe.height) for probe in probes_of_records]
    good_boxes = keep_good_boxes(records, sizes, raw.fractions)

    checked: list[CheckedRecord] = []
    for record, probe, boxes in zip(records, probes_of_records, good_boxes, strict=True):
        checked.append((record, _check_record(record, probe, boxes, raw, problems)))
    return checked


def _check_record(
    record: ImageRecord,
    probe: ImageProbe,
    good_boxes: tuple[Box, ...] | None,
    raw: RawDataset,
    problems: ProblemCollector,
) -> DatasetImage | None:
    """Return the checked image of a record, None where its file cannot be used.

    good_boxes: the boxes as they will be used, None where there is something to tell of them.
    """
    name = name_inside(record.image, raw.folder)
    problems = problems.for_image(name)
    # Not `catch_bad_entry`: this is called for each of a hundred thousand images.
    try:
        _check_name(name)
        _check_size(record, probe)
    except BadEntryError as error:
        problems.add_error(error.kind, f"{name} (in {record.source})", str(error))

    # The boxes of an unreadable image are checked, too, as far as the stated size goes, so that
    # its user learns of all errors at once.
    if probe.error is not None:
        stated_size = (record.width or 0, record.height or 0)
        check_boxes(record, stated_size, raw.fractions, problems)
        return None

    if probe.loss:
        problems.add(FindingKind.IMAGE_REDUCED, Severity.NOTE, name, probe.loss)
    if probe.turned and record.width is None and record.boxes:
        problems.add(
            FindingKind.EXIF_ROTATION,
            Severity.NOTE,
            name,
            "image turned by its EXIF orientation, with no size stated: boxes taken as those of "
            "the turned image",
        )
    boxes = good_boxes
    if boxes is None:
        boxes = check_boxes(record, (probe.width, probe.height), raw.fractions, problems)
    return DatasetImage(record.image, probe.width, probe.height, probe.sha256, boxes)


def _check_name(name: str) -> None:
    """Raise BadEntryError for a name that is not Unicode, which no JSON file can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BadEntryError(
            FindingKind.UNREADABLE_IMAGE,
            "the name of the image is not UTF-8; rename the file, and in the annotations",
        ) from error


def _check_size(record: ImageRecord, probe: ImageProbe) -> None:
    """Raise BadEntryError where the image is unusable, or of another size than is stated."""
    if probe.error is not None:
        raise BadEntryError(probe.error.kind, str(probe.error))

    stated_size = (record.width or probe.width, record.height or probe.height)
    if stated_size == (probe.width, probe.height):
        return

    stated = f"{stated_size[0]}x{stated_size[1]}"
    actual = f"{probe.width}x{probe.height}"
    if probe.turned and stated_size == (probe.height, probe.width):
        raise BadEntryError(
            FindingKind.EXIF_ROTATION,
            f"{stated} is stated, which is the image before its EXIF orientation turns it to "
            f"{actual}; turn the pixels and remove the orientation, or label the turned image",
        )
    raise BadEntryError(
        FindingKind.SIZE_MISMATCH,
        f"{stated} is stated but the image is {actual}; the boxes belong to an image of another "
        "size: restore that one or label again",
    )


def _complete_splits(
    raw: RawDataset,
    given: Mapping[str, tuple[DatasetImage, ...]],
    looks: DatasetLooks | None,
    problems: ProblemCollector,
) -> dict[str, tuple[DatasetImage, ...]]:
    """Return the completed splits, and add a warning for each copy that matters.

    Raises BadEntryError for what shows only now: no images, no train split, nothing to learn.
    """
    if not any(given.values()):
        raise BadEntryError(
            FindingKind.TOO_FEW_IMAGES,
            "there are no images; add some, and see that the annotations list them",
        )

    # Of a large dataset the images are compared on request, which must not change its splits.
    near_copies = looks.near_copies if looks is not None and has_few_pixels(given) else ()
    splits = complete_splits(given, near_copies)
    # A dataset without any splits is expected to be cut.
    if "train" in given and not given.get("val"):
        problems.add(
            FindingKind.MISSING_SPLIT,
            Severity.NOTE,
            raw.folder.name or str(raw.folder),
            "val split that the dataset lacks, or has without images, cut from train",
        )
    train_boxes = [box for image in splits["train"] for box in image.boxes]
    if all(box.crowd for box in train_boxes):
        raise BadEntryError(
            FindingKind.NOTHING_TO_LEARN,
            "the train split has no boxes, so there is nothing to learn; label its images",
        )

    warn_of_copies(splits, raw.folder, looks, problems)
    warn_of_typos(splits, problems)
    return splits

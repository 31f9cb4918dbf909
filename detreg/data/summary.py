"""Summaries of a dataset: in a few words for people, and as plain values for `detreg check`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from detreg.data import formats
from detreg.data.check import CheckResult, check_dataset, count_boxes
from detreg.data.dataset import Dataset
from detreg.data.digest import compute_digest, compute_masks_digest
from detreg.data.finding_groups import (
    FindingGroup,
    GroupSummary,
    group_findings,
    summarize_group,
)
from detreg.data.findings import (
    FindingKind,
    ProblemCollector,
    Severity,
    count_repairs,
    has_errors,
    list_problems,
)
from detreg.data.garbage_collection import pause_garbage_collection
from detreg.data.images import DatasetImage
from detreg.data.leaving_out import can_leave_out
from detreg.data.mask_check import count_masks
from detreg.data.raw import RawDataset
from detreg.data.screen import MAX_ROWS, count_findings, format_count, format_findings, wrap_line
from detreg.data.source import Source, name_format, open_source
from detreg.environment import resolve_cache_folder
from detreg.errors import DataError, make_printable
from detreg.progress import Progress

_MAX_CLASSES_SHOWN = 10
_MAX_LEFT_OUT_SHOWN = 3
_MAX_ROWS_IF_GOOD = 14


class SplitSummary(TypedDict):
    """The counts of one split; boxes without crowd regions.

    masks: how many boxes have one, where masks were asked for.
    """

    images: int
    boxes: int
    boxes_per_class: dict[str, int]
    masks: NotRequired[int]


class DatasetSummary(TypedDict):
    """What `detreg check --json` prints.

    format: None where no format is recognized.
    problems: one line for each error.
    repairs: what was mended, left or ignored, with how often.
    findings: all of that with its places; equal ones are one group, the most harmful first.
    digest: None unless ok.
    masks_digest: over boxes and masks, where masks were asked for; None unless ok.
    """

    ok: bool
    format: str | None
    classes: list[str]
    splits: dict[str, SplitSummary]
    problems: list[str]
    repairs: dict[str, int]
    findings: list[GroupSummary]
    digest: str | None
    masks_digest: NotRequired[str | None]


def describe_dataset(dataset: Dataset) -> str:
    """Return a line on the dataset, and a line for each kind of repair and what was left out."""
    counts = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    classes = _list_classes(dataset.classes)
    title = f"Dataset {dataset.name} ({dataset.format}, digest {dataset.digest})"
    lines = [f"{title}: {counts} images; classes {classes}"]
    if dataset.masks_digest:
        splits = dataset.splits.values()
        masks, boxes = sum(split.masks for split in splits), sum(split.boxes for split in splits)
        lines.append(
            f"  {masks} of {boxes} boxes have a mask (masks digest {dataset.masks_digest})"
        )
    for message, count in dataset.repairs.items():
        lines.append(f"  {message} ({count})")
    for problem in dataset.left_out[:_MAX_LEFT_OUT_SHOWN]:
        lines.append(f"  left out: {problem}")
    hidden = len(dataset.left_out) - _MAX_LEFT_OUT_SHOWN
    if hidden > 0:
        lines.append(f"  ... and {hidden} more: detreg check {dataset.origin} --json")
    return "\n".join(lines)


def _list_classes(classes: Sequence[str]) -> str:
    """Return the first class names, for a line."""
    shown = ", ".join(classes[:_MAX_CLASSES_SHOWN])
    return f"{shown} ... ({len(classes)})" if len(classes) > _MAX_CLASSES_SHOWN else shown


@dataclass(frozen=True)
class InspectedDataset:
    """A dataset that was read and checked, good or bad.

    groups: what was found, the most harmful first.
    raw, result: as it was read and as it was checked, None where no format is recognized.
    """

    summary: DatasetSummary
    groups: tuple[FindingGroup, ...]
    raw: RawDataset | None = None
    result: CheckResult | None = None


def summarize_dataset(data: str | Path, cache: str | Path | None = None) -> DatasetSummary:
    """Return what `detreg check` prints about the dataset at `data`; write no canonical copy.

    Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    return inspect_dataset(data, cache).summary


@pause_garbage_collection()
def inspect_dataset(
    data: str | Path,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    *,
    compares_all: bool = False,
    with_masks: bool = False,
) -> InspectedDataset:
    """Return the dataset at `data` with its summary; write no canonical copy.

    progress: is told what is being done.
    compares_all: whether images are compared however many they are.
    with_masks: whether masks are checked, too.

    Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    progress = progress or Progress()
    try:
        cache_folder = resolve_cache_folder(cache)
        source = open_source(data, cache_folder, masks=with_masks)
        progress.begin("reading annotations")
        raw = formats.read(source.folder, cache_folder)
    except DataError as error:
        return _describe_unrecognized(error)

    result = check_dataset(
        raw, cache_folder, progress, compares_all=compares_all, with_masks=with_masks
    )
    groups = group_findings(result.findings)
    summary = _summarize_result(source, raw, result, groups)
    if with_masks:
        _add_masks(summary, result)
    return InspectedDataset(summary, groups, raw, result)


def format_inspection(
    data: str, inspected: InspectedDataset, width: int | None = None
) -> list[str]:
    """Return at most a screenful of lines on a dataset: what was found, and the verdict.

    width: columns of the terminal, at which lines are broken; None does not break them.
    """
    # Advice follows where the dataset is good.
    max_rows = _MAX_ROWS_IF_GOOD if inspected.summary["ok"] else MAX_ROWS
    lines = format_findings(inspected.groups, width, max_rows)
    command = f"detreg check {shlex.quote(data)}"
    if "masks_digest" in inspected.summary:
        command += " --masks"
    findings = [finding for group in inspected.groups for finding in group.findings]
    if len(findings) > len(inspected.groups):
        lines += wrap_line(f"all places: {command} --json", width)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors and all(map(can_leave_out, errors)):
        advice = f"{command} --fix OUT writes a copy without these images"
        lines += wrap_line(advice, width)
    return lines + wrap_line(make_printable(_judge(data, inspected)), width)


def _judge(data: str, inspected: InspectedDataset) -> str:
    """Return the verdict on a dataset in a line."""
    found = inspected.summary
    errors = count_findings(inspected.groups, Severity.ERROR)
    warnings = count_findings(inspected.groups, Severity.WARNING)
    with_warnings = f" and {format_count(warnings, Severity.WARNING)}" if warnings else ""
    if not found["ok"]:
        return f"{data} has {format_count(errors, Severity.ERROR)}{with_warnings}"

    parts = [str(found["format"])]
    for name, split in found["splits"].items():
        masks = f" and {split['masks']} masks" if "masks" in split else ""
        parts.append(f"{name} {split['images']} images with {split['boxes']} boxes{masks}")
    contents = f"{', '.join(parts)}; classes {_list_classes(found['classes'])}"
    is_good = "is good" + with_warnings.replace(" and", ", with")
    return f"{data} {is_good}: {contents}; digest {found['digest']}"


def _describe_unrecognized(error: DataError) -> InspectedDataset:
    """Return what is known of something that is no dataset."""
    problems = ProblemCollector()
    for line in error.problems:
        # It begins with the place.
        where, _, message = line.partition(": ")
        problems.add_error(FindingKind.UNRECOGNIZED_DATASET, where, message or line)

    groups = group_findings(problems.findings)
    summary = DatasetSummary(
        ok=False,
        format=None,
        classes=[],
        splits={},
        problems=list(error.problems),
        repairs={},
        findings=[summarize_group(group) for group in groups],
        digest=None,
    )
    return InspectedDataset(summary, groups)


def _summarize_result(
    source: Source, raw: RawDataset, result: CheckResult, groups: Sequence[FindingGroup]
) -> DatasetSummary:
    """Return the summary of a dataset whose format is known."""
    splits = {}
    for name, images in result.splits.items():
        splits[name] = _summarize_split(images, raw.classes)

    is_good = not has_errors(result.findings)
    digest = compute_digest(raw.classes, result.splits) if is_good else None

    return DatasetSummary(
        ok=is_good,
        format=name_format(source, raw),
        classes=list(raw.classes),
        splits=splits,
        problems=list(list_problems(result.findings)),
        repairs=count_repairs(result.findings),
        findings=[summarize_group(group) for group in groups],
        digest=digest,
    )


def _add_masks(summary: DatasetSummary, result: CheckResult) -> None:
    """Add to a summary what is known of the masks."""
    for name, images in result.splits.items():
        summary["splits"][name]["masks"] = count_masks(images)
    digest = summary["digest"]
    summary["masks_digest"] = digest and compute_masks_digest(digest, result.splits)


def _summarize_split(images: Sequence[DatasetImage], classes: Sequence[str]) -> SplitSummary:
    """Return the counts of a split."""
    counts = count_boxes(images, classes)
    return SplitSummary(
        images=len(images),
        boxes=sum(counts),
        boxes_per_class=dict(zip(classes, counts, strict=True)),
    )

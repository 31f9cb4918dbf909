"""Summaries of a dataset: in a few words for people, and as plain values for `detreg check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from detreg.data import formats
from detreg.data.check import CheckResult, check_dataset, count_boxes
from detreg.data.dataset import Dataset
from detreg.data.digest import compute_digest
from detreg.data.findings import count_repairs, has_errors, list_problems
from detreg.data.images import DatasetImage
from detreg.data.raw import RawDataset
from detreg.data.source import Source, name_format, open_source, resolve_cache_folder
from detreg.errors import DataError

_MAX_CLASSES_SHOWN = 10


class SplitSummary(TypedDict):
    """The counts of one split; boxes without crowd regions."""

    images: int
    boxes: int
    boxes_per_class: dict[str, int]


class DatasetSummary(TypedDict):
    """What `detreg check --json` prints.

    format: None where no format is recognized.
    problems: one line for each error.
    repairs: what was mended, left or ignored, with how often.
    digest: None unless ok.
    """

    ok: bool
    format: str | None
    classes: list[str]
    splits: dict[str, SplitSummary]
    problems: list[str]
    repairs: dict[str, int]
    digest: str | None


def describe_dataset(dataset: Dataset) -> str:
    """Return a line on the dataset, and a line for each kind of repair that was made."""
    counts = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    classes = ", ".join(dataset.classes[:_MAX_CLASSES_SHOWN])
    if len(dataset.classes) > _MAX_CLASSES_SHOWN:
        classes += " ..."

    title = f"Dataset {dataset.name} ({dataset.format}, digest {dataset.digest})"
    lines = [f"{title}: {counts} images; classes {classes}"]
    for message, count in dataset.repairs.items():
        lines.append(f"  repaired: {message} ({count})")
    return "\n".join(lines)


@dataclass(frozen=True)
class InspectedDataset:
    """A dataset that was read and checked, good or bad.

    raw, result: as it was read and as it was checked, None where no format is recognized.
    """

    summary: DatasetSummary
    raw: RawDataset | None = None
    result: CheckResult | None = None


def summarize_dataset(data: str | Path, cache: str | Path | None = None) -> DatasetSummary:
    """Return what `detreg check` prints about the dataset at `data`; write no canonical copy.

    Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    return inspect_dataset(data, cache).summary


def inspect_dataset(data: str | Path, cache: str | Path | None = None) -> InspectedDataset:
    """Return the dataset at `data` with its summary; write no canonical copy.

    Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    try:
        source = open_source(data, resolve_cache_folder(cache))
        raw = formats.read(source.folder)
    except DataError as error:
        summary = DatasetSummary(
            ok=False,
            format=None,
            classes=[],
            splits={},
            problems=list(error.problems),
            repairs={},
            digest=None,
        )
        return InspectedDataset(summary)

    result = check_dataset(raw)
    summary = _summarize_result(source, raw, result)
    return InspectedDataset(summary, raw, result)


def _summarize_result(source: Source, raw: RawDataset, result: CheckResult) -> DatasetSummary:
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
        digest=digest,
    )


def _summarize_split(images: Sequence[DatasetImage], classes: Sequence[str]) -> SplitSummary:
    """Return the counts of a split."""
    counts = count_boxes(images, classes)
    return SplitSummary(
        images=len(images),
        boxes=sum(counts),
        boxes_per_class=dict(zip(classes, counts, strict=True)),
    )

"""Loads a dataset of any format, checks it, and brings it into one canonical form.

data, in any format -> formats.read -> check_dataset -> canonical copy -> Dataset
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from detreg.data import formats
from detreg.data.canonical import write_canonical_copy
from detreg.data.check import CheckResult, check_dataset, count_boxes
from detreg.data.digest import compute_digest, hash_paths
from detreg.data.findings import count_repairs, list_problems
from detreg.data.images import DatasetImage
from detreg.data.raw import RawDataset
from detreg.data.source import SAMPLE, Source, open_source, resolve_cache_folder
from detreg.errors import DataError

MAX_PROBLEMS_SHOWN = 100


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    annotations: path of its canonical COCO file.
    boxes, boxes_per_class: without crowd regions; the latter in the order of the classes.
    """

    name: str
    annotations: Path
    images: int
    boxes: int
    boxes_per_class: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A checked dataset with its canonical copy in `folder`.

    format: "coco", "roboflow", "voc", "yolo" or "sample".
    splits: always "train" and "val", and "test" where the dataset has one.
    digest: 16 hex digits over classes, splits, image files and boxes; the same wherever the
        dataset lies and whatever its format.
    repairs: what was mended in the canonical copy, with how often.
    """

    name: str
    format: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    digest: str
    folder: Path
    repairs: Mapping[str, int]


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


def load_dataset(data: str | Path, cache: str | Path | None = None) -> Dataset:
    """Check the dataset at `data` and write its canonical copy into the cache.

    data: "sample", a folder, or a zip or tar of a folder.
    cache: a folder, by default that of `resolve_cache_folder`.

    Raises DataError with every problem of the dataset, NotFoundError where there is none.
    """
    cache_folder = resolve_cache_folder(cache)
    source = open_source(data, cache_folder)
    raw = formats.read(source.folder)
    result = check_dataset(raw)

    problems = list_problems(result.findings)
    if problems:
        raise DataError(_shorten_problems(problems, data))

    digest = compute_digest(raw.classes, result.splits)
    # The copy names absolute paths: one dataset at two places has one digest and two copies.
    folder = cache_folder / "datasets" / f"{digest}-{hash_paths(result.splits)}"
    paths = write_canonical_copy(folder, raw.classes, result.splits)

    splits = {}
    for name, images in result.splits.items():
        counts = count_boxes(images, raw.classes)
        splits[name] = Split(name, paths[name], len(images), sum(counts), counts)

    return Dataset(
        name=source.name,
        format=_name_format(source, raw),
        classes=raw.classes,
        splits=MappingProxyType(splits),
        digest=digest,
        folder=folder,
        repairs=MappingProxyType(count_repairs(result.findings)),
    )


def summarize_dataset(data: str | Path, cache: str | Path | None = None) -> DatasetSummary:
    """Return what `detreg check` prints about the dataset at `data`; write no canonical copy.

    Raises NotFoundError where there is nothing at `data`, but nothing on bad data.
    """
    try:
        source = open_source(data, resolve_cache_folder(cache))
        raw = formats.read(source.folder)
    except DataError as error:
        return DatasetSummary(
            ok=False,
            format=None,
            classes=[],
            splits={},
            problems=list(error.problems),
            repairs={},
            digest=None,
        )
    return _summarize_result(source, raw, check_dataset(raw))


def _summarize_result(source: Source, raw: RawDataset, result: CheckResult) -> DatasetSummary:
    """Return the summary of a dataset whose format is known."""
    splits = {}
    for name, images in result.splits.items():
        splits[name] = _summarize_split(images, raw.classes)

    digest = None
    if not result.has_errors:
        digest = compute_digest(raw.classes, result.splits)

    return DatasetSummary(
        ok=not result.has_errors,
        format=_name_format(source, raw),
        classes=list(raw.classes),
        splits=splits,
        problems=list(list_problems(result.findings)),
        repairs=count_repairs(result.findings),
        digest=digest,
    )


def _summarize_split(images: Iterable[DatasetImage], classes: Sequence[str]) -> SplitSummary:
    """Return the counts of a split."""
    images = list(images)
    counts = count_boxes(images, classes)
    return SplitSummary(
        images=len(images),
        boxes=sum(counts),
        boxes_per_class=dict(zip(classes, counts, strict=True)),
    )


def _shorten_problems(problems: Sequence[str], data: str | Path) -> list[str]:
    """Return at most `MAX_PROBLEMS_SHOWN` problems, and a line that says how many more there are.

    One mistake in a user's script can make as many problems as there are boxes.
    """
    shown = list(problems[:MAX_PROBLEMS_SHOWN])
    hidden = len(problems) - len(shown)
    if hidden > 0:
        shown.append(f"{data}: and {hidden} more; `detreg check {data} --json` lists all of them")
    return shown


def _name_format(source: Source, raw: RawDataset) -> str:
    """Return the format as users read it: that of the built-in dataset is "sample"."""
    return SAMPLE if source.is_sample else raw.format

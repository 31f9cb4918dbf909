"""Writes a copy of a dataset that is as training would read it: repaired, complete, with splits.

A copy is whole or absent: it is written beside its place under a temporary name, read back, and
renamed. Nothing of the dataset itself is touched.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detreg.data import formats
from detreg.data.check import CheckResult, check_dataset
from detreg.data.copied_images import check_space, make_images
from detreg.data.digest import compute_digest
from detreg.data.finding_groups import group_findings
from detreg.data.findings import Severity, count_repairs, has_errors, list_problems
from detreg.data.formats.voc_outlines import find_kept_masks
from detreg.data.formats.yolo_labels import get_polygon
from detreg.data.images import AnnotatedImage
from detreg.data.leaving_out import LEFT_OUT_MESSAGE
from detreg.data.raw import RawDataset
from detreg.data.screen import format_number, format_problems
from detreg.data.source import open_source
from detreg.environment import resolve_cache_folder
from detreg.errors import DataError, UsageError, make_printable
from detreg.progress import Progress

REPORT_NAME = "detreg-fix.txt"

_MAX_PROBLEMS = 10


@dataclass(frozen=True)
class MendedCopy:
    """A copy that was written.

    digest: of the copy as it is read.
    left_out_images: how many images are not in the copy.
    left_out: a line for each of their errors.
    notes: what the format cannot hold.
    warnings: how many are left in the copy.
    """

    folder: Path
    format: str
    digest: str
    images: int
    left_out_images: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: int

    def to_json(self) -> dict[str, object]:
        """Return the copy as `detreg check --json` prints it."""
        return {**asdict(self), "folder": str(self.folder)}


def write_mended_copy(
    data: str | Path,
    out: str | Path,
    format: str = "coco",
    cache: str | Path | None = None,
    progress: Progress | None = None,
    *,
    with_masks: bool = False,
) -> MendedCopy:
    """Write the usable images of the dataset at `data` into the folder `out`.

    format: "coco", "voc" or "yolo".
    progress: is told what is being done.
    with_masks: whether masks are checked, too: images with bad ones are left out, and masks are
        written as they were checked. Otherwise those that can be used are copied.

    Raises UsageError where `out` or the format cannot be used, DataError where leaving out images
    is not enough, DiskError where there is no room, and what `open_source` raises.
    """
    cache_folder = resolve_cache_folder(cache)
    source = open_source(data, cache_folder, masks=with_masks)
    target = resolve_target(out, source.folder)
    if not source.is_sample:
        # The dataset may lie deeper than what the user has named.
        target = resolve_target(out, source.origin)
    raw = formats.read(source.folder, cache_folder)
    progress = progress or Progress()
    result = check_dataset(raw, cache_folder, progress, leaves_out=True, with_masks=with_masks)
    if has_errors(result.findings):
        problems = format_problems(group_findings(result.findings))
        advice = f"{out} was not written: no image can be left out to mend this; correct it"
        raise DataError([*problems, advice])
    _check_folders_of_images(target, result)
    _check_crowds(result, format)

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}-", ignore_cleanup_errors=True
    ) as temporary:
        part = Path(temporary) / target.name
        part.mkdir()
        copy = _fill(part, raw, result, format, progress)
        _write_report(part / REPORT_NAME, str(data), result, copy)
        part.rename(target)
    return replace(copy, folder=target)


def resolve_target(out: str | Path, data: str | Path) -> Path:
    """Return the path of a copy of `data`. Raises UsageError for a place where it must not be."""
    target = Path(out).expanduser().resolve()
    if target.is_relative_to(Path(data).expanduser().resolve()):
        raise UsageError(f"{out} lies inside the dataset; name a folder outside of it")
    is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_free:
        raise UsageError(f"{out} is not an empty folder; name another one")
    return target


def _check_folders_of_images(target: Path, result: CheckResult) -> None:
    """Raise UsageError where the copy would lie in a folder that links of the dataset lead to."""
    images = [image for images in result.splits.values() for image in images]
    for folder in {image.path.parent for image in images}:
        if target.is_relative_to(folder.resolve()):
            raise UsageError(f"{target} lies beside images of the dataset; name another folder")


def _check_crowds(result: CheckResult, format: str) -> None:
    """Raise UsageError for regions to ignore in a format that has none."""
    if format != "yolo":
        return
    images = [image for images in result.splits.values() for image in images]
    count = sum(any(box.crowd for box in image.boxes) for image in images)
    if count:
        raise UsageError(
            "YOLO cannot hold regions to ignore (crowd or difficult), and there are some in "
            f"{format_number(count, 'image')}; give --format coco or voc"
        )


def describe_copy(copy: MendedCopy) -> list[str]:
    """Return lines on a copy that was written, at most a few."""
    lines = []
    if copy.left_out:
        count = format_number(copy.left_out_images, "image")
        lines.append(f"left out: {count}, which {copy.folder / REPORT_NAME} lists")
    lines += [f"note: {note}" for note in copy.notes]
    warnings = f", with {format_number(copy.warnings, 'warning')}" if copy.warnings else ""
    lines.append(
        f"{copy.folder} is a good copy{warnings}: {copy.format}, {copy.images} images; "
        f"digest {copy.digest}"
    )
    return lines


def _fill(
    part: Path, raw: RawDataset, result: CheckResult, format: str, progress: Progress
) -> MendedCopy:
    """Write the dataset into an empty folder and read it back."""
    progress.begin("writing the copy")
    splits = make_images(raw, result)
    check_space(splits, part)
    formats.write(format, part, raw.classes, splits)

    copy = formats.read(part)
    copied = check_dataset(copy, progress=progress)
    # Classes without boxes, and their order, are not in every format.
    wanted = compute_digest(raw.classes, result.splits)
    if has_errors(copied.findings) or compute_digest(raw.classes, copied.splits) != wanted:
        problems = list_problems(copied.findings)[:_MAX_PROBLEMS]
        raise DataError([*problems, f"{format} cannot hold this dataset unchanged: try another"])

    return MendedCopy(
        folder=part,
        format=format,
        digest=compute_digest(copy.classes, copied.splits),
        images=sum(len(images) for images in copied.splits.values()),
        left_out_images=count_repairs(result.findings).get(LEFT_OUT_MESSAGE, 0),
        left_out=list_problems(result.left_out),
        notes=_list_losses(raw, copy, splits, format),
        warnings=sum(finding.severity is Severity.WARNING for finding in copied.findings),
    )


def _list_losses(
    raw: RawDataset,
    copy: RawDataset,
    splits: Mapping[str, Sequence[AnnotatedImage]],
    format: str,
) -> tuple[str, ...]:
    """Return a sentence for everything that the format of a copy cannot hold."""
    notes = []
    images = [image for images in splits.values() for image in images]
    outlines = sum(len(image.outlines) for image in images)
    kept = outlines if format == "coco" else 0
    if format == "yolo":
        for image in images:
            kept += sum(get_polygon(image, position) is not None for position in image.outlines)
    if format == "voc":
        kept = sum(len(find_kept_masks(image)) for image in images)
    if kept < outlines:
        holds = "one polygon for an object" if format == "yolo" else "no polygons"
        lost = format_number(outlines - kept, "outline")
        notes.append(f"{lost} left out, since {format.upper()} holds {holds}")

    if copy.classes != raw.classes:
        missing = [name for name in raw.classes if name not in copy.classes]
        lost = f"; without boxes: {', '.join(missing)}" if missing else ""
        notes.append(
            f"{format.upper()} has no list of classes, so they are in alphabetical order and the "
            f"digest is another one{lost}"
        )
    return tuple(notes)


def _write_report(path: Path, data: str, result: CheckResult, copy: MendedCopy) -> None:
    """Write into the copy what it is a copy of, and what is different in it."""
    lines = [f"Copy of {data} by detreg check --fix, digest {copy.digest}"]
    for message, count in count_repairs(result.findings).items():
        lines.append(f"{count} x {message}")
    lines += copy.notes
    if copy.left_out:
        lines += ["", "Left out with their images:", *copy.left_out]
    path.write_text("\n".join([*map(make_printable, lines), ""]), encoding="utf-8")

"""Checks a dataset, and prints what was found: `detreg check`."""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from detreg.data.dataset import load_dataset
from detreg.data.findings import Severity
from detreg.data.garbage_collection import pause_garbage_collection
from detreg.data.mended_copy import MendedCopy, describe_copy, resolve_target, write_mended_copy
from detreg.data.summary import InspectedDataset, format_inspection, inspect_dataset
from detreg.disk_space import check_output_file
from detreg.errors import UsageError, make_printable
from detreg.inspection.measurements import Measurements, measure_dataset
from detreg.inspection.plan import TrainingPlan
from detreg.progress import show_progress
from detreg.report.section import GalleryItem

MAX_ADVICE = 4


@dataclass(frozen=True)
class CheckRequest:
    """What a user asks of a check.

    plan: the training that boxes are measured for, if any.
    page, copy: the files to write, if any; `format` is that of the copy, by default COCO.
    with_pixels: whether the images of a large dataset are decoded, too.
    with_masks: whether masks are checked and kept, too.
    """

    data: str
    plan: TrainingPlan | None = None
    page: str | None = None
    copy: str | None = None
    format: str | None = None
    with_pixels: bool = False
    with_masks: bool = False
    is_strict: bool = False
    as_json: bool = False

    def check_targets(self) -> None:
        """Raise an error where what is to be written could not be written."""
        if self.format and not self.copy:
            raise UsageError("--format is that of the copy which --fix writes: give --fix OUT, too")
        if self.page:
            check_output_file(Path(self.page))
        if self.copy:
            resolve_target(self.copy, self.data)


@pause_garbage_collection()
def run_check(request: CheckRequest) -> bool:
    """Check a dataset and print what was found; return whether it can be used.

    With a copy it counts whether that can be used. Raises UsageError where the page or the copy
    cannot be written, NotFoundError where there is nothing at `data`; bad data raises nothing.
    """
    request.check_targets()
    with show_progress(is_wanted=not request.as_json) as progress:
        compares_all = request.with_pixels or request.page is not None
        inspected = inspect_dataset(
            request.data,
            progress=progress,
            compares_all=compares_all,
            with_masks=request.with_masks,
        )
        measured = measure_dataset(inspected, request.plan)
    if not request.as_json:
        _print_inspection(request.data, inspected, measured)
    if request.page:
        _write_page(request, request.page, inspected, measured)

    copy = _write_copy(request, request.copy) if request.copy else None
    if request.as_json:
        parts = {**inspected.summary, **measured.to_json()}
        if copy is not None:
            parts["fix"] = copy.to_json()
        print(json.dumps(parts))

    if copy is not None:
        return not (request.is_strict and copy.warnings)
    refused = [Severity.ERROR, Severity.WARNING] if request.is_strict else [Severity.ERROR]
    return not any(group.severity in refused for group in inspected.groups)


def _print_inspection(data: str, inspected: InspectedDataset, measured: Measurements) -> None:
    """Print what was found in a dataset, and the first advice where it is good."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = format_inspection(data, inspected, columns)
    if inspected.summary["ok"]:
        lines += measured.format_lines(MAX_ADVICE)
    for line in lines:
        print(make_printable(line))


def _write_copy(request: CheckRequest, folder: str) -> MendedCopy:
    """Write the mended copy of the dataset, and say so."""
    format = request.format or "coco"
    with show_progress(is_wanted=not request.as_json) as progress:
        copy = write_mended_copy(
            request.data, folder, format, progress=progress, with_masks=request.with_masks
        )
    if not request.as_json:
        for line in describe_copy(copy):
            print(make_printable(line))
    return copy


def _write_page(
    request: CheckRequest, path: str, inspected: InspectedDataset, measured: Measurements
) -> None:
    """Write the page of the dataset, with images as training sees them if there is a plan."""
    # Its plots need matplotlib, which takes longer to import than a small dataset to check.
    from detreg.inspection.page import DatasetPage, write_dataset_page  # noqa: PLC0415

    summary = inspected.summary
    with tempfile.TemporaryDirectory(prefix="detreg-preview-") as folder:
        preview: list[GalleryItem] = []
        if request.plan is not None and summary["ok"]:
            preview = _draw_preview(request.data, request.plan, Path(folder))
        page = DatasetPage(
            title=Path(request.data).name or request.data,
            facts={
                "data": request.data,
                "format": summary["format"] or "-",
                "digest": summary["digest"] or "-",
            },
            measured=measured,
            groups=inspected.groups,
            raw=inspected.raw,
            preview=preview,
        )
        write_dataset_page(page, Path(path))
    if not request.as_json:
        print(make_printable(f"page: {path}"))


def _draw_preview(data: str, plan: TrainingPlan, folder: Path) -> list[GalleryItem]:
    """Return the first images of an epoch as training sees them, drawn into a folder."""
    # torch and MMDetection take seconds to import, and this is all that needs them.
    from detreg.training.preview import draw_training_images  # noqa: PLC0415

    dataset = load_dataset(data, masks=plan.params.has_masks)
    return draw_training_images(plan.template, plan.params, dataset, folder)

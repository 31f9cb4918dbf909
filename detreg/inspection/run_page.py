"""The page of the dataset of a training or a sweep, made of its canonical copy."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detreg.data.canonical import read_canonical_copy
from detreg.data.dataset import Dataset
from detreg.errors import summarize_error
from detreg.inspection.measurements import measure_splits
from detreg.inspection.page import DatasetPage, write_dataset_page
from detreg.inspection.plan import TrainingPlan
from detreg.redaction import redact
from detreg.report.section import GalleryItem
from detreg.tracking.run import Run
from detreg.version import __version__

PAGE = "dataset.html"


@dataclass(frozen=True)
class Preview:
    """Images as a training sees them.

    key: a text that is equal for equal images.
    draw: draws them into a folder.
    """

    key: str
    draw: Callable[[Path], list[GalleryItem]]


def log_page_of_run(run: Run, write_page: Callable[[], Path]) -> None:
    """Log the page that `write_page` writes; where that fails, print a warning.

    A training or a sweep is worth more than the page of its dataset.
    """
    try:
        page = write_page()
    except Exception as error:
        message = f"Warning: the run has no page of its dataset: {summarize_error(error)}"
        print(message, file=sys.stderr, flush=True)
    else:
        run.log_file(page)


def write_page_of_run(
    dataset: Dataset,
    data: str,
    plan: TrainingPlan | None = None,
    preview: Preview | None = None,
) -> Path:
    """Return the page of a run's dataset, beside its canonical copy.

    The next run finds it there, if nothing on it would differ.

    data: the dataset as the user has named it to this run.
    plan: the training whose image size and anchors the boxes are measured for.
    """
    splits = {}
    for name, split in dataset.splits.items():
        splits[name] = read_canonical_copy(split.annotations)
    measured = measure_splits(splits, dataset.classes, dataset.root, plan, dataset.looks)
    facts = _list_facts(dataset, data)

    # The folder is that of the dataset's images and boxes; this is all else that the page shows.
    key = preview.key if preview is not None else ""
    shown = [__version__, dataset.name, facts, measured.to_json(), key]
    content_hash = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    path = dataset.folder / f"page-{content_hash[:16]}" / PAGE
    if path.is_file():
        return path

    with tempfile.TemporaryDirectory(prefix="detreg-preview-") as folder:
        items = preview.draw(Path(folder)) if preview is not None else []
        page = DatasetPage(dataset.name, facts, measured, preview=items, warnings=dataset.warnings)
        return write_dataset_page(page, path)


def _list_facts(dataset: Dataset, data: str) -> dict[str, str]:
    """Return where a dataset lies and what was found in it, by name."""
    facts = {"data": redact(data)}
    if dataset.origin != data:
        facts["path"] = redact(dataset.origin)
    facts |= {"format": dataset.format, "digest": dataset.digest}
    if dataset.repairs:
        counted = [f"{text} ({count:,})" for text, count in dataset.repairs.items()]
        facts["repaired or noted"] = "; ".join(counted)
    return facts

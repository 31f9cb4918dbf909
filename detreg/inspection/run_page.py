"""The page of the dataset of a training, made of its canonical copy."""

from pathlib import Path

from detreg.data.canonical import read_canonical_copy
from detreg.data.dataset import Dataset
from detreg.inspection.measurements import measure_splits
from detreg.inspection.page import DatasetPage, write_dataset_page
from detreg.version import __version__

PAGE = "dataset.html"


def write_page_of_loaded(dataset: Dataset) -> Path:
    """Return the page of a dataset, beside its canonical copy, where the next training finds it.

    No image is compared with others: that would keep a training with many images from starting.
    """
    path = dataset.folder / f"page-{__version__}" / PAGE
    if path.is_file():
        return path

    splits = {}
    for name, split in dataset.splits.items():
        splits[name] = read_canonical_copy(split.annotations)
    facts = {
        "data": dataset.origin,
        "format": dataset.format,
        "digest": dataset.digest,
    }
    if dataset.repairs:
        counted = [f"{text} ({count:,})" for text, count in dataset.repairs.items()]
        facts["repaired or noted"] = "; ".join(counted)
    measured = measure_splits(splits, dataset.classes, Path(dataset.origin))
    return write_dataset_page(DatasetPage(dataset.name, facts, measured), path)

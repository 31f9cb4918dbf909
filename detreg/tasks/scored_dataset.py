"""Loads a dataset that models are scored on."""

import sys

from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import DataError


def load_scored_dataset(data: str, *, with_masks: bool) -> Dataset:
    """Load a dataset, with its masks where they are wanted and it has usable ones."""
    if with_masks:
        try:
            return load_dataset(data, masks=True)
        except DataError as error:
            # What is wrong with its boxes is raised below.
            dataset = load_dataset(data)
            print(f"Warning: masks are not scored: {error.problems[0]}", file=sys.stderr)
            return dataset
    return load_dataset(data)

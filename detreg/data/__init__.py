"""Datasets: read any format, check it, and bring it into one canonical form."""

from detreg.data.dataset import Dataset, Split, load_dataset
from detreg.data.sample import write_sample
from detreg.data.summary import summarize_dataset

__all__ = ["Dataset", "Split", "load_dataset", "summarize_dataset", "write_sample"]

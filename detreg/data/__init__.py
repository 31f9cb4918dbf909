"""Datasets: `load` checks one of any format and brings it into one shape, `report` says what is wrong with it, `draw` makes the sample."""

from detreg.data.dataset import Dataset, Split, load, report
from detreg.data.sample import draw

__all__ = ["Dataset", "Split", "draw", "load", "report"]

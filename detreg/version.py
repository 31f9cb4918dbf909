"""The version of detreg, for every module that records it."""

__version__ = "0.1.0"

"""The formats that a dataset may come in, one module each with `detect`, `read` and `write`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from detreg.data.formats import coco, voc, yolo
from detreg.data.images import AnnotatedImage
from detreg.data.raw import RawDataset
from detreg.errors import DataError


class Format(Protocol):
    """What each module of this package offers."""

    EXPECTED_FILES: str
    """Name of the format, and the files by which it is known, in words for users."""

    def detect(self, folder: Path) -> bool:
        """Whether `folder` holds the files by which the format is known."""

    def read(self, folder: Path) -> RawDataset:
        """Return the dataset in `folder`; what is wrong becomes findings, not exceptions."""

    def write(
        self, folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
    ) -> None:
        """Write a dataset into `folder`, which is made where it is missing."""


FORMATS: Mapping[str, Format] = {"yolo": yolo, "voc": voc, "coco": coco}
"""In the order in which they are tried: a stray .json is likelier than a stray data.yaml."""

_MAX_ENTRIES_SHOWN = 12


def read(folder: Path) -> RawDataset:
    """Return the dataset in `folder`, whatever its format, with findings for what is wrong.

    Raises DataError where no format is recognized.
    """
    for module in FORMATS.values():
        if module.detect(folder):
            return _read(module, folder)

    expected = "; ".join(module.EXPECTED_FILES for module in FORMATS.values())
    raise DataError(
        f"{folder}: no dataset is recognized here; looked for {expected}; "
        f"found {_describe_content(folder)}"
    )


def _read(module: Format, folder: Path) -> RawDataset:
    """Return what a format reads. Raises DataError for folders that lie too deeply."""
    try:
        return module.read(folder)
    # Python searches folders in folders by functions that call themselves.
    except RecursionError as error:
        raise DataError(f"{folder}: folders lie too deeply in each other; move them up") from error


def is_dataset(folder: Path) -> bool:
    """Whether the files of some format are in `folder`."""
    return any(module.detect(folder) for module in FORMATS.values())


def write(
    format: str,
    folder: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> None:
    """Write a dataset in `format` ("coco", "voc" or "yolo") into `folder`."""
    FORMATS[format].write(folder, classes, splits)


def _describe_content(folder: Path) -> str:
    """Return the first names in `folder`, those of folders with a slash, for a message."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return "nothing"

    shown = ", ".join(names[:_MAX_ENTRIES_SHOWN])
    hidden = len(names) - _MAX_ENTRIES_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown

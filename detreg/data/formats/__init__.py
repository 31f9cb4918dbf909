"""The formats that a dataset may come in, one module each with `detect`, `read` and `write`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from detreg.data.formats import coco, voc, yolo
from detreg.data.raw import AnnotatedImage, RawDataset
from detreg.errors import DataError


class Format(Protocol):
    """What each module of this package offers."""

    LOOKED_FOR: str

    def detect(self, folder: Path) -> bool:
        """Whether `folder` holds the files by which the format is known."""

    def read(self, folder: Path) -> RawDataset:
        """The dataset in `folder`, with problems instead of exceptions."""

    def write(
        self, folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
    ) -> None:
        """Writes a dataset into `folder`."""


FORMATS: Mapping[str, Format] = {"yolo": yolo, "voc": voc, "coco": coco}
"""In the order in which they are looked for, the most telling first: a stray .json is likelier than a stray data.yaml."""


def read(folder: Path) -> RawDataset:
    """Reads the dataset in `folder`, whatever its format; what cannot be read is in the result's problems.

    Raises DataError where no format is recognised.
    """
    for module in FORMATS.values():
        if module.detect(folder):
            return module.read(folder)
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    found = (
        ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        if names
        else "nothing"
    )
    looked_for = "; ".join(module.LOOKED_FOR for module in FORMATS.values())
    raise DataError(
        f"{folder}: no dataset is recognised here; looked for {looked_for}; found {found}"
    )


def recognised(folder: Path) -> bool:
    """Whether some format's files are in `folder`."""
    return any(module.detect(folder) for module in FORMATS.values())


def write(
    format: str,
    folder: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> None:
    """Writes a dataset in `format` ("coco", "voc" or "yolo") into `folder`, which is made where it is missing."""
    FORMATS[format].write(folder, classes, splits)

"""What a format's reader hands to the check: a dataset as its annotation files describe it.

A reader parses annotation files and looks at no image. The check (check.py) then turns every
usable `ImageRecord` into a `DatasetImage`, whose size, content and boxes are known to be right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.data.boxes import Box
from detreg.data.findings import Finding

POOL = "pool"
"""Name of the only split of a dataset without splits; it is cut into train and val."""


@dataclass(frozen=True)
class ImageRecord:
    """One image as its annotations describe it.

    image: path of the image file; nobody has checked yet that it exists.
    source: path of the annotation file, relative to the dataset's folder.
    width, height: in pixels as the annotations state them, None where they state none.
    entry: place of the image's entry, as the reader's findings of it name it; empty where `source`
        is about this image only.
    """

    image: Path
    source: str
    boxes: tuple[Box, ...]
    width: int | None = None
    height: int | None = None
    entry: str = ""


@dataclass(frozen=True)
class RawDataset:
    """What a reader found in a folder.

    format: "coco", "roboflow", "voc" or "yolo".
    splits: the records of "train", "val" and "test", as far as the dataset has them, or of `POOL`.
    findings: what the reader could not use, or filled in.
    fractions: whether boxes are in fractions of their image instead of pixels.
    """

    format: str
    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[ImageRecord]]
    findings: tuple[Finding, ...] = ()
    fractions: bool = False

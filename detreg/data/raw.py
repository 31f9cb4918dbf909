"""The values that pass from a format's reader, through the check, to the canonical copy.

A reader turns files into a `RawDataset` and notes what it could not read; it looks at no picture. The check turns every usable `Record`
into a `Picture`, whose size, content and boxes are known to be right.
"""

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from detreg.files import is_image

POOL = "pool"
"""The name of the only split of a dataset that says nothing about splits; it is cut into train and val."""

MISSING_SIZE = "missing width or height read from the picture"
MISSING_AREA = "missing or zero area computed from the box"

Corners = tuple[float, float, float, float]

_T = TypeVar("_T", bound=Hashable)


class BadEntry(ValueError):
    """One entry of a dataset that cannot be used: what is wrong and how to put it right, without saying where."""


@dataclass(frozen=True)
class ProblemCollector:
    """What comes up while a dataset is read and checked, gathered so that all of it is told at once."""

    problems: list[str] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Turns a BadEntry of the block into a problem at `where`, and goes on after the block."""
        try:
            yield
        except BadEntry as error:
            self.problems.append(f"{where}: {error}")


@dataclass(frozen=True, slots=True)
class Box:
    """One labelled object.

    corners: x1, y1, x2, y2 in pixels from the upper left corner, or in fractions of the picture (`RawDataset.fractions`).
    crowd: a region that is ignored in training and scoring (COCO's iscrowd, VOC's difficult).
    where: the place in the annotation file, such as "annotation 17".
    area: in square pixels as the file states it, None where it states none.
    """

    corners: Corners
    label: str
    crowd: bool = False
    where: str = ""
    area: float | None = None


@dataclass(frozen=True)
class Record:
    """One picture as its annotations describe it; `source` is the annotation file, relative to the dataset's folder."""

    picture: Path
    source: str
    boxes: tuple[Box, ...]
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class RawDataset:
    """What a reader found: records per split ("train", "val", "test", or only `POOL`), and what it could not read."""

    format: str
    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Record]]
    problems: tuple[str, ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)
    fractions: bool = False


@dataclass(frozen=True)
class DatasetImage:
    """One checked picture: its size after EXIF rotation, and boxes in pixels that lie inside it, each with its area."""

    path: Path
    width: int
    height: int
    sha256: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class AnnotatedImage:
    """One picture to be written by a format's `write`: the bytes of its file, and its boxes in pixels."""

    file_name: str
    content: bytes
    width: int
    height: int
    boxes: tuple[Box, ...]


def locate(name: str, roots: Sequence[Path], folder: Path) -> Path:
    """The picture that an annotation file calls `name`, in the first of `roots` that has it, else where it should have been.

    Raises BadEntry when every reading of `name` leads out of the dataset's folder. Backslashes count as slashes.
    """
    candidates = [Path(os.path.normpath(root / name.replace("\\", "/"))) for root in roots]
    inside = [candidate for candidate in candidates if candidate.is_relative_to(folder)]
    if not inside:
        raise BadEntry(
            f"{name!r} leads out of the dataset's folder; copy the picture into the folder and name it relative to that"
        )
    # Path.is_file raises on names that are too long.
    return next((candidate for candidate in inside if os.path.isfile(candidate)), inside[0])  # noqa: PTH113


def pictures_in(folder: Path) -> list[Path]:
    """The picture files anywhere under `folder`, sorted, without hidden ones."""
    files = folder.rglob("*")
    return sorted(file for file in files if is_image(file))


def duplicates(values: Iterable[_T]) -> list[_T]:
    """The values that occur more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]

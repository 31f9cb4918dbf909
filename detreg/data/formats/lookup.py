"""What readers share: finding image files, values that occur twice, a message."""

import os
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from detreg.data.findings import BadEntryError, FindingKind
from detreg.errors import quote
from detreg.files import is_image

MISSING_SIZE_MESSAGE = "missing width or height read from the image"
"""Message of a repair: the annotations state no size, and the image file does."""

_T = TypeVar("_T", bound=Hashable)


def find_images(folder: Path) -> list[Path]:
    """Return the image files anywhere under `folder`, sorted, without hidden ones."""
    return sorted(path for path in folder.rglob("*") if is_image(path))


@dataclass(frozen=True)
class ImageLocator:
    """Locates the images that annotation files name.

    folder: the dataset's folder, in which every image must lie.
    roots: the folders that names may be relative to, in the order to look.
    """

    folder: Path
    roots: tuple[Path, ...]

    def locate(self, name: str) -> Path:
        """Return the path of the image called `name`, in which backslashes count as slashes.

        Where no root has the image, the path where the first one should have it is returned: that
        it is missing shows when it is read. Raises BadEntryError where `name` leads out of the
        dataset's folder from every root.
        """
        relative = name.replace("\\", "/")
        candidates = [Path(os.path.normpath(root / relative)) for root in self.roots]
        inside = [path for path in candidates if path.is_relative_to(self.folder)]
        if not inside:
            raise BadEntryError(
                FindingKind.IMAGE_OUTSIDE_FOLDER,
                f"{quote(name)} leads out of the dataset's folder; "
                "copy the image into the folder and name it relative to that",
            )

        for path in inside:
            # Path.is_file raises on names that are too long.
            if os.path.isfile(path):  # noqa: PTH113
                return path
        return inside[0]


def find_duplicates(values: Iterable[_T]) -> list[_T]:
    """Return the values that occur more than once, each once, in the order of their first place."""
    counts = Counter(values)
    return [value for value, count in counts.items() if count > 1]

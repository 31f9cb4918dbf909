"""The digest of a dataset: the same wherever it lies and whatever its format."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from detreg.data.boxes import Box
from detreg.data.images import DatasetImage

BoxDescription = tuple[str, list[str], bool]
"""Label, corners as text, and whether it is a crowd region."""

ImageDescription = tuple[str, list[BoxDescription]]
"""The content of an image, as sha256, and its boxes."""

Splits = Mapping[str, Sequence[DatasetImage]]


def compute_digest(classes: Sequence[str], splits: Splits) -> str:
    """Return 16 hex digits over classes, splits, image files and boxes.

    No path enters, and everything that a file may list in another order is sorted. Runs, studies
    and registered models keep this digest: a change of what enters makes old ones unknown.
    """
    sha256 = hashlib.sha256()
    for text in _write_content(classes, splits):
        sha256.update(text.encode())
    return sha256.hexdigest()[:16]


def hash_paths(splits: Splits) -> str:
    """Return 8 hex digits over the paths of all images: where a dataset lies."""
    paths: list[str] = []
    for images in splits.values():
        paths.extend(str(image.path) for image in images)

    text = "\n".join(sorted(paths))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_content(classes: Sequence[str], splits: Splits) -> Iterator[str]:
    """Yield what `json.dumps` returns for the classes and the sorted descriptions of each split.

    In pieces of an image or two: the whole text takes more memory than the dataset.
    """
    yield f"[{json.dumps(list(classes))}, {{"
    separator = ""
    for name in sorted(splits):
        yield f"{separator}{json.dumps(name)}: ["
        separator = ", "
        yield from _join_lists(_describe_images(splits[name]))
        yield "]"
    yield "}]"


def _describe_images(images: Sequence[DatasetImage]) -> Iterator[list[ImageDescription]]:
    """Yield the sorted descriptions of images of equal content, sorted by their content."""
    by_content = sorted(images, key=attrgetter("sha256"))
    for _, copies in groupby(by_content, key=attrgetter("sha256")):
        yield sorted(_describe_image(image) for image in copies)


def _join_lists(lists: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield what `json.dumps` returns for one long list, without its brackets."""
    separator = ""
    for part in lists:
        yield separator + json.dumps(part)[1:-1]
        separator = ", "


def _describe_image(image: DatasetImage) -> ImageDescription:
    """Return what the digest holds of an image: its content and its boxes."""
    boxes = [_describe_box(box) for box in image.boxes]
    return image.sha256, sorted(boxes)


def _describe_box(box: Box) -> BoxDescription:
    """Return what the digest holds of a box."""
    # A hundredth of a pixel is coarser than what rounding in the formats may change.
    x1, y1, x2, y2 = box.corners
    corners = [f"{x1:.2f}", f"{y1:.2f}", f"{x2:.2f}", f"{y2:.2f}"]
    return box.label, corners, box.crowd

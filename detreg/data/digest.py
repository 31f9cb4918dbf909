"""The digest of a dataset: the same wherever it lies and whatever its format."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from detreg.data.boxes import Box
from detreg.data.images import DatasetImage

BoxDescription = tuple[str, list[str], bool]
"""Label, corners as text, and whether it is a crowd region."""

Splits = Mapping[str, Sequence[DatasetImage]]


def compute_digest(classes: Sequence[str], splits: Splits) -> str:
    """Return 16 hex digits over classes, splits, image files and boxes.

    No path enters, and everything that a file may list in another order is sorted. Runs, studies
    and registered models keep this digest: a change of what enters makes old ones unknown.
    """
    content = {}
    for name in sorted(splits):
        described = [_describe_image(image) for image in splits[name]]
        content[name] = sorted(described)

    text = json.dumps([list(classes), content])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_paths(splits: Splits) -> str:
    """Return 8 hex digits over the paths of all images: where a dataset lies."""
    paths: list[str] = []
    for images in splits.values():
        paths.extend(str(image.path) for image in images)

    text = "\n".join(sorted(paths))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _describe_image(image: DatasetImage) -> tuple[str, list[BoxDescription]]:
    """Return what the digest holds of an image: its content and its boxes."""
    boxes = [_describe_box(box) for box in image.boxes]
    return image.sha256, sorted(boxes)


def _describe_box(box: Box) -> BoxDescription:
    """Return what the digest holds of a box."""
    # A hundredth of a pixel is coarser than what rounding in the formats may change.
    corners = [f"{value:.2f}" for value in box.corners]
    return box.label, corners, box.crowd

"""The digest of a dataset: the same wherever it lies and whatever its format."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from detreg.data.boxes import Box
from detreg.data.images import DatasetImage

Splits = Mapping[str, Sequence[DatasetImage]]


def compute_digest(classes: Sequence[str], splits: Splits) -> str:
    """Return 16 hex digits over classes, splits, image files and boxes.

    No path enters, and everything that a file may list in another order is sorted. Runs, study
    names and registered models hold this digest: a change here makes them strangers.
    """
    content = {}
    for name in sorted(splits):
        images = [(image.sha256, sorted(map(_describe_box, image.boxes))) for image in splits[name]]
        content[name] = sorted(images)

    text = json.dumps([list(classes), content])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_paths(splits: Splits) -> str:
    """Return 8 hex digits over the paths of all images: where a dataset lies."""
    paths = sorted(str(image.path) for images in splits.values() for image in images)
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]


def _describe_box(box: Box) -> tuple[str, list[str], bool]:
    """Return what the digest holds of a box: label, corners to a hundredth of a pixel, crowd."""
    corners = [f"{value:.2f}" for value in box.corners]
    return box.label, corners, box.crowd

"""The digest of a dataset: the same wherever it lies and whatever its format."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

from detreg.data.images import DatasetImage
from detreg.data.outlines import Outline

BoxDescription = tuple[str, str, bool]
"""Label, corners as JSON, and whether it is a crowd region."""

ImageDescription = tuple[str, list[BoxDescription]]
"""The content of an image, as sha256, and its boxes, sorted."""

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


def compute_masks_digest(digest: str, splits: Splits) -> str:
    """Return 16 hex digits over boxes and masks, given the digest of the dataset without masks.

    Equal for equal polygons and equal pixels of run-length codes, whatever their order in a file; a
    polygon and the code of its pixels are different.
    """
    sha256 = hashlib.sha256(digest.encode())
    for name in sorted(splits):
        sha256.update(f" {name}".encode())
        # The hashes of images, since all their masks as text take more memory than the dataset.
        for described in sorted(map(_hash_masks, splits[name])):
            sha256.update(described)
    return sha256.hexdigest()[:16]


def _hash_masks(image: DatasetImage) -> bytes:
    """Return the hash of an image's content, its boxes and their masks."""
    described = []
    for box, mask in zip(image.boxes, image.masks, strict=True):
        corners = " ".join(f"{value:.2f}" for value in box.corners)
        described.append([box.label, corners, str(box.crowd), *_describe_mask(mask)])
    text = json.dumps([image.sha256, sorted(described)])
    return hashlib.sha256(text.encode()).digest()


def _describe_mask(mask: Outline | None) -> list[str]:
    """Return the polygons of a mask or its run-length code as text; nothing where there is none."""
    if mask is None:
        return []
    if mask.mask is not None:
        return [str(mask.mask.counts)]
    # In one go, which takes half the time of one number after the other.
    return sorted("%.2f " * len(polygon) % tuple(polygon) for polygon in mask.polygons)


def hash_paths(splits: Splits) -> str:
    """Return 8 hex digits over the paths of all images: where a dataset lies."""
    paths: list[str] = []
    for images in splits.values():
        paths.extend(str(image.path) for image in images)

    text = "\n".join(sorted(paths))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_content(classes: Sequence[str], splits: Splits) -> Iterator[str]:
    """Yield what `json.dumps` returns for the classes and the sorted descriptions of each split.

    In pieces of an image: the whole text takes more memory than the dataset.
    """
    yield f"[{json.dumps(list(classes))}, {{"
    separator = ""
    for name in sorted(splits):
        yield f"{separator}{json.dumps(name)}: ["
        separator = ", "
        before_image = ""
        for image in _describe_images(splits[name]):
            yield before_image + _format_image(image)
            before_image = ", "
        yield "]"
    yield "}]"


def _describe_images(images: Sequence[DatasetImage]) -> Iterator[ImageDescription]:
    """Yield the descriptions of the images, sorted."""
    by_content = sorted(images, key=attrgetter("sha256"))
    for _, copies in groupby(by_content, key=attrgetter("sha256")):
        yield from sorted(_describe_image(image) for image in copies)


def _describe_image(image: DatasetImage) -> ImageDescription:
    """Return what the digest holds of an image: its content and its boxes."""
    # A hundredth of a pixel is coarser than what rounding in the formats may change. Sorted as one
    # text, corners are in the same order as one by one: with two decimals each, none is the
    # beginning of another.
    boxes = []
    for box in image.boxes:
        corners = '["%.2f", "%.2f", "%.2f", "%.2f"]' % box.corners  # noqa: UP031 (twice as fast)
        boxes.append((box.label, corners, box.crowd))
    boxes.sort()
    return image.sha256, boxes


def _format_image(image: ImageDescription) -> str:
    """Return what `json.dumps` returns for the description of an image."""
    sha256, boxes = image
    parts = []
    for label, corners, is_crowd in boxes:
        crowd = "true" if is_crowd else "false"
        parts.append(f"[{_format_label(label)}, {corners}, {crowd}]")
    return f'["{sha256}", [{", ".join(parts)}]]'


@lru_cache(maxsize=1 << 12)
def _format_label(label: str) -> str:
    """Return what `json.dumps` returns for a label."""
    return json.dumps(label)

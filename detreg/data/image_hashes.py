"""The list of a dataset's images by their content, which says later what a model was trained on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.images import DatasetImage
from detreg.errors import DataError
from detreg.files import read_regular, write_atomically

IMAGE_HASHES = "image_hashes.json"
"""The file in the folder of a canonical copy, and the artifact of a run."""
HASH_DIGITS = 16
"""Hex digits of an image's sha256 that are kept."""
MAX_HASHES_BYTES = 1 << 28
"""Twenty bytes an image: of more than ten million images."""


def write_image_hashes(folder: Path, splits: Mapping[str, Sequence[DatasetImage]]) -> Path:
    """Write the hash of each image of each split, in the order of the canonical copy's ids."""
    hashes = {}
    for name, images in splits.items():
        hashes[name] = [image.sha256[:HASH_DIGITS] for image in images]
    path = folder / IMAGE_HASHES
    with write_atomically(path) as file:
        file.write(json.dumps(hashes).encode())
    return path


def read_image_hashes(path: Path) -> dict[str, list[str]]:
    """Return the hashes of each split.

    Raises OSError where the file is gone, and DataError where it holds something else.
    """
    try:
        content = json.loads(read_regular(path, MAX_HASHES_BYTES))
        splits = {str(name): [str(entry) for entry in hashes] for name, hashes in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a list of images by split") from error
    return splits

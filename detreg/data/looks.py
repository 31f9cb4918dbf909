"""How images look: a hash that copies share, a thumbnail, and how bright and sharp they are.

Every image is decoded for it, at a reduced size where its format allows that. So it is done unasked
in small datasets only, and what was found is remembered by the content of the files: a second look
costs nothing, wherever they lie. The same numbers come out with and without that memory.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detreg.data.cache_entries import Entry, read_entries, write_entries
from detreg.data.images import DatasetImage
from detreg.data.memory_budget import MemoryBudget
from detreg.data.near_copies import group_near_copies
from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import DetregError
from detreg.files import read_regular
from detreg.image_decoding import decode_small_gray, open_header
from detreg.progress import Progress

Gray = npt.NDArray[np.uint8]
Splits = Mapping[str, Sequence[DatasetImage]]
Floats = npt.NDArray[np.float64]

FEW_IMAGES = 1000
FEW_PIXELS = 300_000_000
"""The most images, and pixels of them all, of a small dataset: decoded in a second or so."""

LONGER_SIDE = 256
"""Pixels to which an image is reduced before anything is measured."""
THUMBNAIL_SIDE = 16
_HASHED_SIDE = 2 * THUMBNAIL_SIDE

BLANK = 4
"""Standard deviation of the levels of an image that shows nothing."""

_PIXELS = MemoryBudget(256 << 20)


@dataclass(frozen=True)
class ImageLook:
    """How an image looks.

    hash: 64 bits, which differ in few places between an image and a copy that was saved again.
    thumbnail: 256 gray levels in base64, row by row; `decode_thumbnails` returns them.
    brightness: mean of the levels, from 0 to 255. contrast: their standard deviation.
    sharpness: variance of the Laplacian.
    """

    hash: int
    thumbnail: str
    brightness: float
    contrast: float
    sharpness: float

    @property
    def is_blank(self) -> bool:
        """Whether the image shows nothing."""
        return self.contrast < BLANK


_NAMES = tuple(field.name for field in fields(ImageLook))


@dataclass(frozen=True)
class DatasetLooks:
    """How the images of a dataset look.

    by_path: those that could be decoded.
    near_copies: groups of images that look the same, two or more, in the order of the images.
    """

    by_path: Mapping[Path, ImageLook]
    near_copies: tuple[tuple[Path, ...], ...]


def has_few_pixels(splits: Splits) -> bool:
    """Whether all images of a dataset are decoded in a second or so."""
    if sum(map(len, splits.values())) > FEW_IMAGES:
        return False
    images = [image for members in splits.values() for image in members]
    return sum(image.width * image.height for image in images) <= FEW_PIXELS


def look_at_images(splits: Splits, memory: Path | None, progress: Progress) -> DatasetLooks:
    """Return how the images of all splits look, and which of them look the same.

    memory: the file that remembers it, as `locate_looks` returns it; None remembers nothing.
    """
    images = [image for members in splits.values() for image in members]
    known = {} if memory is None else read_entries(memory, _NAMES)
    first_of_content = {image.sha256: image for image in reversed(images)}
    entries: dict[str, Entry] = {}
    unknown: list[DatasetImage] = []
    for sha256, image in first_of_content.items():
        if sha256 in known:
            entries[sha256] = known[sha256]
        else:
            unknown.append(image)

    progress.begin("comparing images", len(unknown))
    # OpenCV decodes outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for image, look in zip(unknown, threads.map(_look_at_image, unknown), strict=True):
            if look is not None:
                entries[image.sha256] = list(astuple(look))
            progress.add()

    if memory is not None and entries != known:
        write_entries(memory, _NAMES, entries)
    looks = {sha256: ImageLook(*entry) for sha256, entry in entries.items()}
    by_path = {image.path: looks[image.sha256] for image in images if image.sha256 in looks}
    return DatasetLooks(by_path, _find_near_copies(images, looks))


def locate_looks(manifest: Path) -> Path:
    """Return the path of the file that remembers how a dataset's images look.

    manifest: path of its manifest.
    """
    return manifest.with_suffix(".looks.json")


def measure_look(gray: Gray) -> ImageLook:
    """Return how an image looks, from its gray levels (height, width) at `LONGER_SIDE`."""
    small = _average(gray, _HASHED_SIDE)
    pairs = small.reshape(THUMBNAIL_SIDE, 2, THUMBNAIL_SIDE, 2)
    thumbnail = np.rint(pairs.mean(axis=(1, 3))).astype(np.uint8)
    return ImageLook(
        hash=_compute_hash(small),
        thumbnail=base64.b64encode(thumbnail.tobytes()).decode(),
        brightness=float(gray.mean()),
        contrast=float(gray.std()),
        sharpness=_measure_sharpness(gray),
    )


def decode_thumbnails(looks: Iterable[ImageLook]) -> npt.NDArray[np.float32]:
    """Return (looks, 256), the thumbnails with a mean of 0 and a length of 1; zeros for one level.

    The sum of the product of two is their correlation.
    """
    content = b"".join(base64.b64decode(look.thumbnail) for look in looks)
    levels = np.frombuffer(content, np.uint8).reshape(-1, THUMBNAIL_SIDE**2).astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(levels, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return levels / lengths


def _look_at_image(image: DatasetImage) -> ImageLook | None:
    """Return how an image looks, None where it cannot be decoded or has changed meanwhile."""
    try:
        content = read_regular(image.path, MAX_IMAGE_BYTES)
        if hashlib.sha256(content).hexdigest() != image.sha256:
            return None
        open_header(content)  # refuses what is too large to be decoded
        with _PIXELS.reserve(3 * image.width * image.height):
            gray = decode_small_gray(content, max(image.width, image.height), LONGER_SIDE)
    except (OSError, DetregError):
        return None
    return measure_look(gray)


def _find_near_copies(
    images: Sequence[DatasetImage], looks: Mapping[str, ImageLook]
) -> tuple[tuple[Path, ...], ...]:
    """Return the groups of images that look the same; what shows nothing is in none."""
    # In the order of their content, so that names and places of files change no group.
    shown = sorted(sha256 for sha256, look in looks.items() if not look.is_blank)
    if not shown:
        return ()

    chosen = [looks[sha256] for sha256 in shown]
    hashes = np.array([look.hash for look in chosen], np.uint64)
    group_of_content: dict[str, int] = {}
    for number, members in enumerate(group_near_copies(hashes, decode_thumbnails(chosen))):
        group_of_content |= {shown[member]: number for member in members}

    # Of a group that is one content at several paths, the content stands for the group. A path that
    # two splits list counts once.
    paths: dict[int | str, dict[Path, None]] = {}
    for image in images:
        if image.sha256 in looks and not looks[image.sha256].is_blank:
            group = group_of_content.get(image.sha256, image.sha256)
            paths.setdefault(group, {})[image.path] = None
    return tuple(tuple(group) for group in paths.values() if len(group) > 1)


def _compute_hash(small: Floats) -> int:
    """Return the perceptual hash: which of the 64 lowest frequencies are above their median.

    small: an image of `_HASHED_SIDE` pixels.
    """
    cosines = _make_cosines()
    # Rounded, so that the last digits, of which processors differ, decide nothing.
    frequencies = np.rint(cosines @ small @ cosines.T).ravel()
    # The first one is the brightness, of which copies may differ.
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _measure_sharpness(gray: Gray) -> float:
    """Return the variance of the Laplacian, 0 where there are too few pixels for one."""
    if min(gray.shape) < 3:
        return 0.0
    levels = gray.astype(np.int16)
    neighbors = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((neighbors - 4 * levels[1:-1, 1:-1]).var())


def _average(gray: Gray, side: int) -> Floats:
    """Return (side, side), the means of the areas of equal size that cover an image."""
    height, width = gray.shape
    rows = _make_area_weights(height, side) @ gray.astype(np.float64)
    return rows @ _make_area_weights(width, side).T


@lru_cache(maxsize=256)
def _make_area_weights(length: int, parts: int) -> Floats:
    """Return (parts, length), the share of each pixel in each of the equal parts of a line."""
    edges = np.arange(parts + 1) * length / parts
    pixels = np.arange(length)
    first = np.maximum(edges[:-1, None], pixels)
    end = np.minimum(edges[1:, None], pixels + 1)
    return (end - first).clip(0) * parts / length


@lru_cache(maxsize=1)
def _make_cosines() -> Floats:
    """Return (8, `_HASHED_SIDE`), the 8 lowest frequencies of the discrete cosine transform."""
    frequencies = np.arange(8)[:, None]
    positions = np.arange(_HASHED_SIDE) + 0.5
    cosines = np.cos(np.pi / _HASHED_SIDE * frequencies * positions) * np.sqrt(2 / _HASHED_SIDE)
    cosines[0] /= np.sqrt(2)
    return cosines

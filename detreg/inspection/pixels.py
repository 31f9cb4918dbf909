"""Looks at the pixels of images: how bright and sharp they are, and a hash of how they look.

Every image is decoded, at a reduced size where its format allows that, so in a large dataset this
is done only on request (`detreg check --pixels` and `--page`).
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from detreg.data.images import DatasetImage
from detreg.data.memory_budget import MemoryBudget
from detreg.data.progress import Progress
from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import DetregError
from detreg.files import read_regular
from detreg.image_decoding import open_header

Gray = npt.NDArray[np.uint8]

LONGER_SIDE = 256
"""Pixels to which an image is reduced before anything is measured."""
THUMBNAIL_SIDE = 16

DARK = 25
"""Mean level (0..255) of an image under which little can be seen."""
BLANK = 4
"""Standard deviation of the levels of an image that shows nothing."""
BLURRED = 12
"""Variance of the Laplacian of a blurred image, at `LONGER_SIDE`."""
BLURRED_SHARE = 0.25
"""Of the dataset's median, which a blurred image stays under, too: some subjects are soft."""

_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)
_PIXELS = MemoryBudget(256 << 20)


@dataclass(frozen=True)
class ImageLook:
    """How an image looks.

    hash: 64 bits, which differ in few places between an image and a copy that was saved again.
    thumbnail: (256,) gray levels with a mean of 0 and a length of 1; zeros for a blank image.
    brightness: mean of the levels, from 0 to 255. contrast: their standard deviation.
    sharpness: variance of the Laplacian.
    """

    hash: int
    thumbnail: npt.NDArray[np.float32]
    brightness: float
    contrast: float
    sharpness: float

    @property
    def is_blank(self) -> bool:
        """Whether the image shows nothing."""
        return self.contrast < BLANK


def look_at_images(images: Sequence[DatasetImage], progress: Progress) -> list[ImageLook | None]:
    """Return how each image looks, None for one that cannot be decoded."""
    progress.begin("decoding images", len(images))
    looks = []
    # OpenCV decodes outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for look in threads.map(_look_at_image, images):
            looks.append(look)
            progress.add()
    return looks


def find_flaws(looks: Sequence[ImageLook | None]) -> dict[str, tuple[int, ...]]:
    """Return the indices of the images that are blank, dark or blurred, by that word."""
    sharpness = [look.sharpness for look in looks if look is not None]
    limit = min(BLURRED, BLURRED_SHARE * float(np.median(sharpness or [0])))

    flaws: dict[str, list[int]] = {}
    for place, look in enumerate(looks):
        if look is None:
            continue
        if look.is_blank:
            flaws.setdefault("blank", []).append(place)
        elif look.brightness < DARK:
            flaws.setdefault("dark", []).append(place)
        elif look.sharpness < limit:
            flaws.setdefault("blurred", []).append(place)
    return {name: tuple(flaws[name]) for name in sorted(flaws)}


def _look_at_image(image: DatasetImage) -> ImageLook | None:
    try:
        content = read_regular(image.path, MAX_IMAGE_BYTES)
        open_header(content)  # refuses what is too large to be decoded
    except (OSError, DetregError):
        return None
    with _PIXELS.reserve(3 * image.width * image.height):
        gray = _decode_reduced(content, max(image.width, image.height))
    if gray is None:
        return None
    return measure_look(gray)


def _decode_reduced(content: bytes, longer_side: int) -> Gray | None:
    """Return an image in gray, upright, whose longer side has `LONGER_SIDE` pixels at most."""
    flag = cv2.IMREAD_GRAYSCALE
    for factor, reduced_flag in _REDUCED:
        if longer_side >= factor * LONGER_SIDE:
            flag = reduced_flag
            break
    try:
        gray = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        return None
    if gray is None:
        return None

    factor = LONGER_SIDE / max(gray.shape)
    if factor < 1:
        height, width = gray.shape
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return np.asarray(gray, np.uint8)


def measure_look(gray: Gray) -> ImageLook:
    """Return how an image in gray, (height, width), looks."""
    laplacian = cv2.Laplacian(gray, cv2.CV_32F)
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    thumbnail -= thumbnail.mean()
    length = float(np.linalg.norm(thumbnail))
    return ImageLook(
        hash=_compute_hash(gray),
        thumbnail=thumbnail / length if length > 0 else thumbnail,
        brightness=float(gray.mean()),
        contrast=float(gray.std()),
        sharpness=float(laplacian.var()),
    )


def _compute_hash(gray: Gray) -> int:
    """Return the perceptual hash: which of the 64 lowest frequencies are above their median."""
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small)[:8, :8].ravel()
    # The first one is the brightness, of which copies may differ.
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")

"""Images that differ as photographs do, and copies of them."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detreg.data.boxes import Box
from detreg.data.images import AnnotatedImage, DatasetImage

Pixels = npt.NDArray[np.uint8]

SCENE_SIZE = (160, 120)


def draw_scene(seed: int) -> Pixels:
    """Return an image of large colored shapes, as different from others as photographs are."""
    rng = np.random.default_rng(seed)
    width, height = SCENE_SIZE
    image = np.full((height, width, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(12):
        center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        color = tuple(int(level) for level in rng.integers(0, 255, 3))
        cv2.circle(image, center, int(rng.integers(8, 40)), color, -1)
    return image


def encode_scene(seed: int, quality: int = 95) -> bytes:
    """Return a scene as a JPEG file; other qualities are copies that were saved again."""
    _, content = cv2.imencode(".jpg", draw_scene(seed), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return content.tobytes()


def make_scene(seed: int, label: str = "cat", quality: int = 95, name: str = "") -> AnnotatedImage:
    """Return a scene with a box."""
    width, height = SCENE_SIZE
    boxes = (Box((10.0, 10.0, 50.0, 60.0), label),)
    file_name = name or f"{seed:03}_{quality}.jpg"
    return AnnotatedImage(file_name, encode_scene(seed, quality), width, height, boxes)


def write_image(folder: Path, name: str, image: Pixels, quality: int = 95) -> DatasetImage:
    """Write an image, and return it as a check does."""
    path = folder / name
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    height, width = image.shape[:2]
    return DatasetImage(path, width, height, hashlib.sha256(path.read_bytes()).hexdigest(), ())

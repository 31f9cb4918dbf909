"""Draws the built-in dataset: balloons, boats and houses in small landscapes.

It is made to be learnt from scratch in minutes: three classes that differ in shape and in where they are, against weather, waves, hills and
trees, near and far, some in front of others or cut by the edge. `python -m detreg sample FOLDER` writes it.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from detreg.data import formats
from detreg.data.raw import AnnotatedImage, Box
from detreg.data.sample_shapes import SCALE, WEATHERS, Canvas, Rng, backdrop, balloon, boat, house
from detreg.errors import UsageError

VERSION = 1
"""Raised when the drawing changes, so that cached samples are drawn anew."""

SHAPES = {"balloon": balloon, "boat": boat, "house": house}
CLASSES = tuple(SHAPES)

_Place = tuple[str, tuple[int, int, int, int]]


def write_sample(
    folder: Path,
    *,
    format: str = "coco",
    images: int = 240,
    seed: int = 0,
    size: tuple[int, int] = (192, 160),
) -> None:
    """Draws the sample into `folder` as "coco", "voc" or "yolo": two thirds of the pictures for train, the rest for val and test.

    size: width and height in pixels, 64 or more. Raises UsageError for arguments that cannot be met, or a folder that is in use.
    """
    folder = Path(folder)
    problems = []
    if format not in formats.FORMATS:
        problems.append(
            f"format must be one of {', '.join(sorted(formats.FORMATS))}, but got {format!r}"
        )
    if images < 3:
        problems.append(f"images must be 3 or more, one for each split, but got {images}")
    if seed < 0:
        problems.append(f"seed must be 0 or more, but got {seed}")
    if min(size) < 64:
        problems.append(f"size must be 64 or more in both directions, but got {size[0]}x{size[1]}")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        problems.append(f"{folder} is not an empty folder; name another one")
    if problems:
        raise UsageError(problems)
    scenes = [draw_scene(number, seed, size) for number in range(images)]
    held_out = max(1, images // 6)
    splits = {
        "train": scenes[: -2 * held_out],
        "val": scenes[-2 * held_out : -held_out],
        "test": scenes[-held_out:],
    }
    formats.write(format, folder, CLASSES, splits)


def draw_scene(number: int, seed: int, size: tuple[int, int]) -> AnnotatedImage:
    """One landscape with its boxes, which depends on nothing but the arguments."""
    rng = np.random.default_rng([seed, number])
    weather = WEATHERS[rng.integers(len(WEATHERS))]
    horizon = round(size[1] * rng.uniform(0.42, 0.6))
    kind = ("sea", "meadow", "bay")[number % 3]
    image = backdrop(rng, weather, kind, size, horizon)
    boxes = []
    for label, corners in _places(rng, kind, size, horizon):
        SHAPES[label](Canvas(image, corners, bool(rng.integers(2))), rng)
        x1, y1, x2, y2 = corners
        inside = (
            float(max(x1, 0)),
            float(max(y1, 0)),
            float(min(x2, size[0])),
            float(min(y2, size[1])),
        )
        boxes.append(Box(inside, label))
    return AnnotatedImage(
        f"scene_{number:05}.jpg",
        _jpeg(_grainy(image.reduce(SCALE), rng)),
        size[0],
        size[1],
        tuple(boxes),
    )


def _places(rng: Rng, kind: str, size: tuple[int, int], horizon: int) -> list[_Place]:
    """What stands where, the farthest first, so that the nearer is drawn over it; no object hides much of another."""
    counts = {"sea": (2, 3, 0), "meadow": (2, 0, 3), "bay": (2, 2, 2)}[kind]
    labels = [
        label
        for label, most in zip(CLASSES, counts, strict=True)
        for _ in range(rng.integers(most == 3, most + 1))
    ]
    places: list[_Place] = []
    # A crowded picture may have no room for one more; then it does without.
    for label in labels:
        for _ in range(12):
            corners = _corners(rng, label, kind, size, horizon)
            if all(_shared(corners, other) < 0.3 for _, other in places):
                places.append((label, corners))
                break
    return sorted(places, key=lambda place: (place[0] != "balloon", place[1][3]))


def _corners(
    rng: Rng, label: str, kind: str, size: tuple[int, int], horizon: int
) -> tuple[int, int, int, int]:
    """A box for one object: balloons float anywhere in the sky, boats and houses grow the nearer they stand to the lower edge."""
    width, height = size
    near = rng.uniform(0, 1)
    if label == "balloon":
        tall = height * (0.18 + 0.3 * near)
        base = rng.uniform(0.75 * tall, horizon + 0.1 * height)
        wide = 0.74 * tall
    elif label == "boat":
        top = horizon + height // 8 if kind == "bay" else horizon
        tall = height * (0.16 + 0.3 * near)
        base = top + 0.06 * height + near * (0.94 * height - top)
        wide = tall * rng.uniform(0.9, 1.1)
    else:
        near = near * 0.3 if kind == "bay" else near
        tall = height * (0.16 + 0.28 * near)
        base = (
            horizon
            + 0.08 * height
            + near * (0.84 * height - horizon) * (0.3 if kind == "bay" else 1)
        )
        wide = tall * rng.uniform(0.9, 1.25)
    x = rng.uniform(-0.25 * wide, width - 0.75 * wide)
    return round(x), round(base - tall), round(x + wide), round(base)


def _shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The part of the smaller box that lies in the other."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0, wide) * max(0, tall) / smaller


def _grainy(image: Image.Image, rng: Rng) -> Image.Image:
    pixels = np.asarray(image).astype(np.int16) + rng.integers(
        -5, 6, (image.height, image.width, 3), dtype=np.int16
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()

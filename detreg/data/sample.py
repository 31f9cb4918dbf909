"""Draws the built-in dataset: balloons, boats and houses in small landscapes.

It is made to be learned from scratch in minutes: three classes that differ in shape and in where
they are, against weather, waves, hills and trees, near and far, some in front of others or cut by
the edge. `python -m detreg sample FOLDER` writes it.

The order of the random draws decides what is drawn: a change of it is another dataset (VERSION).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detreg.data import formats
from detreg.data.boxes import Box
from detreg.data.images import AnnotatedImage
from detreg.data.numbered_masks import encode_labels
from detreg.data.outlines import Outline
from detreg.data.sample_canvas import SCALE, Canvas, Rng
from detreg.data.sample_landscape import WEATHERS, draw_landscape
from detreg.data.sample_shapes import draw_balloon, draw_boat, draw_house
from detreg.errors import UsageError

VERSION = 1
"""Raised when the drawing changes, so that cached samples are drawn again."""

SHAPES = {"balloon": draw_balloon, "boat": draw_boat, "house": draw_house}
CLASSES = tuple(SHAPES)

MIN_IMAGES = 3
MIN_SIZE = 64

_KINDS = ("sea", "meadow", "bay")
_MAX_OBJECTS = {
    "sea": {"balloon": 2, "boat": 3, "house": 0},
    "meadow": {"balloon": 2, "boat": 0, "house": 3},
    "bay": {"balloon": 2, "boat": 2, "house": 2},
}
"""How many objects of each class a kind of landscape holds at most."""

_MAX_OVERLAP = 0.3
_PLACING_ATTEMPTS = 12

_Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Scene:
    """What a landscape is like: its kind, its width and height, and the row of its horizon."""

    kind: str
    width: int
    height: int
    horizon: int


@dataclass(frozen=True)
class _PlacedObject:
    """An object and its corners in pixels, which may reach over the edge of the image."""

    label: str
    corners: _Corners


def write_sample(
    folder: Path,
    *,
    format: str = "coco",
    images: int = 240,
    seed: int = 0,
    size: tuple[int, int] = (192, 160),
    masks: bool = False,
) -> None:
    """Draw the sample into `folder`: two thirds for train, a sixth each for val and test.

    format: "coco", "voc" or "yolo".
    images: how many, 3 or more.
    size: width and height in pixels, 64 or more.
    masks: whether the visible pixels of each object are written, too; images and boxes are the same
        without.

    Raises UsageError for arguments that cannot be met, or a folder that is in use.
    """
    folder = Path(folder)
    problems = _check_arguments(folder, format, images, seed, size)
    if problems:
        raise UsageError(problems)

    # A scene depends on its number only: more images add scenes and change none.
    scenes = [draw_scene(number, seed, size, masks=masks) for number in range(images)]
    held_out = max(1, images // 6)
    splits = {
        "train": scenes[: -2 * held_out],
        "val": scenes[-2 * held_out : -held_out],
        "test": scenes[-held_out:],
    }
    formats.write(format, folder, CLASSES, splits)


def draw_scene(
    number: int, seed: int, size: tuple[int, int], *, masks: bool = False
) -> AnnotatedImage:
    """Return one landscape with its boxes, which depends on nothing but the arguments."""
    width, height = size
    rng = np.random.default_rng([seed, number])
    weather = WEATHERS[rng.integers(len(WEATHERS))]
    horizon = round(height * rng.uniform(0.42, 0.6))
    scene = _Scene(_KINDS[number % len(_KINDS)], width, height, horizon)

    image = draw_landscape(rng, weather, scene.kind, size, horizon)
    mask = Image.new("L", image.size) if masks else None
    boxes: list[Box] = []
    # In this order, so that nearer objects cover farther ones.
    for placed in _place_objects(rng, scene):
        is_mirrored = bool(rng.integers(2))
        draw_shape = SHAPES[placed.label]
        draw_shape(Canvas(image, placed.corners, is_mirrored, mask, len(boxes) + 1), rng)

        x1, y1, x2, y2 = placed.corners
        visible_corners = (
            float(max(x1, 0)),
            float(max(y1, 0)),
            float(min(x2, width)),
            float(min(y2, height)),
        )
        boxes.append(Box(visible_corners, placed.label))

    reduced = image.reduce(SCALE)
    content = _encode_jpeg(_add_noise(reduced, rng))
    outlines = {} if mask is None else _outline_objects(mask, len(boxes))
    return AnnotatedImage(f"scene_{number:05}.jpg", content, width, height, tuple(boxes), outlines)


def _outline_objects(mask: Image.Image, num_objects: int) -> dict[int, Outline]:
    """Return the mask of each object by its position.

    mask: `SCALE` times as large as the image, with the numbers of the objects from 1 on.
    """
    height, width = mask.height // SCALE, mask.width // SCALE
    parts = np.asarray(mask).reshape(height, SCALE, width, SCALE)
    counts = np.stack([(parts == number).sum(axis=(1, 3)) for number in range(num_objects, -1, -1)])
    # A pixel belongs to what most of it shows, and to the nearer one of two that share it.
    labels = num_objects - counts.argmax(axis=0)
    return {number - 1: Outline(mask=found) for number, found in encode_labels(labels).items()}


def _check_arguments(
    folder: Path, format: str, images: int, seed: int, size: tuple[int, int]
) -> list[str]:
    """Return what is wrong with the arguments of `write_sample`."""
    problems = []
    if format not in formats.FORMATS:
        names = ", ".join(sorted(formats.FORMATS))
        problems.append(f"format must be one of {names}, but got {format!r}")
    if images < MIN_IMAGES:
        problems.append(
            f"images must be {MIN_IMAGES} or more, one for each split, but got {images}"
        )
    if seed < 0:
        problems.append(f"seed must be 0 or more, but got {seed}")
    if min(size) < MIN_SIZE:
        problems.append(
            f"size must be {MIN_SIZE} or more in both directions, but got {size[0]}x{size[1]}"
        )

    is_in_use = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if is_in_use:
        problems.append(f"{folder} is not an empty folder; name another one")
    return problems


def _place_objects(rng: Rng, scene: _Scene) -> list[_PlacedObject]:
    """Return what stands where, the farthest first, so that the nearer is drawn over it.

    No object hides much of another.
    """
    labels = []
    for label, most in _MAX_OBJECTS[scene.kind].items():
        # The class that a landscape is made for is there at least once.
        least = 1 if most == 3 else 0
        count = rng.integers(least, most + 1)
        labels.extend([label] * int(count))

    placed: list[_PlacedObject] = []
    for label in labels:
        # A crowded image may have no room for one more, which is then left out.
        for _ in range(_PLACING_ATTEMPTS):
            corners = _choose_corners(rng, label, scene)
            if all(_compute_overlap(corners, other.corners) < _MAX_OVERLAP for other in placed):
                placed.append(_PlacedObject(label, corners))
                break

    # Balloons are behind everything; of the others, the one with the lowest edge is the nearest.
    return sorted(placed, key=lambda item: (item.label != "balloon", item.corners[3]))


def _choose_corners(rng: Rng, label: str, scene: _Scene) -> _Corners:
    """Return corners for one object.

    Balloons float anywhere in the sky; boats and houses are larger the nearer they stand to the
    lower edge.
    """
    height = scene.height
    nearness = rng.uniform(0, 1)
    if label == "balloon":
        object_height = height * (0.18 + 0.3 * nearness)
        base = rng.uniform(0.75 * object_height, scene.horizon + 0.1 * height)
        object_width = 0.74 * object_height
    elif label == "boat":
        shore = scene.horizon + height // 8 if scene.kind == "bay" else scene.horizon
        object_height = height * (0.16 + 0.3 * nearness)
        base = shore + 0.06 * height + nearness * (0.94 * height - shore)
        object_width = object_height * rng.uniform(0.9, 1.1)
    else:
        # Houses at a bay stand on the strip of land, which is far away.
        depth = 0.3 if scene.kind == "bay" else 1
        nearness = nearness * depth
        object_height = height * (0.16 + 0.28 * nearness)
        base = scene.horizon + 0.08 * height + nearness * (0.84 * height - scene.horizon) * depth
        object_width = object_height * rng.uniform(0.9, 1.25)

    # Up to a quarter may be cut off by the left or the right edge.
    x = rng.uniform(-0.25 * object_width, scene.width - 0.75 * object_width)
    return round(x), round(base - object_height), round(x + object_width), round(base)


def _compute_overlap(one: _Corners, other: _Corners) -> float:
    """Return the part of the smaller of two boxes that lies in the other, 0 to 1."""
    shared_width = min(one[2], other[2]) - max(one[0], other[0])
    shared_height = min(one[3], other[3]) - max(one[1], other[1])
    shared_area = max(0, shared_width) * max(0, shared_height)
    return shared_area / min(_compute_area(one), _compute_area(other))


def _compute_area(corners: _Corners) -> int:
    x1, y1, x2, y2 = corners
    return (x2 - x1) * (y2 - y1)


def _add_noise(image: Image.Image, rng: Rng) -> Image.Image:
    """Return the image with up to 5 added to or subtracted from each value."""
    shape = (image.height, image.width, 3)
    noise = rng.integers(-5, 6, shape, dtype=np.int16)
    pixels = np.asarray(image).astype(np.int16) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _encode_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()

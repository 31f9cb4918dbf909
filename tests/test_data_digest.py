"""The digest is that of a JSON text, which must never change: runs and models keep it."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.boxes import Box
from detreg.data.digest import compute_digest
from detreg.data.images import DatasetImage

CLASSES = ("cat", "sea lion", 'a "b" \\', "détail", "猫")


def compute_plainly(classes: Sequence[str], splits: Mapping[str, Sequence[DatasetImage]]) -> str:
    """Return the digest as it is defined, from one text."""
    described = {}
    for name in sorted(splits):
        images = []
        for image in splits[name]:
            boxes = [
                (box.label, [f"{value:.2f}" for value in box.corners], box.crowd)
                for box in image.boxes
            ]
            images.append((image.sha256, sorted(boxes)))
        described[name] = sorted(images)
    text = json.dumps([list(classes), described])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw_image(rng: random.Random) -> DatasetImage:
    """Return an image with boxes of which many are equal or nearly so, and a common content."""
    boxes = []
    for _ in range(rng.randrange(6)):
        x1, y1 = rng.choice((0.0, 9.99, 9.994, 9.996, 10.0, 99.5, 100.005)), rng.uniform(0, 1200)
        corners = (x1, y1, x1 + rng.choice((1.0, 1000.125)), y1 + 2)
        boxes.append(Box(corners, rng.choice(CLASSES), rng.random() < 0.2))
    boxes += boxes[:1]
    return DatasetImage(Path("a.jpg"), 9, 9, f"{rng.randrange(60):064x}", tuple(boxes))


def test_digest_is_as_defined() -> None:
    rng = random.Random(0)
    splits = {
        name: [draw_image(rng) for _ in range(count)]
        for name, count in (("train", 200), ("val", 50), ("test", 0))
    }
    assert compute_digest(CLASSES, splits) == compute_plainly(CLASSES, splits)

    for images in splits.values():
        rng.shuffle(images)
    assert compute_digest(CLASSES, splits) == compute_plainly(CLASSES, splits)

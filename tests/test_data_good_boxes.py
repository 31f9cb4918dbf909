"""What is computed of thousands of boxes at once is what is computed of each, to the last bit."""

import math
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from detreg.data.box_check import check_boxes
from detreg.data.boxes import DECIMALS, Box, Corners
from detreg.data.findings import ProblemCollector
from detreg.data.good_boxes import keep_good_boxes, round_exactly
from detreg.data.raw import ImageRecord

WIDTH, HEIGHT = 64, 48
STRANGE = (-0.0, 0.0, math.nan, math.inf, -math.inf, 1e300, -3.0, 63.9996, 64.0004, 1e-9, 70.0)


def draw_corners(rng: random.Random) -> Corners:
    """Return corners as annotation files have them: with few decimals or many, seldom bad."""
    decimals = rng.choice((0, 1, 2, 3, 4, 17))
    x1 = round(rng.uniform(0, WIDTH - 2), decimals)
    y1 = round(rng.uniform(0, HEIGHT - 2), decimals)
    width = round(rng.uniform(0.9, WIDTH - x1), decimals)
    height = round(rng.uniform(0.9, HEIGHT - y1), decimals)
    corners = [x1, y1, x1 + width, y1 + height]
    if rng.random() < 0.1:
        corners[rng.randrange(4)] = rng.choice(STRANGE)
    x1, y1, x2, y2 = corners
    return x1, y1, x2, y2


def draw_record(rng: random.Random, fractions: bool) -> ImageRecord:
    """Return an image with some boxes, of which some are repeated."""
    boxes: list[Box] = []
    for number in range(rng.randrange(5)):
        x1, y1, x2, y2 = draw_corners(rng)
        if fractions:
            x1, y1, x2, y2 = x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT
        area = rng.choice((None, 0.0, 12.5))
        box = Box((x1, y1, x2, y2), rng.choice("ab"), rng.random() < 0.1, f"box {number}", area)
        boxes.append(rng.choice(boxes) if boxes and rng.random() < 0.1 else box)
    return ImageRecord(Path("image.jpg"), "train.json", tuple(boxes))


def describe_bits(boxes: tuple[Box, ...]) -> list[tuple[object, ...]]:
    """Return boxes so that 0.0 differs from -0.0, and 1 from 1.0."""
    return [
        (struct.pack("4d", *box.corners), box.label, box.crowd, box.where, repr(box.area))
        for box in boxes
    ]


@pytest.mark.parametrize("fractions", [False, True])
def test_good_boxes_are_those_that_the_check_returns(fractions: bool) -> None:
    rng = random.Random(0)
    records = [draw_record(rng, fractions) for _ in range(1000)]
    sizes = [rng.choice([(WIDTH, HEIGHT)] * 9 + [(0, 0)]) for _ in records]

    kept = keep_good_boxes(records, sizes, fractions)

    num_kept = 0
    for record, size, boxes in zip(records, sizes, kept, strict=True):
        if boxes is None:
            continue
        num_kept += 1
        problems = ProblemCollector()
        checked = check_boxes(record, size, fractions, problems)
        assert describe_bits(boxes) == describe_bits(checked)
        assert not problems.findings
    assert num_kept > 500


def test_nothing_is_kept_of_an_image_that_cannot_be_used() -> None:
    record = ImageRecord(Path("image.jpg"), "train.json", (Box((1.0, 2.0, 9.0, 9.0), "a"),))
    assert keep_good_boxes([record], [(0, 0)], fractions=False) == [None]
    assert keep_good_boxes([], [], fractions=False) == []


def test_values_are_rounded_as_python_rounds_them() -> None:
    rng = random.Random(0)
    values = [*STRANGE, 0.0005, 1.0005, 2.5, 0.0625, 2**31 + 0.0625, 2.0**60, 1e22]
    for decimals in (1, 2, 3, 4, 5, 17):
        values += [round(rng.uniform(-3000, 3000), decimals) for _ in range(2000)]
    # Halves, and their neighbors.
    for number in range(2000):
        half = (number + 0.5) / 1000
        values += [half, math.nextafter(half, 0), math.nextafter(half, 9)]

    with np.errstate(all="ignore"):
        rounded = round_exactly(np.array(values))

    expected = [round(value, DECIMALS) for value in values]
    assert rounded.tobytes() == np.array(expected).tobytes()

"""Geometry of polygons: clipping, extent, crossings."""

import math

import numpy as np
import pytest
from pycocotools import mask as reference

from detreg.data.polygons import Points, clip_polygon, crosses_itself, has_extent


def make_points(*numbers: float) -> Points:
    return np.array(numbers, np.float64).reshape(-1, 2)


def _trace_circle(count: int) -> Points:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return 500 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


SQUARE = make_points(0, 0, 10, 0, 10, 10, 0, 10)
BOW_TIE = make_points(0, 0, 10, 10, 10, 0, 0, 10)
# Two squares joined by a line that is gone back, as converters write parts as one polygon.
BRIDGE = make_points(0, 0, 4, 0, 4, 4, 8, 4, 8, 8, 12, 8, 12, 4, 8, 4, 4, 4, 0, 4)
CROSSING = {
    "square": (SQUARE, False),
    "bow tie": (BOW_TIE, True),
    "a traced outline of 40,000 points": (_trace_circle(40_000), False),
    "five-pointed star": (
        make_points(
            *(
                value
                for turn in range(5)
                for value in (math.cos(turn * 0.8 * math.pi), math.sin(turn * 0.8 * math.pi))
            )
        ),
        True,
    ),
    "touching itself": (make_points(0, 0, 5, 5, 10, 0, 10, 10, 5, 5, 0, 10), False),
    "joined parts": (BRIDGE, False),
    "a point twice": (np.repeat(SQUARE, 2, axis=0), False),
    "too many edges above each other": (
        np.tile(make_points(0, 0, 10, 10, 10, 0, 0, 10), (501, 1)),
        False,
    ),
}


@pytest.mark.parametrize("name", CROSSING)
def test_crossings_are_found(name: str) -> None:
    points, does_cross = CROSSING[name]
    assert crosses_itself(points) is does_cross


@pytest.mark.parametrize(
    ("points", "extent"),
    [
        (SQUARE, True),
        (make_points(1, 1, 2, 2), False),
        (make_points(), False),
        (make_points(1, 1, 1, 1, 1, 1), False),
        (make_points(0, 0, 5, 5, 10, 10, 2, 2), False),
        (make_points(0, 0, 10, 10, 10, 0, 0, 10), True),
    ],
)
def test_lines_have_no_extent(points: Points, extent: bool) -> None:
    assert has_extent(points) is extent


@pytest.mark.parametrize("seed", range(20))
def test_what_is_clipped_has_the_pixels_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 40, 50
    points = rng.uniform(-30, 80, (rng.integers(3, 9), 2))
    clipped = clip_polygon(points, width, height)
    if len(clipped) < 3:
        assert len(clipped) == 0
        return
    assert clipped.min() >= 0
    assert (clipped <= (width, height)).all()

    masks = []
    for polygon in (points, clipped):
        codes = reference.frPyObjects([polygon.reshape(-1).tolist()], height, width)
        masks.append(reference.decode(codes)[..., 0].astype(bool))
    # pycocotools places points on fifths of a pixel, also those on the edge of the image.
    perimeter = np.hypot(*(np.roll(clipped, 1, axis=0) - clipped).T).sum()
    assert np.count_nonzero(masks[0] != masks[1]) <= 0.25 * perimeter
    assert clip_polygon(clipped, width, height).tolist() == clipped.tolist()


def test_a_polygon_around_the_image_becomes_the_image() -> None:
    around = make_points(-50, -50, 90, -50, 90, 90, -50, 90)
    clipped = clip_polygon(around, 40, 30)
    assert sorted(map(tuple, clipped.tolist())) == [(0, 0), (0, 30), (40, 0), (40, 30)]
    assert len(clip_polygon(around + 200, 40, 30)) == 0

"""Masks of pixels become one polygon that pycocotools fills with the same pixels."""

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as reference

from detreg.data.mask_tracing import trace_polygon
from detreg.data.polygons import crosses_itself


def fill(polygon: list[float], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a polygon in an image (height, width)."""
    pixels = reference.decode(reference.frPyObjects([polygon], *shape))
    return pixels[..., 0].astype(bool)


@pytest.mark.parametrize("seed", range(30))
def test_pixels_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2).tolist()
    # Parts, holes, and parts that touch in a corner.
    block = int(rng.integers(2, 6))
    coarse = rng.random((height // block + 1, width // block + 1)) < 0.5
    mask = np.kron(coarse, np.ones((block, block), np.bool_))[:height, :width]
    mask[0, 0] = True

    polygon = trace_polygon(mask, (0, 0, width, height))
    assert polygon is not None
    assert np.array_equal(fill(polygon, mask.shape), mask)
    # Whoever reads the dataset would be told to draw the polygon again.
    assert not crosses_itself(np.array(polygon).reshape(-1, 2))
    assert (min(polygon[::2]), max(polygon[::2])) == (0, width)
    assert (min(polygon[1::2]), max(polygon[1::2])) == (0, height)


def test_a_rectangle_has_four_points() -> None:
    mask = np.zeros((9, 12), np.bool_)
    mask[2:5, 3:10] = True
    polygon = trace_polygon(mask, (3, 2, 10, 5))
    assert polygon is not None
    points = set(zip(polygon[::2], polygon[1::2], strict=True))
    assert points == {(3, 2), (10, 2), (10, 5), (3, 5)}
    assert len(polygon) == 8


def test_what_one_polygon_cannot_be_is_none() -> None:
    box = (0.0, 0.0, 200.0, 200.0)
    nothing = np.zeros((200, 200), np.bool_)
    noise = np.random.default_rng(0).random((200, 200)) < 0.5
    everything = ~nothing
    assert trace_polygon(nothing, box) is None
    assert trace_polygon(noise, box) is None
    assert trace_polygon(everything, (0.0, 0.0, 200.0, 199.0)) is None
    assert trace_polygon(everything, box) is not None

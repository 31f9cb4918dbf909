"""Texts of boxes: beside their box, inside the image, none over another."""

import numpy as np
import pytest

from detreg.report.labels import Corners, Point, Size, place_labels

SIZE = (60.0, 14.0)


def place_one(box: Corners, image_size: Size = (200, 100)) -> Point | None:
    return place_labels([box], [SIZE], image_size)[0]


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((20, 30, 120, 90), (20, 16)),  # above
        ((180, 30, 199, 90), (140, 16)),  # above, moved to where it stays in the image
        ((-30, 30, 120, 90), (0, 16)),
        ((20, 5, 120, 90), (20, 5)),  # no room above, so inside
        ((20, 5, 120, 30), (20, 30)),  # a small box keeps its content visible
        ((120, 90, 20, 30), (20, 16)),  # corners in reverse order
        ((0, 0, 200, 100), (0, 0)),
        ((0, 2, 120, 13), (0, 13)),
    ],
)
def test_a_label_is_at_its_box_and_in_the_image(box: Corners, place: Point) -> None:
    assert place_one(box) == place


def test_a_label_that_is_larger_than_the_image_has_no_place() -> None:
    assert place_one((0, 0, 40, 40), (50, 50)) is None


def test_equal_boxes_get_different_places_as_long_as_there_is_room() -> None:
    box = (20.0, 30.0, 120.0, 90.0)
    places = place_labels([box] * 40, [SIZE] * 40, (200, 100))
    placed = [place for place in places if place is not None]
    assert places[0] == (20, 16)
    assert 10 < len(placed) < 40
    assert len(set(placed)) == len(placed)


@pytest.mark.parametrize("seed", range(3))
def test_labels_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image_size = (320.0, 200.0)
    corners = rng.uniform(-40, 340, (200, 4)).tolist()
    widths = rng.uniform(10, 90, 200).tolist()
    boxes = [(x1, y1, x2, y2) for x1, y1, x2, y2 in corners]
    sizes = [(width, 12.0) for width in widths]
    places = place_labels(boxes, sizes, image_size)

    tags = []
    for place, (width, height) in zip(places, sizes, strict=True):
        if place is not None:
            tags.append((place[0], place[1], place[0] + width, place[1] + height))
    assert len(tags) > 20
    for index, (x1, y1, x2, y2) in enumerate(tags):
        assert x1 >= 0 and x2 <= image_size[0] + 1e-9
        assert y1 >= 0 and y2 <= image_size[1] + 1e-9
        for other in tags[:index]:
            width = min(x2, other[2]) - max(x1, other[0])
            height = min(y2, other[3]) - max(y1, other[1])
            assert min(width, height) <= 1e-5

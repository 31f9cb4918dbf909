"""YOLO's labels of more columns than a box: polygons, keypoints, tracks, oriented boxes."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_datasets import CLASSES, SPLITS, check_only_problem

from detreg.data import load_dataset
from detreg.data.formats import write
from detreg.data.formats.yolo_wide_labels import WideLabels

Numbers = list[float]


def draw_box(rng: random.Random) -> Numbers:
    """Return center, width and height of a box inside the image."""
    width, height = rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5)
    return [
        rng.uniform(width / 2, 1 - width / 2),
        rng.uniform(height / 2, 1 - height / 2),
        width,
        height,
    ]


def draw_point(rng: random.Random, box: Numbers) -> Numbers:
    x, y, width, height = box
    return [x + width * rng.uniform(-0.5, 0.5), y + height * rng.uniform(-0.5, 0.5)]


def draw_pose(rng: random.Random, points: int, with_visibility: bool) -> Numbers:
    """Return a box and points in it, of which some are not labeled."""
    numbers = box = draw_box(rng)
    for _ in range(points):
        visibility = rng.choice([0, 1, 2, 2])
        point = draw_point(rng, box) if visibility else [0.0, 0.0]
        numbers = numbers + point + [float(visibility)] * with_visibility
    return numbers


def draw_track(rng: random.Random) -> Numbers:
    return [*draw_box(rng), rng.random(), float(rng.randint(1, 300))]


def draw_polygon(rng: random.Random, corners: int, turn: float = 0.0) -> Numbers:
    """Return a polygon without crossings, turned around its center."""
    x, y, width, height = draw_box(rng)
    numbers = []
    for corner in range(corners):
        angle = 2 * math.pi * corner / corners + turn
        numbers += [x + width / 2 * math.cos(angle), y + height / 2 * math.sin(angle)]
    return numbers


def judge(draw: Callable[[random.Random], Numbers], count: int) -> str:
    rng = random.Random(0)
    labels = WideLabels()
    for _ in range(count):
        labels.add(draw(rng), "labels/1.txt")
    return labels.find_other_meaning()


@pytest.mark.parametrize("count", [5, 100])
@pytest.mark.parametrize(
    ("points", "with_visibility"),
    [(1, False), (2, False), (5, False), (17, False), (2, True), (4, True)],
)
def test_keypoints_are_no_polygons(points: int, with_visibility: bool, count: int) -> None:
    meaning = judge(lambda rng: draw_pose(rng, points, with_visibility), count)
    assert "a box and keypoints inside it (YOLO pose)" in meaning


@pytest.mark.parametrize("count", [1, 100])
def test_tracks_are_no_polygons(count: int) -> None:
    assert "a box, a score and the number of a track" in judge(draw_track, count)


@pytest.mark.parametrize("count", [1, 5, 100])
@pytest.mark.parametrize("corners", [3, 4, 5, 12, 40])
@pytest.mark.parametrize("turn", [0.0, 0.4, math.pi / 4])
def test_polygons_are_polygons(corners: int, turn: float, count: int) -> None:
    assert judge(lambda rng: draw_polygon(rng, corners, turn), count) == ""


def test_polygons_that_are_also_boxes_with_points_are_polygons() -> None:
    # Small objects in the upper left: the second corner, as width and height, spans all of them.
    def draw(rng: random.Random) -> Numbers:
        x, y = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6)
        return [x, y, x + 0.04, y + 0.01, x + 0.03, y + 0.05, x - 0.01, y + 0.04]

    labels = WideLabels()
    rng = random.Random(0)
    for _ in range(100):
        labels.add(draw(rng), "labels/1.txt")
    assert labels.boxed == 100
    assert labels.find_other_meaning() == ""


def test_polygons_of_many_sizes_are_polygons() -> None:
    # Some of these are also a box with points in it.
    def draw(rng: random.Random) -> Numbers:
        return draw_pose(rng, rng.randint(2, 4), with_visibility=False)

    assert judge(draw, 100) == ""


def write_labels(folder: Path, *lines: str) -> Path:
    """Write a YOLO dataset with other labels of its first image."""
    write("yolo", folder, CLASSES, SPLITS)
    (folder / "labels" / "train" / "001.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_number_that_is_not_finite_is_an_error_of_its_line(tmp_path: Path, number: str) -> None:
    folder = write_labels(tmp_path / "set", f"0 0.5 0.5 0.2 0.2 0.5 {number}")
    check_only_problem(folder, ["labels/train/001.txt line 1: (class cat)"])


def test_track_is_one_error_of_the_dataset(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.2 0.2 0.9 1", "1 0.3 0.5 0.2 0.2 0.4 17"]
    folder = write_labels(tmp_path / "set", *lines)
    check_only_problem(folder, ["labels/train/001.txt: each label has 7 columns", "track"])


def test_polygons_and_oriented_boxes_are_told(tmp_path: Path) -> None:
    folder = write_labels(
        tmp_path / "set",
        "0 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5",
        "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4",
        "1 0.1 0.1 0.3 0.1 0.4 0.4",
        "1 0.5 0.5 0.1 0.1",
    )
    assert load_dataset(folder, tmp_path / "cache").repairs == {
        "oriented box (four corners) made upright: the box around it is larger": 1,
        "polygon taken as the box around it": 2,
    }

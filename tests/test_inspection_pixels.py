"""What pixels tell: images that show little, and copies within and across splits."""

from pathlib import Path

import cv2
import numpy as np
from scenes import draw_scene, write_image

from detreg.data.looks import ImageLook, look_at_images, measure_look
from detreg.inspection.measurements import measure_splits
from detreg.inspection.pixels import find_flaws
from detreg.progress import Progress


def test_an_image_that_shows_nothing_is_blank() -> None:
    blank = measure_look(np.full((40, 40), 200, np.uint8))
    assert find_flaws([blank, None]) == {"blank": (0,)}


def test_dark_and_blurred_images_are_told_apart_from_soft_subjects() -> None:
    scenes = [np.asarray(cv2.cvtColor(draw_scene(seed), cv2.COLOR_BGR2GRAY)) for seed in range(5)]
    looks: list[ImageLook | None] = [measure_look(scene) for scene in scenes]
    looks.append(measure_look(np.asarray(scenes[0] // 8)))
    looks.append(measure_look(np.asarray(cv2.GaussianBlur(scenes[1], (0, 0), 12))))
    assert find_flaws(looks) == {"dark": (5,), "blurred": (6,)}

    soft = [measure_look(np.asarray(cv2.GaussianBlur(scene, (0, 0), 12))) for scene in scenes]
    assert find_flaws(soft) == {}


def test_copies_across_splits_are_counted_and_those_within_one_advised(tmp_path: Path) -> None:
    train = [write_image(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(4)]
    train.append(write_image(tmp_path, "1_again.jpg", draw_scene(1), 70))
    val = [write_image(tmp_path, "2_again.jpg", draw_scene(2), 70)]

    splits = {"train": train, "val": val}
    looks = look_at_images(splits, None, Progress())
    measured = measure_splits(splits, ("cat",), tmp_path, looks=looks)
    found = measured.to_json()["statistics"]["pixels"]["near_duplicates"]
    assert found == {
        "groups": 2,
        "across_splits": 1,
        "within_splits": 1,
        "examples": [["2.png", "2_again.jpg"], ["1.png", "1_again.jpg"]],
    }
    assert str(measured.advice[0]).startswith("1 near copy within a split, such as 1_again.jpg")

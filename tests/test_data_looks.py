"""How images look: copies look the same, and what was found is remembered."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import Pixels, draw_scene, write_image

from detreg.data import looks
from detreg.data.images import DatasetImage
from detreg.data.looks import DatasetLooks, look_at_images, measure_look
from detreg.image_decoding import decode_small_gray
from detreg.progress import Progress


def find_copies(images: Sequence[DatasetImage]) -> list[list[str]]:
    found = look_at_images({"train": images}, None, Progress()).near_copies
    return [[path.name for path in group] for group in found]


def save_again(image: Pixels) -> Pixels:
    return image


def shrink(image: Pixels) -> Pixels:
    return np.asarray(cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))


def brighten(image: Pixels) -> Pixels:
    return np.asarray(cv2.convertScaleAbs(image, alpha=1.1, beta=10))


@pytest.mark.parametrize("change", [save_again, shrink, brighten])
def test_a_changed_copy_is_found_among_other_images(
    change: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    images = [write_image(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(40)]
    images.append(write_image(tmp_path, "copy.jpg", change(draw_scene(7)), quality=50))
    assert find_copies(images) == [["7.png", "copy.jpg"]]


def test_copies_of_copies_are_one_group_whatever_their_order(tmp_path: Path) -> None:
    images = [write_image(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(6)]
    for quality in (90, 60, 40):
        images.append(write_image(tmp_path, f"q{quality}.jpg", draw_scene(2), quality))
    assert find_copies(images) == [["2.png", "q90.jpg", "q60.jpg", "q40.jpg"]]
    assert find_copies(images[::-1]) == [["q40.jpg", "q60.jpg", "q90.jpg", "2.png"]]


def test_a_content_at_two_paths_is_a_group_and_a_path_that_is_listed_twice_is_none(
    tmp_path: Path,
) -> None:
    images = [write_image(tmp_path, f"{name}.png", draw_scene(1)) for name in "ab"]
    other = write_image(tmp_path, "c.png", draw_scene(2))
    assert find_copies([*images, other, other]) == [["a.png", "b.png"]]


def test_images_that_show_nothing_are_no_copies_of_each_other(tmp_path: Path) -> None:
    gray = np.full((40, 40, 3), 200, np.uint8)
    blank = [write_image(tmp_path, f"{name}.png", gray) for name in "ab"]
    found = look_at_images({"train": blank}, None, Progress())
    assert all(look.is_blank for look in found.by_path.values())
    assert found.near_copies == ()
    assert look_at_images({"train": []}, None, Progress()) == DatasetLooks({}, ())


def test_an_image_that_vanished_changed_or_is_damaged_is_passed_over(tmp_path: Path) -> None:
    names = ("good.png", "damaged.png", "changed.png", "missing.png")
    images = [write_image(tmp_path, name, draw_scene(1)) for name in names]
    good, damaged, changed, missing = images
    damaged.path.write_bytes(damaged.path.read_bytes()[:100])
    write_image(tmp_path, changed.path.name, draw_scene(2))
    missing.path.unlink()
    # Each with a content of its own, as far as the check knows.
    unlike = [
        DatasetImage(image.path, image.width, image.height, f"{place:064}", ())
        for place, image in enumerate(images[1:])
    ]
    progress = Progress(get_time=itertools.count(0, 2).__next__)
    found = look_at_images({"train": [good, *unlike]}, tmp_path / "memory.json", progress)
    assert "4 of 4" in progress.describe()
    assert list(found.by_path) == [good.path]
    assert look_at_images({"train": [good, *unlike]}, tmp_path / "memory.json", progress) == found


def test_a_second_look_decodes_new_images_only_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def decode_and_count(content: bytes, *sizes: int) -> looks.Gray:
        decoded.append(len(content))
        return decode_small_gray(content, *sizes)

    monkeypatch.setattr(looks, "decode_small_gray", decode_and_count)
    images = [write_image(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(4)]
    images.append(write_image(tmp_path, "copy.jpg", draw_scene(2), quality=60))
    memory = tmp_path / "cache" / "memory.json"

    first = look_at_images({"train": images}, memory, Progress())
    assert first == look_at_images({"train": images}, None, Progress())
    assert len(decoded) == 10
    assert look_at_images({"train": images}, memory, Progress()) == first
    assert len(decoded) == 10

    # The content counts, and not where it lies.
    moved = DatasetImage(tmp_path / "moved.png", 160, 120, images[0].sha256, ())
    images[0].path.rename(moved.path)
    new = write_image(tmp_path, "new.png", draw_scene(9))
    found = look_at_images({"train": [moved, *images[1:], new]}, memory, Progress())
    assert len(decoded) == 11
    assert found.by_path[moved.path] == first.by_path[images[0].path]

    memory.write_bytes(memory.read_bytes().replace(b"0", b"1"))
    found = look_at_images({"train": images[1:]}, memory, Progress())
    assert found.near_copies == first.near_copies
    assert len(decoded) == 15


def test_the_last_digits_of_a_mean_decide_no_bit_of_a_hash() -> None:
    # Of stripes, most frequencies are zero, up to rounding.
    stripes = np.tile(np.array([20, 230], np.uint8).repeat(8), (64, 8))
    small = looks._average(stripes, looks._HASHED_SIDE)
    noise = np.random.default_rng(0).normal(0, 1e-9, small.shape)
    assert looks._compute_hash(small) == looks._compute_hash(small + noise)


def test_a_reduced_image_keeps_brightness_and_parts(tmp_path: Path) -> None:
    gray = np.zeros((300, 500), np.uint8)
    gray[:, 250:] = 200
    look = measure_look(gray)
    assert look.brightness == pytest.approx(100)
    assert look.contrast == pytest.approx(100)
    (thumbnail,) = looks.decode_thumbnails([look])
    assert thumbnail.reshape(16, 16)[:, :8].max() < 0 < thumbnail.reshape(16, 16)[:, 8:].min()
    assert float(thumbnail @ thumbnail) == pytest.approx(1)
    assert measure_look(np.zeros((1, 2), np.uint8)).sharpness == 0

"""Near duplicates, and images that show little, found in their pixels."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from detreg.data.images import DatasetImage
from detreg.data.progress import Progress
from detreg.inspection import similarity
from detreg.inspection.measurements import measure_splits
from detreg.inspection.pixels import ImageLook, find_flaws, look_at_images, measure_look
from detreg.inspection.similarity import find_near_duplicates

Pixels = npt.NDArray[np.uint8]


def draw_scene(seed: int, size: tuple[int, int] = (160, 120)) -> Pixels:
    """Return an image of large colored shapes, as different from others as photos are."""
    rng = np.random.default_rng(seed)
    width, height = size
    image = np.full((height, width, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(12):
        center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        color = tuple(int(level) for level in rng.integers(0, 255, 3))
        cv2.circle(image, center, int(rng.integers(8, 40)), color, -1)
    return image


def write(folder: Path, name: str, image: Pixels, quality: int = 95) -> DatasetImage:
    path = folder / name
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    height, width = image.shape[:2]
    return DatasetImage(path, width, height, name, ())


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
    images = [write(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(40)]
    images.append(write(tmp_path, "copy.jpg", change(draw_scene(7)), quality=50))
    assert find_near_duplicates(look_at_images(images, Progress())) == [(7, 40)]


def test_copies_of_copies_are_one_group_whatever_their_order(tmp_path: Path) -> None:
    images = [write(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(6)]
    for quality in (90, 60, 40):
        images.append(write(tmp_path, f"q{quality}.jpg", draw_scene(2), quality))
    assert find_near_duplicates(look_at_images(images, Progress())) == [(2, 6, 7, 8)]

    backwards = find_near_duplicates(look_at_images(images[::-1], Progress()))
    assert backwards == [(0, 1, 2, 6)]


def test_all_pairs_of_hashes_within_the_distance_are_candidates() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    # Neighbors of the first one, that differ from it in 1 to 12 bits.
    for bits in range(1, 13):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False))
        hashes = np.append(hashes, hashes[0] ^ np.uint64(flipped))

    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    first, second = np.nonzero(np.triu(distances <= similarity.MAX_DISTANCE, k=1))
    expected = list(zip(first.tolist(), second.tolist(), strict=True))
    assert sorted(map(tuple, similarity._find_candidates(hashes).tolist())) == expected


def test_images_with_one_hash_are_chained_and_not_all_compared() -> None:
    hashes = np.array([5, 9, 5, 5, 1 << 60, 5], np.uint64)
    chained = similarity._find_candidates(hashes[[0, 2, 3, 5]])
    assert sorted(map(tuple, chained.tolist())) == [(0, 1), (1, 2), (2, 3)]
    assert len(similarity._find_candidates(np.zeros(100_000, np.uint64))) == 99_999


def test_each_hash_is_compared_with_a_bounded_number_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0
    count_bits = np.bitwise_count

    def count_and_compare(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        nonlocal compared
        compared += len(bits)
        return count_bits(bits)

    monkeypatch.setattr(np, "bitwise_count", count_and_compare)
    # All bands but the lowest are equal.
    similarity._find_candidates(np.arange(512, dtype=np.uint64))
    assert 0 < compared <= 512 * similarity._WINDOW * similarity._NUM_BANDS


def test_images_that_show_nothing_are_no_duplicates_of_each_other() -> None:
    blank = measure_look(np.full((40, 40), 200, np.uint8))
    assert find_near_duplicates([blank, blank, None]) == []
    assert find_flaws([blank, None]) == {"blank": (0,)}


def test_dark_and_blurred_images_are_told_apart_from_soft_subjects() -> None:
    scenes = [np.asarray(cv2.cvtColor(draw_scene(seed), cv2.COLOR_BGR2GRAY)) for seed in range(5)]
    looks: list[ImageLook | None] = [measure_look(scene) for scene in scenes]
    looks.append(measure_look(np.asarray(scenes[0] // 8)))
    looks.append(measure_look(np.asarray(cv2.GaussianBlur(scenes[1], (0, 0), 12))))
    assert find_flaws(looks) == {"dark": (5,), "blurred": (6,)}

    soft = [measure_look(np.asarray(cv2.GaussianBlur(scene, (0, 0), 12))) for scene in scenes]
    assert find_flaws(soft) == {}


def test_an_image_that_vanished_or_is_damaged_is_passed_over(tmp_path: Path) -> None:
    good = write(tmp_path, "good.png", draw_scene(1))
    damaged = write(tmp_path, "damaged.png", draw_scene(2))
    damaged.path.write_bytes(damaged.path.read_bytes()[:100])
    missing = DatasetImage(tmp_path / "missing.png", 10, 10, "", ())
    progress = Progress(get_time=itertools.count(0, 2).__next__)
    looks = look_at_images([good, damaged, missing], progress)
    assert "3 of 3" in progress.describe()
    assert [look is not None for look in looks] == [True, False, False]


def test_copies_across_splits_are_counted_and_advised(tmp_path: Path) -> None:
    train = [write(tmp_path, f"{seed}.png", draw_scene(seed)) for seed in range(4)]
    train.append(write(tmp_path, "1_again.jpg", draw_scene(1), 70))
    val = [write(tmp_path, "2_again.jpg", draw_scene(2), 70)]

    splits = {"train": train, "val": val}
    measured = measure_splits(splits, ("cat",), tmp_path, with_pixels=True)
    found = measured.to_json()["statistics"]["pixels"]["near_duplicates"]
    assert found == {
        "groups": 2,
        "across_splits": 1,
        "examples": [["2.png", "2_again.jpg"], ["1.png", "1_again.jpg"]],
    }
    assert str(measured.advice[0]).startswith("1 image outside train with a near copy in train")

"""Splits: what names mean, and how missing splits are cut."""

import shutil
from pathlib import Path

import pytest
from scenes import make_scene
from small_datasets import HEIGHT, WIDTH, make_labeled_image, read_json

from detreg.data import Dataset, load_dataset, looks
from detreg.data.boxes import Box
from detreg.data.findings import BadEntryError
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage, DatasetImage
from detreg.data.raw import POOL
from detreg.data.splits import complete_splits, parse_split
from detreg.data.summary import inspect_dataset, summarize_dataset
from detreg.errors import DataError


def find_split_of_each_image(dataset: Dataset) -> dict[str, str]:
    splits = {}
    for name, split in dataset.splits.items():
        for image in read_json(split.annotations)["images"]:
            splits[Path(image["file_name"]).name] = name
    return splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_train2017", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("testing", "test"),
        ("trainval", None),
        ("train_and_val", None),
        ("images", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert parse_split(name) == split


def test_pool_is_cut_by_content(tmp_path: Path) -> None:
    images = [make_labeled_image(shade, "cat") for shade in range(60)]
    copy = AnnotatedImage("copy.png", images[0].content, WIDTH, HEIGHT, images[0].boxes)
    write("voc", tmp_path / "pool", ("cat",), {"train": [*images, copy]})
    shutil.rmtree(tmp_path / "pool" / "ImageSets")

    dataset = load_dataset(tmp_path / "pool", tmp_path / "cache")
    assert list(dataset.splits) == ["train", "val"]
    assert 4 <= dataset.splits["val"].images <= 22

    split_of = find_split_of_each_image(dataset)
    assert len(split_of) == 61
    assert split_of["000.png"] == split_of["copy.png"]


def test_adding_images_moves_none_to_the_other_split(tmp_path: Path) -> None:
    datasets = []
    for count in (30, 40):
        images = [make_labeled_image(shade, "cat") for shade in range(count)]
        folder = tmp_path / str(count)
        write("yolo", folder, ("cat",), {"train": images})
        datasets.append(load_dataset(folder, tmp_path / "cache"))

    few, many = map(find_split_of_each_image, datasets)
    assert few.items() <= many.items()


def test_two_images_make_two_splits(tmp_path: Path) -> None:
    images = [make_labeled_image(1, "cat"), make_labeled_image(2, "cat")]
    write("voc", tmp_path / "two", ("cat",), {"train": images})
    dataset = load_dataset(tmp_path / "two", tmp_path / "cache")
    assert {name: split.images for name, split in dataset.splits.items()} == {"train": 1, "val": 1}


def test_one_image_makes_no_two_splits(tmp_path: Path) -> None:
    write("voc", tmp_path / "one", ("cat",), {"train": [make_labeled_image(1, "cat")]})
    with pytest.raises(DataError, match="fewer than two different images"):
        load_dataset(tmp_path / "one", tmp_path / "cache")


def test_val_is_cut_from_train_where_only_test_is_given(tmp_path: Path) -> None:
    splits = {
        "train": [make_labeled_image(shade, "cat") for shade in range(9)],
        "test": [make_labeled_image(200, "cat")],
    }
    write("coco", tmp_path / "pets", ("cat",), splits)
    completed = load_dataset(tmp_path / "pets", tmp_path / "cache").splits
    assert list(completed) == ["train", "val", "test"]
    assert completed["train"].images + completed["val"].images == 9
    assert completed["test"].images == 1


def test_dataset_without_train_is_refused(tmp_path: Path) -> None:
    splits = {"val": [make_labeled_image(1, "cat")], "test": [make_labeled_image(2, "cat")]}
    write("coco", tmp_path / "pets", ("cat",), splits)
    with pytest.raises(DataError, match="images for val and test but none for train"):
        load_dataset(tmp_path / "pets", tmp_path / "cache")


def cut(labels: list[str]) -> tuple[list[str], list[str]]:
    """Return the labels in train and in val, of a pool of images with these labels.

    The first images have the first hashes. An empty label stands for an image without a box.
    """
    images = []
    for number, label in enumerate(labels):
        boxes = tuple(Box((1, 1, 9, 9), name) for name in label.split())
        sha256 = f"{number * (1 << 32) // 40:08x}"
        images.append(DatasetImage(Path(f"{number}.png"), 40, 30, sha256, boxes))

    splits = complete_splits({POOL: images})
    train, val = ([labels[int(image.path.stem)] for image in splits[name]] for name in splits)
    assert len(train) + len(val) == len(labels)
    return train, val


@pytest.mark.parametrize(
    ("labels", "val"),
    [
        # A fifth of all hashes, of which there are 40, are those of the first eight images.
        (["a"] * 40, ["a"] * 8),
        (["a"] * 24, ["a"] * 8),
        # More than a third: the first fifth is taken instead.
        (["a"] * 23, ["a"] * 5),
        (["a"] * 6, ["a"]),
        (["a"] * 2, ["a"]),
        # A class that only val would have: as few images as possible are moved.
        (["b"] + ["a"] * 39, ["a"] * 7),
        (["a b", "b c"] + ["a"] * 38, ["a b"] + ["a"] * 6),
        (["b"] * 8 + ["a"] * 32, ["b"] * 7),
        (["b", "a", "a"], ["a"]),
        # No box in val.
        ([""] * 8 + ["b"] + ["a"] * 31, [""] * 8 + ["a"]),
        ([""] * 40, [""] * 8),
    ],
)
def test_val_is_a_sensible_part_of_the_pool(labels: list[str], val: list[str]) -> None:
    assert cut(labels)[1] == val


def test_val_without_a_low_hash_is_a_fifth() -> None:
    images = [
        DatasetImage(Path(f"{number}.png"), 40, 30, f"{240 + number:x}", ()) for number in range(10)
    ]
    splits = complete_splits({POOL: images})
    assert [image.sha256 for image in splits["val"]] == ["f0", "f1"]


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"], ["a", "", "", "", ""]])
def test_pool_without_two_images_of_a_class_is_refused(labels: list[str]) -> None:
    with pytest.raises(BadEntryError, match="no val split with boxes can be cut"):
        cut(labels)


@pytest.mark.parametrize("count", [1, 4, 50])
def test_copies_stay_together(count: int) -> None:
    box = Box((1, 1, 9, 9), "a")
    images = [DatasetImage(Path(f"{n}.png"), 40, 30, "00", (box,)) for n in range(count)]
    images += [DatasetImage(Path(f"x{n}.png"), 40, 30, f"{n + 16:x}", (box,)) for n in range(5)]
    splits = complete_splits({POOL: images})
    train, val = ({image.sha256 for image in splits[name]} for name in splits)
    assert not train & val
    assert len(splits["val"]) <= len(images) / 3


def make_pool(num_images: int, labels: str = "") -> list[DatasetImage]:
    """Return images whose hashes are spread evenly, the first fifth of which is val by itself."""
    images = []
    for number in range(num_images):
        label = labels[number] if labels else "a"
        sha256 = f"{number * (1 << 32) // num_images:08x}"
        box = Box((1, 1, 9, 9), label)
        images.append(DatasetImage(Path(f"{number}.png"), 40, 30, sha256, (box,)))
    return images


def cut_with_groups(images: list[DatasetImage], *groups: list[int]) -> list[int]:
    """Return the numbers of the images in val, where groups of numbers are near copies."""
    near_copies = [[Path(f"{number}.png") for number in group] for group in groups]
    splits = complete_splits({POOL: images}, near_copies)
    assert len(splits["train"]) + len(splits["val"]) == len(images)
    return sorted(int(image.path.stem) for image in splits["val"])


def test_near_copies_on_one_side_change_no_cut() -> None:
    images = make_pool(20)
    assert cut_with_groups(images) == [0, 1, 2, 3]
    assert cut_with_groups(images, [0, 1], [2, 3], [4, 10, 19]) == [0, 1, 2, 3]


def test_near_copies_on_both_sides_go_to_one() -> None:
    images = make_pool(20)
    for group in ([0, 10], [1, 18, 19], [2, 3, 4]):
        val = cut_with_groups(images, group)
        assert len(set(group) & set(val)) in (0, len(group))
        assert set(val) - set(group) == {0, 1, 2, 3} - set(group)
        assert 2 <= len(val) <= 6


def test_a_group_larger_than_val_stays_in_train_while_others_make_a_val() -> None:
    val = cut_with_groups(make_pool(20), list(range(2, 14)))
    assert not set(val) & set(range(2, 14))
    assert len(val) >= 2


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_one_scene_is_cut_as_if_nobody_had_compared_its_images(rest: int) -> None:
    images = make_pool(40)
    assert cut_with_groups(images, list(range(rest, 40))) == list(range(8))


def test_two_scenes_make_no_val_of_half_the_images() -> None:
    assert cut_with_groups(make_pool(6), [0, 1, 2], [3, 4, 5]) == [0, 1]


def test_train_keeps_every_class_where_near_copies_have_it() -> None:
    images = make_pool(20, "b" + 18 * "a" + "b")
    # The group would be val by its hash, and takes the only class b with it.
    val = cut_with_groups(images, [0, 19])
    train = [image for image in images if int(image.path.stem) not in val]
    assert {box.label for image in train for box in image.boxes} == {"a", "b"}


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_copies_that_were_saved_again_are_in_one_split_in_any_state_of_the_cache(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [make_scene(seed) for seed in range(16)]
    images += [make_scene(seed, quality=60) for seed in range(16)]
    folder, cache = tmp_path / "pool", tmp_path / "cache"
    write(format, folder, ("cat",), {"train": images})
    shutil.rmtree(folder / "ImageSets", ignore_errors=True)

    dataset = load_dataset(folder, cache)
    split_of = find_split_of_each_image(dataset)
    for seed in range(16):
        assert split_of[f"{seed:03}_95.jpg"] == split_of[f"{seed:03}_60.jpg"]
    assert 4 <= dataset.splits["val"].images <= 10
    assert not [text for text in dataset.repairs if "looks like" in text]
    for again in (cache, tmp_path / "other cache"):
        assert summarize_dataset(folder, again)["digest"] == dataset.digest

    # Of more images than are compared unasked, copies may be on both sides; to ask changes no side.
    monkeypatch.setattr(looks, "FEW_IMAGES", 10)
    large = inspect_dataset(folder, cache)
    compared = inspect_dataset(folder, cache, compares_all=True)
    assert large.summary["digest"] == compared.summary["digest"] != dataset.digest
    kinds = [{group.first.kind.value for group in found.groups} for found in (large, compared)]
    assert kinds[1] - kinds[0] == {"near_copy"}

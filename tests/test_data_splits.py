"""Splits: what names mean, and how missing splits are cut."""

import shutil
from pathlib import Path

import pytest
from small_datasets import HEIGHT, WIDTH, make_labeled_image, read_json

from detreg.data import Dataset, load_dataset
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage
from detreg.data.splits import parse_split
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

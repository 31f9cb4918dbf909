"""Loading a dataset: classes, the canonical copy, the digest, and what `detreg check` prints."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_datasets import Document, edit_json, make_labeled_image, read_json, write_pets

from detreg.data import Dataset, load_dataset, summarize_dataset
from detreg.data.formats import write

_SHARED = os.environ.get("DETREG_SHARED") or Path(__file__).parents[2] / "shared"
BCCD = Path(_SHARED) / "data" / "bccd"


def read_canonical(dataset: Dataset, split: str) -> Document:
    return read_json(dataset.splits[split].annotations)


def test_splits_are_counted_per_class(tmp_path: Path) -> None:
    dataset = load_dataset(write_pets(tmp_path / "pets"), tmp_path / "cache")
    assert dataset.name == "pets"
    assert dataset.format == "coco"
    assert dataset.classes == ("cat", "dog")

    counts = []
    for split in dataset.splits.values():
        counts.append((split.name, split.images, split.boxes, split.boxes_per_class))
    assert counts == [
        ("train", 2, 3, (2, 1)),
        ("val", 1, 1, (0, 1)),
        ("test", 1, 0, (0, 0)),
    ]


def test_canonical_copy_is_a_coco_file_per_split(tmp_path: Path) -> None:
    dataset = load_dataset(write_pets(tmp_path / "pets"), tmp_path / "cache")
    assert dataset.folder.parent == tmp_path / "cache" / "datasets"
    names = sorted(path.name for path in dataset.folder.iterdir())
    assert names == ["image_hashes.json", "test.json", "train.json", "val.json"]

    document = read_canonical(dataset, "train")
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert document["images"][0] == {
        "id": 1,
        "file_name": str(tmp_path / "pets/images/train/001.png"),
        "width": 40,
        "height": 30,
    }
    assert document["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 2,
        "bbox": [4.0, 5.0, 10.0, 15.0],
        "area": 150.0,
        "iscrowd": 0,
    }

    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert document["categories"] == categories
    assert read_canonical(dataset, "test")["categories"] == categories


def test_categories_are_matched_by_name(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")

    def renumber(document: Document) -> None:
        document["categories"] = [{"id": 1, "name": "dog"}, {"id": 7, "name": "emu"}]
        for annotation in document["annotations"]:
            annotation["category_id"] = 1

    edit_json(folder / "annotations" / "val.json", renumber)
    dataset = load_dataset(folder, tmp_path / "cache")
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.splits["val"].boxes_per_class == (0, 1, 0)
    assert read_canonical(dataset, "val")["annotations"][0]["category_id"] == 2


def test_classes_follow_category_ids_not_their_place_in_the_file(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    before = load_dataset(folder, tmp_path / "cache")
    edit_json(
        folder / "annotations" / "train.json", lambda document: document["categories"].reverse()
    )
    assert load_dataset(folder, tmp_path / "cache").digest == before.digest


def test_roboflow_export_is_read_without_its_dummy_category(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "coco")
    export = tmp_path / "export"

    def add_dummy(document: Document) -> None:
        for category in document["categories"]:
            category["supercategory"] = "pets"
        document["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})

    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(folder / "images" / split, export / name)
        annotations = export / name / "_annotations.coco.json"
        shutil.copy(folder / "annotations" / f"{split}.json", annotations)
        edit_json(annotations, add_dummy)

    dataset = load_dataset(export, tmp_path / "cache")
    assert dataset.format == "roboflow"
    assert dataset.classes == ("cat", "dog")
    assert list(dataset.splits) == ["train", "val"]
    (note,) = dataset.repairs
    assert "category without annotations that Roboflow adds" in note


def test_cocos_own_layout_is_read_without_its_captions(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    annotations = folder / "annotations"
    for split in ("train", "val", "test"):
        (annotations / f"{split}.json").rename(annotations / f"instances_{split}2017.json")
        (folder / "images" / split).rename(folder / f"{split}2017")
    (annotations / "captions_train2017.json").write_text("{}")

    assert load_dataset(folder, tmp_path / "cache").splits["train"].boxes == 3


def test_crowd_regions_are_kept_but_not_counted(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    edit_json(
        folder / "annotations" / "train.json",
        lambda document: document["annotations"][0].update(iscrowd=1, area=33.5),
    )
    dataset = load_dataset(folder, tmp_path / "cache")
    assert dataset.splits["train"].boxes == 2

    first = read_canonical(dataset, "train")["annotations"][0]
    assert first["iscrowd"] == 1
    assert first["area"] == 33.5


def test_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    here = load_dataset(folder, tmp_path / "cache")
    copied = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    there = load_dataset(copied, tmp_path / "cache")

    assert len(here.digest) == 16
    assert here.digest == there.digest
    # Each place has a copy of its own, because a copy names absolute paths.
    assert here.folder != there.folder
    image_here = read_canonical(here, "val")["images"][0]
    image_there = read_canonical(there, "val")["images"][0]
    assert image_here["file_name"] != image_there["file_name"]


def test_digest_does_not_depend_on_the_order_of_entries(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    before = load_dataset(folder, tmp_path / "cache")

    def reverse(document: Document) -> None:
        document["annotations"].reverse()
        document["images"].reverse()

    edit_json(folder / "annotations" / "train.json", reverse)
    assert load_dataset(folder, tmp_path / "cache").digest == before.digest


def test_digest_depends_on_every_box(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    before = load_dataset(folder, tmp_path / "cache")

    def move_box(document: Document) -> None:
        document["annotations"][0]["bbox"][0] = 9

    edit_json(folder / "annotations" / "train.json", move_box)
    assert load_dataset(folder, tmp_path / "cache").digest != before.digest


def test_image_in_two_splits_is_counted_and_not_refused(tmp_path: Path) -> None:
    splits = {
        "train": [make_labeled_image(1, "cat"), make_labeled_image(2, "cat")],
        "val": [make_labeled_image(2, "cat")],
    }
    write("coco", tmp_path / "pets", ("cat",), splits)
    dataset = load_dataset(tmp_path / "pets", tmp_path / "cache")
    assert list(dataset.repairs.values()) == [1]


def test_summary_of_a_good_dataset(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    summary = summarize_dataset(folder, tmp_path / "cache")
    assert not (tmp_path / "cache" / "datasets").exists()
    assert summary == {
        "ok": True,
        "format": "coco",
        "classes": ["cat", "dog"],
        "splits": {
            "train": {"images": 2, "boxes": 3, "boxes_per_class": {"cat": 2, "dog": 1}},
            "val": {"images": 1, "boxes": 1, "boxes_per_class": {"cat": 0, "dog": 1}},
            "test": {"images": 1, "boxes": 0, "boxes_per_class": {"cat": 0, "dog": 0}},
        },
        "problems": [],
        "repairs": {},
        "findings": [],
        "digest": load_dataset(folder, tmp_path / "cache").digest,
    }
    assert json.loads(json.dumps(summary)) == summary


def test_summary_of_a_folder_without_a_dataset(tmp_path: Path) -> None:
    summary = summarize_dataset(tmp_path, tmp_path / "cache")
    assert summary["ok"] is False
    assert summary["format"] is None
    assert summary["digest"] is None
    assert len(summary["problems"]) == 1


@pytest.mark.skipif(not BCCD.is_dir(), reason="the shared dataset BCCD is not on this machine")
def test_bccd_is_read_as_ever(tmp_path: Path) -> None:
    dataset = load_dataset(BCCD, tmp_path / "cache")
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    images = {name: split.images for name, split in dataset.splits.items()}
    assert images == {"train": 205, "val": 87, "test": 72}
    told = {text.partition(":")[0]: count for text, count in dataset.repairs.items()}
    assert told == {
        "box without extent dropped": 2,
        "image of another split that looks like one of train": 1,
    }
    # Runs of earlier versions hold this digest.
    assert dataset.digest == "b7258e6c7dc80e3c"

"""Loading: splits, class order, digest, archives, and the canonical copy."""

import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from detreg.data import Dataset, load_dataset, summarize_dataset
from detreg.data.boxes import Box
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage
from detreg.errors import DataError, NotFoundError

BCCD = (
    Path(os.environ.get("DETREG_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "bccd"
)


def labelled(shade: int, *labels: str) -> AnnotatedImage:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 255 - shade, 7)).save(stream, "PNG")
    boxes = tuple(
        Box((4.0 * place, 5.0, 4.0 * place + 10, 20.0), label) for place, label in enumerate(labels)
    )
    return AnnotatedImage(f"{shade:03}.png", stream.getvalue(), 40, 30, boxes)


def small(folder: Path, format: str = "coco") -> Path:
    splits = {
        "train": [labelled(1, "cat", "dog"), labelled(2, "cat")],
        "val": [labelled(3, "dog")],
        "test": [labelled(4)],
    }
    write(format, folder, ("cat", "dog"), splits)
    return folder


def canonical(dataset: Dataset, split: str) -> dict:
    return json.loads(dataset.splits[split].annotations.read_text())


def edit(file: Path, change) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_counts_and_canonical_copy(tmp_path: Path) -> None:
    dataset = load_dataset(small(tmp_path / "pets"), tmp_path / "cache")
    assert (dataset.name, dataset.format, dataset.classes) == ("pets", "coco", ("cat", "dog"))
    assert [
        (split.name, split.images, split.boxes, split.boxes_per_class)
        for split in dataset.splits.values()
    ] == [
        ("train", 2, 3, (2, 1)),
        ("val", 1, 1, (0, 1)),
        ("test", 1, 0, (0, 0)),
    ]
    document = canonical(dataset, "train")
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
    assert (
        document["categories"]
        == canonical(dataset, "test")["categories"]
        == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    )
    assert dataset.folder.parent == tmp_path / "cache" / "datasets"
    assert not [file for file in dataset.folder.iterdir() if file.name.startswith(".")]


def test_categories_are_matched_by_name(tmp_path: Path) -> None:
    folder = small(tmp_path / "pets")

    def swap(document: dict) -> None:
        document["categories"] = [{"id": 1, "name": "dog"}, {"id": 7, "name": "emu"}]
        for annotation in document["annotations"]:
            annotation["category_id"] = 1

    edit(folder / "annotations" / "val.json", swap)
    dataset = load_dataset(folder, tmp_path / "cache")
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.splits["val"].boxes_per_class == (0, 1, 0)
    assert canonical(dataset, "val")["annotations"][0]["category_id"] == 2


def test_classes_follow_category_ids_not_their_place_in_the_file(tmp_path: Path) -> None:
    folder = small(tmp_path / "pets")
    before = load_dataset(folder, tmp_path / "cache")
    edit(folder / "annotations" / "train.json", lambda document: document["categories"].reverse())
    assert load_dataset(folder, tmp_path / "cache").digest == before.digest


def test_roboflow_export_without_its_dummy_category(tmp_path: Path) -> None:
    folder = small(tmp_path / "coco")
    export = tmp_path / "export"
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(folder / "images" / split, export / name)
        shutil.copy(
            folder / "annotations" / f"{split}.json", export / name / "_annotations.coco.json"
        )

        def dummy(document: dict) -> None:
            for category in document["categories"]:
                category["supercategory"] = "pets"
            document["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})

        edit(export / name / "_annotations.coco.json", dummy)
    dataset = load_dataset(export, tmp_path / "cache")
    assert (dataset.format, dataset.classes, list(dataset.splits)) == (
        "roboflow",
        ("cat", "dog"),
        ["train", "val"],
    )


def test_cocos_own_layout_with_captions_beside(tmp_path: Path) -> None:
    folder = small(tmp_path / "pets")
    for split in ("train", "val", "test"):
        (folder / "annotations" / f"{split}.json").rename(
            folder / "annotations" / f"instances_{split}2017.json"
        )
        (folder / "images" / split).rename(folder / f"{split}2017")
    (folder / "annotations" / "captions_train2017.json").write_text("{}")
    assert load_dataset(folder, tmp_path / "cache").splits["train"].boxes == 3


def test_crowd_regions_stay_but_are_not_counted(tmp_path: Path) -> None:
    folder = small(tmp_path / "pets")
    edit(
        folder / "annotations" / "train.json",
        lambda document: document["annotations"][0].update(iscrowd=1, area=33.5),
    )
    dataset = load_dataset(folder, tmp_path / "cache")
    assert dataset.splits["train"].boxes == 2
    first = canonical(dataset, "train")["annotations"][0]
    assert (first["iscrowd"], first["area"]) == (1, 33.5)


def test_a_pool_is_cut_by_content(tmp_path: Path) -> None:
    pictures = [labelled(shade, "cat") for shade in range(60)]
    twin = AnnotatedImage("twin.png", pictures[0].content, 40, 30, pictures[0].boxes)
    write("voc", tmp_path / "pool", ("cat",), {"train": [*pictures, twin]})
    shutil.rmtree(tmp_path / "pool" / "ImageSets")
    dataset = load_dataset(tmp_path / "pool", tmp_path / "cache")
    assert list(dataset.splits) == ["train", "val"]
    assert 4 <= dataset.splits["val"].images <= 22
    sides = {
        Path(image["file_name"]).name: split
        for split in dataset.splits
        for image in canonical(dataset, split)["images"]
    }
    assert sides["000.png"] == sides["twin.png"]
    assert len(sides) == 61


def test_adding_pictures_moves_none_to_the_other_split(tmp_path: Path) -> None:
    sides = []
    for count in (30, 40):
        write(
            "yolo",
            tmp_path / str(count),
            ("cat",),
            {"train": [labelled(shade, "cat") for shade in range(count)]},
        )
        dataset = load_dataset(tmp_path / str(count), tmp_path / "cache")
        sides.append(
            {
                Path(image["file_name"]).name: split
                for split in dataset.splits
                for image in canonical(dataset, split)["images"]
            }
        )
    assert sides[0].items() <= sides[1].items()


def test_two_pictures_make_two_splits_and_one_does_not(tmp_path: Path) -> None:
    write("voc", tmp_path / "two", ("cat",), {"train": [labelled(1, "cat"), labelled(2, "cat")]})
    assert {
        name: split.images
        for name, split in load_dataset(tmp_path / "two", tmp_path / "cache").splits.items()
    } == {"train": 1, "val": 1}
    write("voc", tmp_path / "one", ("cat",), {"train": [labelled(1, "cat")]})
    with pytest.raises(DataError, match="fewer than two different images"):
        load_dataset(tmp_path / "one", tmp_path / "cache")


def test_val_is_cut_from_train_where_only_test_is_given(tmp_path: Path) -> None:
    write(
        "coco",
        tmp_path / "pets",
        ("cat",),
        {"train": [labelled(shade, "cat") for shade in range(9)], "test": [labelled(200, "cat")]},
    )
    splits = load_dataset(tmp_path / "pets", tmp_path / "cache").splits
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].images + splits["val"].images == 9
    assert splits["test"].images == 1


def test_digest_knows_content_only(tmp_path: Path) -> None:
    folder = small(tmp_path / "pets")
    here = load_dataset(folder, tmp_path / "cache")
    there = load_dataset(Path(shutil.copytree(folder, tmp_path / "elsewhere")), tmp_path / "cache")
    assert here.digest == there.digest
    assert len(here.digest) == 16
    assert here.folder != there.folder
    assert (
        canonical(here, "val")["images"][0]["file_name"]
        != canonical(there, "val")["images"][0]["file_name"]
    )

    def shuffle(document: dict) -> None:
        document["annotations"].reverse()
        document["images"].reverse()

    edit(folder / "annotations" / "train.json", shuffle)
    assert load_dataset(folder, tmp_path / "cache").digest == here.digest
    edit(
        folder / "annotations" / "train.json",
        lambda document: document["annotations"][0]["bbox"].__setitem__(0, 9),
    )
    assert load_dataset(folder, tmp_path / "cache").digest != here.digest


def test_a_picture_shared_by_splits_is_told_not_refused(tmp_path: Path) -> None:
    write(
        "coco",
        tmp_path / "pets",
        ("cat",),
        {"train": [labelled(1, "cat"), labelled(2, "cat")], "val": [labelled(2, "cat")]},
    )
    assert list(load_dataset(tmp_path / "pets", tmp_path / "cache").repairs.values()) == [1]


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_archives(tmp_path: Path, suffix: str) -> None:
    folder = small(tmp_path / "in" / "pets")
    archive = Path(
        shutil.make_archive(
            str(tmp_path / "boxed"),
            {"zip": "zip", "tar": "tar", "tar.gz": "gztar"}[suffix],
            folder.parent,
        )
    )
    dataset = load_dataset(archive, tmp_path / "cache")
    assert (dataset.name, dataset.digest) == (
        "boxed",
        load_dataset(folder, tmp_path / "cache").digest,
    )
    unpacked = list((tmp_path / "cache" / "archives").iterdir())
    before = unpacked[0].stat().st_mtime_ns
    load_dataset(archive, tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == unpacked
    assert unpacked[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
def test_archive_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, "x")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    for file in ("bad.zip", "bad.tar"):
        with pytest.raises(DataError, match="outside the dataset's folder"):
            load_dataset(tmp_path / file, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list((tmp_path / "cache" / "archives").iterdir())


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc")
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(member)
    for file in ("bad.zip", "bad.tar"):
        with pytest.raises(DataError, match="is a link"):
            load_dataset(tmp_path / file, tmp_path / "cache")


def test_a_cut_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "boxed"), "gztar", small(tmp_path / "pets")))
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cannot be unpacked|neither a folder"):
        load_dataset(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("archives/*"))


def test_what_is_not_there_and_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        load_dataset(tmp_path / "nothing", tmp_path / "cache")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        load_dataset(tmp_path / "note.txt", tmp_path / "cache")
    with pytest.raises(
        DataError,
        match=r"looked for .*data\.yaml.*Annotations.*annotations/\*\.json.*found note\.txt",
    ):
        load_dataset(tmp_path, tmp_path / "cache")


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "mine"))
    assert load_dataset(small(tmp_path / "pets")).folder.is_relative_to(tmp_path / "mine")


def test_report_of_a_good_dataset(tmp_path: Path) -> None:
    found = summarize_dataset(small(tmp_path / "pets"), tmp_path / "cache")
    assert json.loads(json.dumps(found)) == found
    assert found["ok"] is True
    assert found["splits"]["train"] == {
        "images": 2,
        "boxes": 3,
        "boxes_per_class": {"cat": 2, "dog": 1},
    }
    assert found["digest"] == load_dataset(tmp_path / "pets", tmp_path / "cache").digest
    assert (found["format"], found["classes"], found["problems"], found["repairs"]) == (
        "coco",
        ["cat", "dog"],
        [],
        {},
    )


def test_report_of_no_dataset(tmp_path: Path) -> None:
    found = summarize_dataset(tmp_path, tmp_path / "cache")
    assert (found["ok"], found["format"], found["digest"], len(found["problems"])) == (
        False,
        None,
        None,
        1,
    )


@pytest.mark.skipif(not BCCD.is_dir(), reason="the shared data set BCCD is not on this machine")
def test_bccd(tmp_path: Path) -> None:
    dataset = load_dataset(BCCD, tmp_path / "cache")
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    assert {name: split.images for name, split in dataset.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert dataset.repairs == {"box without extent dropped": 2}

"""Formats: each is written and read back with the same boxes, and accepts several layouts."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from small_datasets import HEIGHT, WIDTH, make_image

from detreg.data import load_dataset
from detreg.data.boxes import Box, scale_box
from detreg.data.findings import FindingKind, Severity
from detreg.data.formats import FORMATS, read, write
from detreg.data.raw import ImageRecord, RawDataset

CLASSES = ("ant", "bee")
SPLITS = {
    "train": [
        make_image(1, Box((1, 2, 30, 20), "ant"), Box((7, 3, 40, 30), "bee")),
        make_image(2, Box((0, 0, 40, 30), "bee")),
    ],
    "val": [make_image(3, Box((10, 10, 13, 29), "ant"))],
    "test": [make_image(4)],
}
COUNTS = {"train": 2, "val": 1, "test": 1}


def count_images(splits: Mapping[str, Sequence[ImageRecord]]) -> dict[str, int]:
    return {split: len(records) for split, records in splits.items()}


def get_pixel_corners(raw: RawDataset, box: Box) -> tuple[float, ...]:
    in_pixels = scale_box(box, WIDTH, HEIGHT) if raw.fractions else box
    return in_pixels.corners


@pytest.mark.parametrize("format", FORMATS)
def test_format_is_read_back_as_it_was_written(tmp_path: Path, format: str) -> None:
    write(format, tmp_path / "bugs", CLASSES, SPLITS)
    raw = read(tmp_path / "bugs")
    assert raw.format == format
    assert raw.classes == CLASSES
    assert raw.findings == ()
    assert count_images(raw.splits) == COUNTS

    for split, images in SPLITS.items():
        records = sorted(raw.splits[split], key=lambda record: record.image.name)
        for record, image in zip(records, images, strict=True):
            assert record.image.read_bytes() == image.content
            for read_box, box in zip(record.boxes, image.boxes, strict=True):
                assert read_box.label == box.label
                assert get_pixel_corners(raw, read_box) == pytest.approx(box.corners, abs=1e-4)


def test_all_formats_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for format in FORMATS:
        write(format, tmp_path / format, CLASSES, SPLITS)
        digests.add(load_dataset(tmp_path / format, tmp_path / "cache").digest)
    assert len(digests) == 1


def test_voc_difficult_objects_are_crowd_regions(tmp_path: Path) -> None:
    image = make_image(1, Box((1, 2, 30, 20), "ant", crowd=True))
    write("voc", tmp_path, ("ant",), {"train": [image]})
    assert read(tmp_path).splits["train"][0].boxes[0].crowd


def test_voc_trainval_says_nothing_new_beside_train_and_val(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("001 1\n002 1\n003 1\n004 1\n")
    assert count_images(read(tmp_path).splits) == COUNTS


def test_voc_trainval_gives_val_what_train_leaves(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("001 1\n002 1\n003 1\n")
    (lists / "train.txt").write_text("001\n")
    (lists / "val.txt").unlink()
    assert count_images(read(tmp_path).splits) == {"train": 1, "val": 2, "test": 1}


def test_voc_trainval_gives_train_what_val_leaves(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("001 1\n002 1\n003 1\n")
    (lists / "train.txt").unlink()
    assert count_images(read(tmp_path).splits) == COUNTS


def test_voc_trainval_is_train_where_both_are_missing(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("001 1\n002 1\n003 1\n")
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert count_images(read(tmp_path).splits) == {"train": 3, "test": 1}


def test_voc_images_in_no_list_are_left_out(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert count_images(read(tmp_path).splits) == {"train": 2, "val": 1}


def test_voc_without_lists_is_one_pool(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    shutil.rmtree(tmp_path / "ImageSets")
    assert count_images(read(tmp_path).splits) == {"pool": 4}


def test_voc_beside_images_in_a_folder_per_split(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    export = tmp_path / "export"
    write("voc", voc, CLASSES, SPLITS)
    for split, name in (("train", "train"), ("val", "valid")):
        (export / name).mkdir(parents=True)
        for image in SPLITS[split]:
            stem = Path(image.file_name).stem
            shutil.copy(voc / "JPEGImages" / image.file_name, export / name)
            shutil.copy(voc / "Annotations" / f"{stem}.xml", export / name)

    assert count_images(read(export).splits) == {"train": 2, "val": 1}


def test_voc_image_is_that_of_the_files_own_name(tmp_path: Path) -> None:
    write("voc", tmp_path, CLASSES, SPLITS)
    path = tmp_path / "Annotations" / "001.xml"
    path.write_text(path.read_text().replace("001.png", "002.png"))
    assert read(tmp_path).splits["train"][0].image.name == "001.png"


NUMBERED_CLASSES = """
names: {0: ant, 1: bee}
path: .
train: images/train
val: images/val
test: images/test
"""
FOREIGN_PATHS = """
names: [ant, bee]
nc: 2
path: ../elsewhere
train: ../images/train
val: ../images/val
test:
  - images/test
"""
LIST_OF_FILES = """
names: [ant, bee]
train: train.txt
val: images/val
test: images/test
"""


@pytest.mark.parametrize(
    "settings", ["names: [ant, bee]\n", NUMBERED_CLASSES, FOREIGN_PATHS, LIST_OF_FILES]
)
def test_yolo_layouts(tmp_path: Path, settings: str) -> None:
    write("yolo", tmp_path, CLASSES, SPLITS)
    (tmp_path / "data.yaml").write_text(settings)
    (tmp_path / "train.txt").write_text("./images/train/001.png\nimages/train/002.png\n")

    raw = read(tmp_path)
    assert raw.findings == ()
    assert raw.classes == CLASSES
    assert count_images(raw.splits) == COUNTS
    assert [box.label for box in raw.splits["train"][0].boxes] == ["ant", "bee"]


def test_yolo_without_a_val_split(tmp_path: Path) -> None:
    write("yolo", tmp_path, CLASSES, {"train": SPLITS["train"]})
    assert list(read(tmp_path).splits) == ["train"]


def test_yolo_test_split_that_is_named_but_missing_is_noted(tmp_path: Path) -> None:
    write("yolo", tmp_path / "bugs", CLASSES, SPLITS)
    for kind in ("images", "labels"):
        shutil.rmtree(tmp_path / "bugs" / kind / "test")

    (finding,) = read(tmp_path / "bugs").findings
    assert finding.kind is FindingKind.MISSING_PATH
    assert finding.severity is Severity.NOTE

    dataset = load_dataset(tmp_path / "bugs", tmp_path / "cache")
    assert list(dataset.splits) == ["train", "val"]
    assert dataset.repairs == {finding.message: 1}


def test_yolo_polygons_become_the_box_around_them(tmp_path: Path) -> None:
    write("yolo", tmp_path, CLASSES, SPLITS)
    labels = tmp_path / "labels" / "train" / "001.txt"
    labels.write_text("1 0.1 0.5 0.3 0.2 0.6 0.9 0.4 0.7\n")
    assert read(tmp_path).splits["train"][0].boxes[0].corners == (0.1, 0.2, 0.6, 0.9)


def test_yolo_image_without_labels_shows_nothing(tmp_path: Path) -> None:
    write("yolo", tmp_path, CLASSES, SPLITS)
    (tmp_path / "labels" / "train" / "001.txt").unlink()
    raw = read(tmp_path)
    (finding,) = raw.findings
    assert finding.severity is Severity.WARNING
    assert finding.where == "images/train/001.png"
    assert raw.splits["train"][0].boxes == ()


def test_yolo_refuses_to_write_crowd_regions(tmp_path: Path) -> None:
    image = make_image(1, Box((1, 2, 30, 20), "ant", crowd=True))
    with pytest.raises(ValueError, match="no crowd regions"):
        write("yolo", tmp_path, CLASSES, {"train": [image]})

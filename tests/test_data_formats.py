"""Every format is written and read back: same boxes, classes and digest; and the layouts that each accepts."""

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detreg.data import load_dataset
from detreg.data.boxes import Box
from detreg.data.formats import FORMATS, read, write
from detreg.data.images import AnnotatedImage


def labelled(shade: int, *boxes: Box) -> AnnotatedImage:
    stream = io.BytesIO()
    Image.new("RGB", (50, 30), (shade, 20, 90)).save(stream, "JPEG")
    return AnnotatedImage(f"p{shade}.jpg", stream.getvalue(), 50, 30, boxes)


SPLITS = {
    "train": [
        labelled(1, Box((1, 2, 30, 20), "ant"), Box((7, 3, 50, 30), "bee")),
        labelled(2, Box((0, 0, 50, 30), "bee")),
    ],
    "val": [labelled(3, Box((10, 10, 13, 29), "ant"))],
    "test": [labelled(4)],
}


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(tmp_path: Path, format: str) -> None:
    write(format, tmp_path / "bugs", ("ant", "bee"), SPLITS)
    raw = read(tmp_path / "bugs")
    assert (raw.format, raw.classes, raw.findings) == (format, ("ant", "bee"), ())
    assert {split: len(records) for split, records in raw.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    for split, pictures in SPLITS.items():
        records = sorted(raw.splits[split], key=lambda record: record.image.name)
        for record, picture in zip(records, pictures, strict=True):
            scale = (50, 30, 50, 30) if raw.fractions else (1, 1, 1, 1)
            corners = [
                tuple(value * factor for value, factor in zip(box.corners, scale, strict=True))
                for box in record.boxes
            ]
            assert record.image.read_bytes() == picture.content
            assert [box.label for box in record.boxes] == [box.label for box in picture.boxes]
            assert corners == [pytest.approx(box.corners, abs=1e-4) for box in picture.boxes]


def test_all_formats_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for format in FORMATS:
        write(format, tmp_path / format, ("ant", "bee"), SPLITS)
        digests.add(load_dataset(tmp_path / format, tmp_path / "cache").digest)
    assert len(digests) == 1


def test_voc_difficult_objects_are_ignored_regions(tmp_path: Path) -> None:
    write(
        "voc", tmp_path, ("ant",), {"train": [labelled(1, Box((1, 2, 30, 20), "ant", crowd=True))]}
    )
    assert read(tmp_path).splits["train"][0].boxes[0].crowd


def test_voc_trainval_stands_in_for_the_list_that_is_missing(tmp_path: Path) -> None:
    write("voc", tmp_path, ("ant", "bee"), SPLITS)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("p1 1\np2 1\np3 1\n")
    assert {split: len(records) for split, records in read(tmp_path).splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    (lists / "val.txt").unlink()
    (lists / "train.txt").write_text("p1\n")
    assert {split: len(records) for split, records in read(tmp_path).splits.items()} == {
        "train": 1,
        "val": 2,
        "test": 1,
    }
    (lists / "train.txt").unlink()
    assert {split: len(records) for split, records in read(tmp_path).splits.items()} == {
        "train": 3,
        "test": 1,
    }


def test_voc_pictures_in_no_list_are_left_out(tmp_path: Path) -> None:
    write("voc", tmp_path, ("ant", "bee"), SPLITS)
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert sum(len(records) for records in read(tmp_path).splits.values()) == 3


def test_voc_beside_pictures_in_a_folder_per_split(tmp_path: Path) -> None:
    write("voc", tmp_path / "voc", ("ant", "bee"), SPLITS)
    for split, name in (("train", "train"), ("val", "valid")):
        (tmp_path / "export" / name).mkdir(parents=True)
        for picture in SPLITS[split]:
            for file in (
                "JPEGImages/" + picture.file_name,
                f"Annotations/{Path(picture.file_name).stem}.xml",
            ):
                shutil.copy(tmp_path / "voc" / file, tmp_path / "export" / name)
    assert {split: len(records) for split, records in read(tmp_path / "export").splits.items()} == {
        "train": 2,
        "val": 1,
    }


def test_voc_file_says_which_picture_and_not_a_stale_filename(tmp_path: Path) -> None:
    write("voc", tmp_path, ("ant", "bee"), SPLITS)
    file = tmp_path / "Annotations" / "p1.xml"
    file.write_text(file.read_text().replace("p1.jpg", "p2.jpg"))
    assert read(tmp_path).splits["train"][0].image.name == "p1.jpg"


@pytest.mark.parametrize(
    "settings",
    [
        "names: [ant, bee]\n",
        "names: {0: ant, 1: bee}\npath: .\ntrain: images/train\nval: images/val\ntest: images/test\n",
        "names: [ant, bee]\nnc: 2\npath: ../elsewhere\ntrain: ../images/train\nval: ../images/val\ntest:\n  - images/test\n",
        "names: [ant, bee]\ntrain: train.txt\nval: images/val\ntest: images/test\n",
    ],
)
def test_yolo_layouts(tmp_path: Path, settings: str) -> None:
    write("yolo", tmp_path, ("ant", "bee"), SPLITS)
    (tmp_path / "data.yaml").write_text(settings)
    (tmp_path / "train.txt").write_text("./images/train/p1.jpg\nimages/train/p2.jpg\n")
    raw = read(tmp_path)
    assert (raw.findings, raw.classes) == ((), ("ant", "bee"))
    assert {split: len(records) for split, records in raw.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    assert [box.label for box in raw.splits["train"][0].boxes] == ["ant", "bee"]


def test_yolo_without_a_val_split(tmp_path: Path) -> None:
    write("yolo", tmp_path, ("ant", "bee"), {"train": SPLITS["train"]})
    assert list(read(tmp_path).splits) == ["train"]


def test_yolo_test_split_that_is_named_but_not_there(tmp_path: Path) -> None:
    write("yolo", tmp_path / "bugs", ("ant", "bee"), SPLITS)
    for kind in ("images", "labels"):
        shutil.rmtree(tmp_path / "bugs" / kind / "test")
    dataset = load_dataset(tmp_path / "bugs", tmp_path / "cache")
    assert (list(dataset.splits), list(dataset.repairs.values())) == (["train", "val"], [1])


def test_yolo_polygons_become_the_box_around_them(tmp_path: Path) -> None:
    write("yolo", tmp_path, ("ant", "bee"), SPLITS)
    (tmp_path / "labels" / "train" / "p1.txt").write_text("1 0.1 0.5 0.3 0.2 0.6 0.9 0.4 0.7\n")
    assert read(tmp_path).splits["train"][0].boxes[0].corners == (0.1, 0.2, 0.6, 0.9)


def test_yolo_picture_without_labels_shows_nothing(tmp_path: Path) -> None:
    write("yolo", tmp_path, ("ant", "bee"), SPLITS)
    (tmp_path / "labels" / "train" / "p1.txt").unlink()
    raw = read(tmp_path)
    assert raw.findings == ()
    assert raw.splits["train"][0].boxes == ()

"""Values in the many spellings of exporters: read as they are meant, told, or refused."""

import json
from pathlib import Path

import pytest
from bad_datasets import CLASSES, SPLITS, check_only_problem, update_annotation, write_coco
from small_datasets import Change, Document

from detreg.data import load_dataset
from detreg.data.boxes import Corners
from detreg.data.dataset import Dataset
from detreg.data.formats import write
from detreg.data.formats.coco_segmentation import bound_segmentation


def load(folder: Path) -> Dataset:
    return load_dataset(folder, folder.parent / "cache")


def read_crowd_flags(dataset: Dataset) -> list[int]:
    """Return the flags of the annotations of train, in their order."""
    document = json.loads(dataset.splits["train"].annotations.read_text())
    return [annotation["iscrowd"] for annotation in document["annotations"]]


def write_ids_as_floats(document: Document) -> None:
    for entry in document["annotations"]:
        entry["image_id"] = float(entry["image_id"])
        entry["category_id"] = float(entry["category_id"])


def write_ids_as_text(document: Document) -> None:
    for entry in document["annotations"]:
        entry["image_id"] = str(entry["image_id"])
        entry["category_id"] = f"{entry['category_id']}.0"
    for entry in document["categories"]:
        entry["id"] = str(entry["id"])


def write_categories_as_floats(document: Document) -> None:
    for entry in document["categories"]:
        entry["id"] = float(entry["id"])


@pytest.mark.parametrize(
    "change", [write_ids_as_floats, write_ids_as_text, write_categories_as_floats]
)
def test_ids_may_be_floats_or_text(tmp_path: Path, change: Change) -> None:
    plain = load(write_coco(tmp_path / "plain"))
    changed = load(write_coco(tmp_path / "changed", change))
    assert changed.digest == plain.digest
    assert changed.repairs == {}


def test_names_that_are_equal_as_numbers_are_two_files(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set")
    image_folder = folder / "images" / "train"
    (image_folder / "001.png").rename(image_folder / "1")
    (image_folder / "002.png").rename(image_folder / "1.0")

    path = folder / "annotations" / "train.json"
    path.write_text(path.read_text().replace("001.png", "1").replace("002.png", "1.0"))
    assert load(folder).splits["train"].images == 2


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", "true", "Yes"])
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_coco_flag_is_set(tmp_path: Path, key: str, value: object) -> None:
    dataset = load(write_coco(tmp_path / "set", update_annotation(**{"iscrowd": 0, key: value})))
    assert read_crowd_flags(dataset) == [1, 0, 0, 0]
    notes = {"ignore set: taken as a region to ignore, as iscrowd is": 1}
    assert dataset.repairs == (notes if key == "ignore" else {})


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "false", "", None])
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_coco_flag_is_not_set(tmp_path: Path, key: str, value: object) -> None:
    dataset = load(write_coco(tmp_path / "set", update_annotation(**{key: value})))
    assert read_crowd_flags(dataset) == [0, 0, 0, 0]
    assert dataset.repairs == {}


@pytest.mark.parametrize("value", [2, -1, "maybe", [1]])
def test_coco_flag_that_could_mean_either_is_refused(tmp_path: Path, value: object) -> None:
    folder = write_coco(tmp_path / "set", update_annotation(iscrowd=value))
    check_only_problem(folder, ["annotation 1: (class cat) iscrowd", "is neither 0 nor 1"])


def write_voc(folder: Path, difficult: str) -> Path:
    """Write a VOC dataset whose first image has objects with other texts in `<difficult>`."""
    write("voc", folder, CLASSES, SPLITS)
    path = folder / "Annotations" / "001.xml"
    path.write_text(path.read_text().replace("<difficult>0<", f"<difficult>{difficult}<"))
    return folder


@pytest.mark.parametrize(
    ("text", "is_difficult", "is_told"),
    [
        ("1", True, False),
        (" 1 ", True, False),
        ("1.0", True, False),
        ("true", True, False),
        ("YES", True, False),
        ("0", False, False),
        ("", False, False),
        ("0.0", False, False),
        ("No", False, False),
        ("FALSE", False, False),
        ("Unspecified", False, True),
        ("None", False, True),
    ],
)
def test_voc_difficult_words(tmp_path: Path, text: str, is_difficult: bool, is_told: bool) -> None:
    dataset = load(write_voc(tmp_path / "set", text))
    assert read_crowd_flags(dataset) == [int(is_difficult), int(is_difficult), 0, 0]
    told = {"flag that says neither yes nor no taken as no": 2}
    assert dataset.repairs == (told if is_told else {})


def test_voc_difficult_word_that_could_mean_either_is_refused(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set", "hard")
    path = folder / "Annotations" / "001.xml"
    path.write_text(path.read_text().replace("hard", "0", 1))
    check_only_problem(folder, ["001.xml object 2", "difficult 'hard' is neither 0 nor 1"])


def test_voc_objects_count_wherever_they_stand_in_the_file(tmp_path: Path) -> None:
    plain = load(write_voc(tmp_path / "plain", "0"))
    folder = write_voc(tmp_path / "nested", "0")
    path = folder / "Annotations" / "001.xml"
    text = path.read_text().replace("<object>", "<objects><object>")
    path.write_text(text.replace("</object>", "</object></objects>"))
    assert load(folder).digest == plain.digest


def drop_boxes(segmentation: object) -> Change:
    def change(document: Document) -> None:
        del document["annotations"][0]["bbox"]
        document["annotations"][0]["segmentation"] = segmentation

    return change


@pytest.mark.parametrize(
    "segmentation",
    [
        [[5, 6, 20, 6, 20, 16]],
        [[5.0, 6.0, 9.0, 6.0, 9.0, 16.0], [9, 7, 20, 7, 20, 9]],
        # An image of 40 x 30: 15 columns of ten ones, from the 5th column and the 6th row on.
        {"size": [30, 40], "counts": [5 * 30 + 6, *[10, 20] * 14, 10, 20 * 30 + 14]},
    ],
)
def test_box_is_made_from_a_segmentation(tmp_path: Path, segmentation: object) -> None:
    plain = load(write_coco(tmp_path / "plain"))
    dataset = load(write_coco(tmp_path / "set", drop_boxes(segmentation)))
    assert dataset.digest == plain.digest
    assert dataset.repairs == {"missing bbox computed from the segmentation": 1}


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, "6"]],
        {"size": [30, 40], "counts": [1200]},
        {"size": [30, 40], "counts": [7, 5]},
        {"size": [30, 40], "counts": [-5, 1205]},
        {"size": [30], "counts": [30]},
        {"size": [30, 40], "counts": "\x7f"},
        {"size": [1 << 60, 1 << 60], "counts": [0, 1 << 60]},
    ],
    ids=str,
)
def test_segmentation_without_extent_makes_no_box(tmp_path: Path, segmentation: object) -> None:
    folder = write_coco(tmp_path / "set", drop_boxes(segmentation))
    check_only_problem(folder, ["annotation 1: (class cat) bbox None is not four numbers"])


@pytest.mark.parametrize(
    ("size", "text", "corners"),
    [
        # Written by pycocotools.mask.encode.
        ((5, 7), "723000008", (1, 2, 5, 4)),
        ((3, 2), "06", (0, 0, 2, 3)),
        ((4, 4), "`0", None),
        ((30, 40), "n2b0<000000000000000000000000000000000fa0", (3, 4, 21, 22)),
    ],
)
def test_box_around_a_compressed_mask(
    size: tuple[int, int], text: str, corners: Corners | None
) -> None:
    assert bound_segmentation({"size": list(size), "counts": text}) == corners


@pytest.mark.parametrize("as_corners", [True, False])
def test_corners_as_bbox_are_seen_by_the_segmentations(tmp_path: Path, as_corners: bool) -> None:
    def add_segmentations(document: Document) -> None:
        for entry in document["annotations"]:
            x, y, width, height = entry["bbox"]
            x2, y2 = x + width, y + height
            entry["segmentation"] = [[x, y, x2, y, x2, y2]]
            if as_corners:
                entry["bbox"] = [x, y, x2, y2]

    folder = write_coco(tmp_path / "set", add_segmentations)
    if as_corners:
        check_only_problem(folder, ["annotations/train.json: bbox has the corners"])
    else:
        assert load(folder).repairs == {}

"""The check: all problems at once, EXIF rotation, odd values, and flaws that are repaired."""

import json
from pathlib import Path

import pytest
from bad_datasets import (
    CLASSES,
    SPLITS,
    check_only_problem,
    find_problems,
    update_annotation,
    update_image,
    write_coco,
)
from small_datasets import Change, Document, encode_image, read_json

from detreg.data import load_dataset, summarize_dataset
from detreg.data.formats import write
from detreg.errors import DataError


def repeat_annotation(document: Document) -> None:
    document["annotations"].append({**document["annotations"][0], "id": 99})


def test_annotation_files_that_name_no_split(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "data")
    named = summarize_dataset(folder, tmp_path / "cache")
    (folder / "annotations" / "train.json").rename(folder / "annotations" / "one.json")
    (folder / "annotations" / "val.json").rename(folder / "annotations" / "two.json")
    # The folders of the images do.
    unnamed = summarize_dataset(folder, tmp_path / "cache")
    assert named["ok"]
    assert unnamed["digest"] == named["digest"]


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_dataset_without_images(tmp_path: Path, format: str) -> None:
    write(format, tmp_path / "data", CLASSES, {"train": [], "val": []})
    check_only_problem(tmp_path / "data", ["there are no images"])


def test_boxes_of_an_image_before_its_exif_rotation(tmp_path: Path) -> None:
    turned = encode_image(1, orientation=6)
    folder = write_coco(tmp_path / "data")
    (folder / "images" / "train" / "001.png").write_bytes(turned)
    check_only_problem(
        folder, ["images/train/001.png", "40x30 is stated", "EXIF", "turns it to 30x40"]
    )


def test_boxes_of_an_image_after_its_exif_rotation(tmp_path: Path) -> None:
    turned = encode_image(1, orientation=6)
    folder = write_coco(tmp_path / "data", update_image(width=30, height=40))
    (folder / "images" / "train" / "001.png").write_bytes(turned)
    assert load_dataset(folder, tmp_path / "cache").repairs == {}


def test_many_problems_of_one_kind_are_grouped(tmp_path: Path) -> None:
    folder = tmp_path / "flood"
    write("yolo", folder, ("cat",), {"train": SPLITS["val"], "val": SPLITS["val"]})
    (folder / "labels" / "train" / "003.txt").write_text("0\n" * 300)
    assert len(summarize_dataset(folder, tmp_path / "cache")["problems"]) == 300

    with pytest.raises(DataError) as error:
        load_dataset(folder, tmp_path / "cache")
    *_, count, advice = error.value.problems
    assert len(error.value.problems) == 3
    assert count.startswith("... and 299 more like it: labels/train/003.txt line 2, ")
    assert "300 problems; `detreg check" in advice


REPAIRS: dict[str, Change] = {
    "box clipped to its image": update_annotation(bbox=[20, 20, 22, 10]),
    "box clipped to its image by more than a quarter": update_annotation(bbox=[30, 20, 25, 25]),
    "box without extent dropped": update_annotation(bbox=[5, 5, 0, 4]),
    "box less than one pixel wide or high dropped": update_annotation(bbox=[5, 5, 0.5, 4]),
    "exact duplicate of a box dropped": repeat_annotation,
    "missing or zero area computed from the box": update_annotation(area=0),
    "missing width or height read from the image": update_image(width=None),
}


@pytest.mark.parametrize(("message", "change"), REPAIRS.items())
def test_harmless_flaw_is_repaired_and_counted(
    tmp_path: Path, message: str, change: Change
) -> None:
    folder = write_coco(tmp_path / "data", change)
    dataset = load_dataset(folder, tmp_path / "cache")
    assert dataset.repairs == {message: 1}
    assert summarize_dataset(folder, tmp_path / "cache")["repairs"] == {message: 1}

    for entry in read_json(dataset.splits["train"].annotations)["annotations"]:
        x, y, width, height = entry["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 40
        assert y + height <= 30
        assert entry["area"] == width * height > 0


ODD_VALUES: tuple[object, ...] = (
    None,
    [],
    {},
    "x",
    "",
    -1,
    0.5,
    True,
    float("inf"),
    float("nan"),
    10**400,
    "a\0b",
    "a" * 5000,
    [[1]],
    ["1", None, {}, 4],
)


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:12])
def test_no_value_in_a_coco_file_breaks_the_check(tmp_path: Path, value: object) -> None:
    folder = write_coco(tmp_path / "data")
    path = folder / "annotations" / "train.json"
    good = read_json(path)
    for kind in ("images", "annotations", "categories"):
        for key in (*good[kind][0], "supercategory"):
            document = json.loads(json.dumps(good))
            document[kind][0][key] = value
            path.write_text(json.dumps(document))
            summarize_dataset(folder, tmp_path / "cache")

        path.write_text(json.dumps({**good, kind: value}))
        summarize_dataset(folder, tmp_path / "cache")


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    def damage(document: Document) -> None:
        document["images"][0]["file_name"] = "gone.jpg"
        document["images"][1]["width"] = 41
        document["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
        document["annotations"][1]["category_id"] = 9
        document["annotations"][2]["bbox"] = [90, 90, 5, 5]
        document["categories"].append({"id": 3, "name": "DOG"})

    folder = write_coco(tmp_path / "data", damage)
    (folder / "annotations" / "val.json").write_text("{")
    problems = find_problems(folder, tmp_path / "cache")
    assert len(problems) == 7

    text = "\n".join(problems)
    for words in (
        "gone.jpg",
        "41x30",
        "NaN",
        "category_id 9",
        "wholly outside",
        "'dog' and 'DOG'",
        "val.json: line 1",
    ):
        assert words in text

"""What shows over a whole split only: classes that train lacks, boxes in another form."""

from pathlib import Path

import pytest
from bad_datasets import check_only_problem, find_problems
from small_datasets import HEIGHT, WIDTH, Document, edit_json, encode_image, make_image

from detreg.data import load_dataset
from detreg.data.boxes import Box
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage
from detreg.data.summary import summarize_dataset

Images = dict[str, list[AnnotatedImage]]


def make_splits(train: str, **others: str) -> Images:
    """Return splits with one image for each label; a space stands for an image without a box."""
    splits: Images = {}
    shade = 0
    for split, labels in {"train": train, **others}.items():
        splits[split] = []
        for label in labels.split(","):
            shade += 1
            boxes = [Box((5, 6, 20, 16), label)] if label else []
            splits[split].append(make_image(shade, *boxes))
    return splits


def write_dataset(folder: Path, format: str, splits: Images) -> Path:
    labels = {box.label for images in splits.values() for image in images for box in image.boxes}
    write(format, folder, sorted(labels), splits)
    return folder


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_train_lacks_is_an_error(tmp_path: Path, format: str, split: str) -> None:
    splits = make_splits("cat,dog,cat", **{"val": "dog", split: "horse,horse,cat"})
    folder = write_dataset(tmp_path / "set", format, splits)
    words = [f"class 'horse' has 2 boxes in {split} and none in train", "(class horse)"]
    check_only_problem(folder, words)


def test_class_that_is_nearly_another_may_be_a_typo(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", "voc", make_splits("cat,dog,cat", val="dgo,cat"))
    check_only_problem(folder, ["class 'dgo'", "it may be a typo of 'dog'"])


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_class_that_train_lacks_is_a_warning_in_a_trial(tmp_path: Path, format: str) -> None:
    folder = write_dataset(tmp_path / "set", format, make_splits("cat,dog", val="horse,cat"))
    summary = summarize_dataset(folder, tmp_path / "cache")
    assert summary["ok"]
    (finding,) = summary["findings"]
    assert finding["severity"] == "warning"
    assert "class that train lacks" in finding["message"]
    assert "(class horse)" in finding["places"][0]


def test_class_that_no_split_has_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write("yolo", folder, ("cat", "dog", "horse"), make_splits("cat,dog", val="dog"))
    assert load_dataset(folder, tmp_path / "cache").classes == ("cat", "dog", "horse")


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_val_without_boxes_is_an_error(tmp_path: Path, format: str) -> None:
    folder = write_dataset(tmp_path / "set", format, make_splits("cat,dog", val=",", test="cat"))
    check_only_problem(folder, ["the val split has no boxes, so nothing can be scored"])


def test_test_split_without_boxes_is_no_error(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", "coco", make_splits("cat,dog", val="cat", test=""))
    assert load_dataset(folder, tmp_path / "cache").splits["test"].boxes == 0


def test_image_that_is_listed_twice_is_an_error(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", "coco", make_splits("cat,dog", val="cat"))

    def list_again(document: Document) -> None:
        document["images"].append(dict(document["images"][0], id=9, file_name="./001.png"))

    edit_json(folder / "annotations" / "train.json", list_again)
    check_only_problem(
        folder, ["images/train/001.png: the image is listed more than once in train"]
    )


CORNERS = [(2, 3, 22, 20), (20, 4, 38, 25), (10, 10, 39, 29), (25, 15, 38, 28), (1, 1, 8, 9)]


def write_corners(folder: Path, format: str, count: int) -> Path:
    """Write a dataset whose first boxes have corners where width and height belong."""
    boxes = [Box(corners, "cat") for corners in CORNERS]
    splits = {"train": [make_image(1, *boxes)], "val": [make_image(2, *boxes[:1])]}
    write_dataset(folder, format, splits)
    if format == "coco":

        def change(document: Document) -> None:
            for entry, corners in zip(document["annotations"][:count], CORNERS, strict=False):
                entry["bbox"] = list(corners)

        edit_json(folder / "annotations" / "train.json", change)
    else:
        path = folder / "labels" / "train" / "001.txt"
        lines = path.read_text().splitlines()
        for number, (x1, y1, x2, y2) in enumerate(CORNERS[:count]):
            lines[number] = f"0 {x1 / WIDTH} {y1 / HEIGHT} {x2 / WIDTH} {y2 / HEIGHT}"
        path.write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_corners_where_width_and_height_belong(tmp_path: Path, format: str) -> None:
    folder = write_corners(tmp_path / "set", format, len(CORNERS))
    words = ["of 5 boxes reach over their image by more than a quarter", "they look like corners"]
    check_only_problem(folder, words)


def test_few_boxes_that_reach_far_over_their_image_are_a_repair(tmp_path: Path) -> None:
    folder = write_corners(tmp_path / "set", "coco", 2)
    repairs = load_dataset(folder, tmp_path / "cache").repairs
    assert repairs == {"box clipped to its image by more than a quarter": 1}


def test_many_boxes_of_larger_images(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", "coco", make_splits("cat,cat,cat,cat", val="cat"))

    def move(document: Document) -> None:
        for entry in document["annotations"]:
            entry["bbox"] = [30, 20, 20, 20]

    edit_json(folder / "annotations" / "train.json", move)
    (problem,) = find_problems(folder, tmp_path / "cache")
    assert "annotations/train.json: 4 of 4 boxes reach over their image" in problem
    assert "images of another size" in problem


@pytest.mark.parametrize(("format", "is_told"), [("yolo", True), ("voc", False)])
def test_exif_turn_is_told_where_no_size_is_stated(
    tmp_path: Path, format: str, is_told: bool
) -> None:
    content = encode_image(1, "JPEG", orientation=6)
    turned = AnnotatedImage("x.jpg", content, HEIGHT, WIDTH, (Box((5, 6, 20, 16), "cat"),))
    splits = make_splits("cat", val="cat")
    splits["train"].append(turned)

    folder = write_dataset(tmp_path / "set", format, splits)
    repairs = load_dataset(folder, tmp_path / "cache").repairs
    assert any("turned by its EXIF orientation" in text for text in repairs) == is_told


@pytest.mark.parametrize(
    ("rare", "is_told"),
    [("dgo", True), ("dg", False), ("dogs", True), ("doh", True), ("do1", False), ("cow", False)],
)
def test_rare_class_that_may_be_a_typo_is_told(tmp_path: Path, rare: str, is_told: bool) -> None:
    boxes = [Box((x, y, x + 5, y + 5), "dog") for x in range(10) for y in range(2)]
    splits = {
        "train": [make_image(1, *boxes, Box((20, 20, 30, 30), rare))],
        "val": [make_image(2, *boxes)],
    }
    folder = write_dataset(tmp_path / "set", "voc", splits)
    repairs = load_dataset(folder, tmp_path / "cache").repairs
    assert any("it may be a typo" in text for text in repairs) == is_told

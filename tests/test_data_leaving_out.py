"""on_bad_image=skip: images that cannot be used are left out as a whole, and nothing else is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_datasets import edit_json, make_labeled_image

from detreg.data import load_dataset
from detreg.data.formats import write
from detreg.data.leaving_out import LEFT_OUT_MESSAGE
from detreg.data.summary import describe_dataset
from detreg.errors import DataError

CLASSES = ("cat", "dog")
GOOD = {
    "train": [make_labeled_image(1, "cat", "dog"), make_labeled_image(2, "dog")],
    "val": [make_labeled_image(3, "dog", "cat")],
}
BAD = make_labeled_image(9, "cat", "dog")

Flaw = Callable[[Path], object]


def write_data(folder: Path, format: str, flaw: Flaw | None = None) -> Path:
    """Write the good images; with a flaw also a further one, which the flaw breaks."""
    further = [BAD] if flaw else []
    write(format, folder, CLASSES, {**GOOD, "train": [*GOOD["train"], *further]})
    if flaw:
        flaw(folder)
    return folder


def find_image(folder: Path) -> Path:
    return next(folder.rglob(BAD.file_name))


def cut_image(folder: Path) -> None:
    path = find_image(folder)
    path.write_bytes(path.read_bytes()[:-20])


def edit_annotation(**values: object) -> Flaw:
    """Return a flaw of the first of the two boxes of the further image."""

    def edit(folder: Path) -> None:
        edit_json(
            folder / "annotations" / "train.json",
            lambda document: document["annotations"][3].update(values),
        )

    return edit


def edit_entry(**values: object) -> Flaw:
    """Return a flaw of the entry of the further image."""

    def edit(folder: Path) -> None:
        edit_json(
            folder / "annotations" / "train.json",
            lambda document: document["images"][2].update(values),
        )

    return edit


def edit_text(place: str, old: str, new: str) -> Flaw:
    """Return a flaw in a text file."""

    def edit(folder: Path) -> None:
        path = folder / place
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


XML = "Annotations/009.xml"
LABELS = "labels/train/009.txt"
FLAWS: dict[str, tuple[str, Flaw]] = {
    "missing": ("coco", lambda folder: find_image(folder).unlink()),
    "cut short": ("coco", cut_image),
    "other size": ("coco", edit_entry(width=99)),
    "name outside": ("coco", edit_entry(file_name="../../x.png")),
    "entry without name": ("coco", edit_entry(file_name=None)),
    "box of text": ("coco", edit_annotation(bbox="x")),
    "box outside": ("coco", edit_annotation(bbox=[400, 400, 9, 9])),
    "box without number": ("coco", edit_annotation(bbox=[float("nan"), 4, 9, 9])),
    "voc missing": ("voc", lambda folder: find_image(folder).unlink()),
    "voc broken file": ("voc", edit_text(XML, "<object>", "<obj")),
    "voc broken box": ("voc", edit_text(XML, "<xmin>0", "<xmin>left")),
    "voc box outside": ("voc", edit_text(XML, "<xmin>0</xmin>", "<xmin>800</xmin>")),
    "voc no file": ("voc", lambda folder: (folder / XML).unlink()),
    "yolo missing": ("yolo", lambda folder: find_image(folder).unlink()),
    "yolo row": ("yolo", edit_text(LABELS, "0 ", "0 0.1 ")),
    "yolo pixels": ("yolo", edit_text(LABELS, "0 0.", "0 30.")),
    "yolo no text": ("yolo", lambda folder: (folder / LABELS).write_bytes(b"\xff\xfe0\x00")),
}


@pytest.mark.parametrize(("format", "flaw"), FLAWS.values(), ids=FLAWS.keys())
def test_an_image_that_cannot_be_used_is_left_out_as_a_whole(
    tmp_path: Path, format: str, flaw: Flaw
) -> None:
    good = load_dataset(write_data(tmp_path / "good", format), tmp_path / "cache")
    bad = write_data(tmp_path / "bad", format, flaw)
    with pytest.raises(DataError) as refused:
        load_dataset(bad, tmp_path / "cache")

    # The whole image with both of its boxes: one box less would teach that an object is none.
    dataset = load_dataset(bad, tmp_path / "cache", on_bad_image="skip")
    assert dataset.digest == good.digest
    assert {name: split.boxes for name, split in dataset.splits.items()} == {"train": 3, "val": 2}
    assert dataset.repairs[LEFT_OUT_MESSAGE] == 1
    assert list(dataset.left_out) == list(refused.value.problems)
    assert f"{LEFT_OUT_MESSAGE} (1)" in describe_dataset(dataset)
    assert f"left out: {dataset.left_out[0]}" in describe_dataset(dataset)


WRONG_EVERYWHERE: dict[str, tuple[str, Flaw]] = {
    "coco category": ("coco", edit_annotation(category_id=7)),
    "yolo class": ("yolo", edit_text(LABELS, "0 ", "2 ")),
    "voc name": ("voc", edit_text(XML, "<name>cat", "<name>Cat")),
    "coco file": ("coco", lambda folder: (folder / "annotations/val.json").write_text("{")),
    "two ids": ("coco", edit_entry(id=1)),
}


@pytest.mark.parametrize(("format", "flaw"), WRONG_EVERYWHERE.values(), ids=WRONG_EVERYWHERE.keys())
def test_what_may_be_wrong_with_other_labels_is_never_skipped(
    tmp_path: Path, format: str, flaw: Flaw
) -> None:
    folder = write_data(tmp_path / "bad", format, flaw)
    with pytest.raises(DataError):
        load_dataset(folder, tmp_path / "cache", on_bad_image="skip")


def test_nothing_left_is_refused_and_says_why(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "bad", "coco")
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError) as refused:
        load_dataset(folder, tmp_path / "cache", on_bad_image="skip")
    none_left, advice = refused.value.problems
    assert "there are no images" in none_left
    assert "4 problems; `detreg check" in advice

"""Copies of images in several splits, exact ones and near ones, and copies with other boxes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scenes import make_scene
from small_datasets import Document, edit_json

from detreg.cli import run
from detreg.data.boxes import Box
from detreg.data.finding_groups import GroupSummary
from detreg.data.formats import write
from detreg.data.summary import summarize_dataset

NAMES = {"train": "again.jpg", "val": "again_val.jpg", "test": "again_test.jpg"}


def find_warnings(
    folder: Path, copies: Sequence[tuple[str, int, int]], *boxes: Box
) -> list[GroupSummary]:
    """Return what is found where splits have copies, as (split, seed, quality).

    Train has the scenes 0 and 1, val 2 and test 3, with a quality of 95.
    """
    splits = {"train": [make_scene(0), make_scene(1)], "val": [make_scene(2)]}
    splits["test"] = [make_scene(3)]
    for split, seed, quality in copies:
        copy = make_scene(seed, quality=quality, name=NAMES[split])
        splits[split].append(replace(copy, boxes=boxes or copy.boxes))
    write("coco", folder, ("cat",), splits)
    return summarize_dataset(folder, folder.parent / "cache")["findings"]


@pytest.mark.parametrize(
    ("copy", "message", "place"),
    [
        (
            ("val", 0, 95),
            "image of another split found in train too: left there, but it flatters the scores",
            "val/again_val.jpg (the same file as images/train/000_95.jpg)",
        ),
        (
            ("test", 2, 95),
            "image of test found in val too: left there, but the model is chosen by val",
            "test/again_test.jpg (the same file as images/val/002_95.jpg)",
        ),
        (
            ("test", 1, 60),
            "image of another split that looks like one of train: left there, but it flatters the "
            "scores",
            "test/again_test.jpg (looks like images/train/001_95.jpg)",
        ),
        (
            ("test", 2, 60),
            "image of test that looks like one of val: left there, but the model is chosen by val",
            "test/again_test.jpg (looks like images/val/002_95.jpg)",
        ),
    ],
)
def test_a_copy_in_another_split_is_one_warning_with_both_files(
    tmp_path: Path, copy: tuple[str, int, int], message: str, place: str
) -> None:
    (group,) = find_warnings(tmp_path / "set", [copy])
    assert group["severity"] == "warning"
    assert group["kind"] == ("near_copy" if copy[2] == 60 else "image_in_several_splits")
    assert group["message"] == message
    assert group["remedy"].startswith("keep ")
    assert group["places"] == [f"images/{place}"]


def test_copies_within_a_split_are_no_warning(tmp_path: Path) -> None:
    assert find_warnings(tmp_path / "exact", [("train", 0, 95)]) == []
    assert find_warnings(tmp_path / "near", [("train", 0, 60)]) == []


def test_near_copies_are_one_group_and_the_most_similar_image_is_named(tmp_path: Path) -> None:
    # Test has copies of two images of train, of which one was saved in between.
    copies = [("train", 0, 30), ("test", 0, 31), ("val", 1, 60)]
    (group,) = find_warnings(tmp_path / "set", copies)
    assert group["kind"] == "near_copy"
    assert group["places"] == [
        "images/test/again_test.jpg (looks like images/train/again.jpg)",
        "images/val/again_val.jpg (looks like images/train/001_95.jpg)",
    ]


def test_strict_refuses_near_copies_across_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    splits = {"train": [make_scene(0), make_scene(1)], "val": [make_scene(0, quality=60)]}
    write("coco", folder, ("cat",), splits)
    assert run(["check", str(folder), "--strict"]) == 65
    shown = capsys.readouterr().out
    assert "is good, with 1 warning" in shown
    assert "within a split" not in shown
    assert run(["check", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "near_copy"


def test_copies_with_other_boxes_are_told(tmp_path: Path) -> None:
    (group,) = find_warnings(tmp_path / "set", [("train", 0, 95)], Box((1, 1, 9, 9), "cat"))
    assert group["message"].startswith("copy of an image of the same split with other boxes")
    assert group["places"] == ["images/train/again.jpg (the same file as images/train/000_95.jpg)"]


def test_a_file_that_two_splits_list_is_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    splits = {"train": [make_scene(0), make_scene(1)], "val": [make_scene(2)]}
    write("coco", folder, ("cat",), splits)

    def list_image_of_train(document: Document) -> None:
        document["images"].append(
            {"id": 99, "file_name": "images/train/001_95.jpg", "width": 160, "height": 120}
        )

    edit_json(folder / "annotations" / "val.json", list_image_of_train)
    (group,) = summarize_dataset(folder, tmp_path / "cache")["findings"]
    assert group["kind"] == "image_in_several_splits"
    assert group["places"] == ["images/train/001_95.jpg"]

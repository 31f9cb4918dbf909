"""Datasets with one flaw, and what the check must say of it."""

from pathlib import Path

import pytest
from small_datasets import Change, edit_json, make_image

from detreg.data import load_dataset, summarize_dataset
from detreg.data.boxes import Box
from detreg.data.formats import write
from detreg.errors import DataError

CLASSES = ("cat", "dog")
SPLITS = {
    "train": [
        make_image(1, Box((5, 6, 20, 16), "cat"), Box((1, 1, 9, 9), "dog")),
        make_image(2, Box((5, 6, 20, 16), "cat"), Box((1, 1, 9, 9), "dog")),
    ],
    "val": [make_image(3, Box((5, 6, 20, 16), "cat"))],
}


def update_annotation(**values: object) -> Change:
    return lambda document: document["annotations"][0].update(values)


def update_image(**values: object) -> Change:
    return lambda document: document["images"][0].update(values)


def find_problems(folder: Path, cache: Path) -> list[str]:
    """Return the problems of a dataset, which load_dataset and summarize_dataset agree on."""
    summary = summarize_dataset(folder, cache)
    problems = summary["problems"]
    assert problems
    assert summary["ok"] is False

    with pytest.raises(DataError) as error:
        load_dataset(folder, cache)
    assert list(error.value.problems) == problems
    assert not (cache / "datasets").exists()
    return problems


def check_only_problem(folder: Path, words: list[str]) -> None:
    """Assert that a dataset has one problem, which holds all words and says how to mend it."""
    (problem,) = find_problems(folder, folder.parent / "cache")
    for word in words:
        assert word in problem
    assert "; " in problem, "a problem says how to put it right"


def write_coco(folder: Path, *changes: Change) -> Path:
    """Write a COCO dataset with changes to the annotation file of train."""
    write("coco", folder, CLASSES, SPLITS)
    for change in changes:
        edit_json(folder / "annotations" / "train.json", change)
    return folder

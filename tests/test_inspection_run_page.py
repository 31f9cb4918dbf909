"""The page of the dataset of a training."""

from pathlib import Path

import pytest
from small_datasets import write_pets

from detreg.data.boxes import Box
from detreg.data.canonical import read_canonical_copy, write_canonical_copy
from detreg.data.dataset import load_dataset
from detreg.data.images import DatasetImage
from detreg.inspection import run_page
from detreg.inspection.run_page import write_page_of_loaded


def test_the_canonical_copy_is_read_as_it_was_written(tmp_path: Path) -> None:
    boxes = (
        Box((1.5, 2.25, 30.125, 20.0), "dog", area=100.0),
        Box((0.0, 0.0, 5.0, 5.0), "cat", crowd=True, area=25.0),
    )
    images = (
        DatasetImage(tmp_path / "a.png", 40, 30, "", boxes),
        DatasetImage(tmp_path / "b.png", 50, 20, "", ()),
    )
    paths = write_canonical_copy(tmp_path / "copy", ("cat", "dog"), {"train": images})
    assert read_canonical_copy(paths["train"]) == images


def test_the_page_is_made_once_for_all_trainings_on_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(write_pets(tmp_path / "pets"), tmp_path / "cache")
    page = write_page_of_loaded(dataset)
    assert page.name == "dataset.html"
    text = page.read_text()
    assert dataset.digest in text
    assert str(tmp_path / "pets") in text
    assert "<span>errors</span>" not in text

    def refuse(*_: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(run_page, "write_dataset_page", refuse)
    assert write_page_of_loaded(dataset) == page

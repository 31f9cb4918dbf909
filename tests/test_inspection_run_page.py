"""The page of the dataset of a training."""

import shutil
from pathlib import Path

import pytest
from scenes import encode_scene, make_scene
from small_datasets import write_pets

from detreg.data.boxes import Box
from detreg.data.canonical import read_canonical_copy, write_canonical_copy
from detreg.data.dataset import load_dataset
from detreg.data.formats import write
from detreg.data.images import DatasetImage
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.run_page import Preview, log_page_of_run, write_page_of_run
from detreg.params import build
from detreg.report.section import GalleryItem
from detreg.templates import TEMPLATES
from detreg.tracking.run import Run


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


def test_the_page_shows_copies_and_what_training_sees(tmp_path: Path) -> None:
    splits = {"train": [make_scene(0), make_scene(1)], "val": [make_scene(0, quality=60)]}
    write("coco", tmp_path / "set", ("cat",), splits)
    dataset = load_dataset(tmp_path / "set", tmp_path / "cache")

    def draw(folder: Path) -> list[GalleryItem]:
        (folder / "1.jpg").write_bytes(encode_scene(5))
        return [GalleryItem(folder / "1.jpg", "640 x 640 px", "1 cat")]

    plan = TrainingPlan(TEMPLATES["yolox"], build(TEMPLATES["yolox"].params, {}))
    page = write_page_of_run(dataset, "../set", plan, Preview("key", draw))
    assert page.name == "dataset.html"
    text = page.read_text()
    for part in (dataset.digest, "../set", str(tmp_path / "set"), "across splits", "640 x 640 px"):
        assert part in text
    assert "In pixels at the size of training: boxes of yolox" in text
    assert "Good, with 1 warning: scores" in text
    assert "<span>errors</span>" not in text


def test_the_page_is_made_once_for_all_runs_that_would_show_the_same(tmp_path: Path) -> None:
    dataset = load_dataset(write_pets(tmp_path / "pets"), tmp_path / "cache")
    drawn: list[Path] = []

    def draw(folder: Path) -> list[GalleryItem]:
        drawn.append(folder)
        return []

    def write_page(data: str, key: str) -> Path:
        return write_page_of_run(dataset, data, preview=Preview(key, draw))

    page = write_page("pets", "a")
    assert write_page("pets", "a") == page
    assert len(drawn) == 1
    # The page names the path that this run was given.
    other = write_page("link/to/pets", "a")
    assert "link/to/pets" in other.read_text()
    assert "link/to/pets" not in page.read_text()
    assert len({page, other, write_page("pets", "b"), write_page_of_run(dataset, "pets")}) == 4
    assert len(drawn) == 3


def test_images_of_an_archive_are_named_as_in_it(tmp_path: Path) -> None:
    splits = {"train": [make_scene(0), make_scene(0, quality=60), make_scene(1)]}
    write("coco", tmp_path / "set", ("cat",), {**splits, "val": [make_scene(2)]})
    archive = shutil.make_archive(str(tmp_path / "boats"), "zip", tmp_path / "set")
    dataset = load_dataset(archive, tmp_path / "cache")
    text = write_page_of_run(dataset, archive).read_text()
    assert "1 near copy within a split, such as images/train/000_95.jpg" in text


def test_a_page_that_cannot_be_written_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_page() -> Path:
        raise OSError(28, "No space left on device")

    log_page_of_run(Run("0" * 32, tmp_path), write_page)
    assert capsys.readouterr().err == (
        "Warning: the run has no page of its dataset: [Errno 28] No space left on device\n"
    )

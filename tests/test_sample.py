"""The drawn sample: deterministic, the same in every format, loadable, and refused where it would overwrite something."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detreg.data import load_dataset, write_sample
from detreg.data.formats import FORMATS
from detreg.data.sample import CLASSES, draw_scene
from detreg.errors import UsageError


def test_a_seed_gives_the_same_bytes() -> None:
    assert draw_scene(3, 0, (96, 80)) == draw_scene(3, 0, (96, 80))
    assert draw_scene(3, 0, (96, 80)) != draw_scene(3, 1, (96, 80))


def test_every_format_holds_the_same_dataset(tmp_path: Path) -> None:
    digests = set()
    for format in FORMATS:
        write_sample(tmp_path / format, format=format, images=12, size=(96, 80))
        dataset = load_dataset(tmp_path / format, tmp_path / "cache")
        assert {name: split.images for name, split in dataset.splits.items()} == {
            "train": 8,
            "val": 2,
            "test": 2,
        }
        assert dataset.repairs == {}
        digests.add(dataset.digest)
    assert len(digests) == 1


def test_boxes_hold_the_objects() -> None:
    boxes = [box for number in range(30) for box in draw_scene(number, 5, (192, 160)).boxes]
    assert {box.label for box in boxes} == set(CLASSES)
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        assert 0 <= x1 < x2 <= 192
        assert 0 <= y1 < y2 <= 160
        assert (x2 - x1) * (y2 - y1) > 100


def test_pictures_have_contrast() -> None:
    picture = draw_scene(0, 0, (192, 160))
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
    assert pixels.shape == (160, 192, 3)
    assert pixels.std() > 20


def test_load_sample_draws_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "detreg.data.sample.write_sample.__kwdefaults__",
        {"format": "coco", "images": 9, "seed": 0, "size": (64, 64)},
    )
    dataset = load_dataset("sample", tmp_path)
    assert (dataset.name, dataset.format, dataset.classes) == ("sample", "sample", CLASSES)
    drawn = next((tmp_path / "samples").iterdir())
    before = drawn.stat().st_mtime_ns
    assert load_dataset("sample", tmp_path).digest == dataset.digest
    assert drawn.stat().st_mtime_ns == before


def test_all_wrong_arguments_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError) as error:
        write_sample(tmp_path, format="tfrecord", images=2, seed=-1, size=(32, 90))
    assert [problem.split()[0] for problem in error.value.problems[:4]] == [
        "format",
        "images",
        "seed",
        "size",
    ]
    assert "not an empty folder" in error.value.problems[4]
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

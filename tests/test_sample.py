"""The drawn sample: deterministic, the same in every format, and never over a user's files."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as reference

from detreg.data import load_dataset, write_sample
from detreg.data.formats import FORMATS
from detreg.data.sample import CLASSES, draw_scene
from detreg.data.sample_canvas import SCALE
from detreg.data.sample_landscape import WEATHERS, draw_landscape
from detreg.errors import UsageError


def test_seed_gives_the_same_bytes() -> None:
    assert draw_scene(3, 0, (96, 80)) == draw_scene(3, 0, (96, 80))
    assert draw_scene(3, 0, (96, 80)) != draw_scene(3, 1, (96, 80))


def test_boxes_are_those_of_the_first_version() -> None:
    hasher = hashlib.sha256()
    for number in range(60):
        for box in draw_scene(number, 0, (192, 160)).boxes:
            hasher.update(repr((box.label, box.corners)).encode())
    assert hasher.hexdigest()[:16] == "aff76b5601437102"


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("sea", "74550c3a6a8dfbf6"), ("meadow", "58a775b0aead90b6"), ("bay", "94536ce930258551")],
)
def test_landscapes_are_those_of_the_first_version(kind: str, digest: str) -> None:
    rng = np.random.default_rng(5)
    image = draw_landscape(rng, WEATHERS[1], kind, (96, 80), horizon=40)
    assert image.size == (96 * SCALE, 80 * SCALE)
    # Pixels and not a JPEG, whose bytes depend on the version of libjpeg.
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == digest


def test_every_format_holds_the_same_dataset(tmp_path: Path) -> None:
    digests = set()
    for format in FORMATS:
        write_sample(tmp_path / format, format=format, images=12, size=(96, 80))
        dataset = load_dataset(tmp_path / format, tmp_path / "cache")
        counts = {name: split.images for name, split in dataset.splits.items()}
        assert counts == {"train": 8, "val": 2, "test": 2}
        assert dataset.repairs == {}
        digests.add(dataset.digest)
    assert len(digests) == 1


def test_boxes_lie_inside_the_image_and_are_not_tiny() -> None:
    scenes = [draw_scene(number, 5, (192, 160)) for number in range(30)]
    boxes = [box for scene in scenes for box in scene.boxes]
    assert {box.label for box in boxes} == set(CLASSES)
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        assert 0 <= x1 < x2 <= 192
        assert 0 <= y1 < y2 <= 160
        assert (x2 - x1) * (y2 - y1) > 100


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_masks_change_neither_images_nor_boxes(tmp_path: Path, format: str) -> None:
    plain, masked = tmp_path / "plain", tmp_path / "masked"
    write_sample(plain, format=format, images=9, size=(96, 64))
    write_sample(masked, format=format, images=9, size=(96, 64), masks=True)
    for path in plain.rglob("*.jpg"):
        assert (masked / path.relative_to(plain)).read_bytes() == path.read_bytes()

    dataset = load_dataset(masked, tmp_path / "cache", masks=True)
    assert dataset.digest == load_dataset(plain, tmp_path / "cache").digest
    assert dataset.warnings == 0
    for split in dataset.splits.values():
        assert split.masks == split.boxes > 0
        document = json.loads(split.annotations.read_text())
        for annotation in document["annotations"]:
            mask = _fill_mask(annotation["segmentation"], 64, 96)
            x, y, width, height = map(int, annotation["bbox"])
            inside = mask[y : y + height, x : x + width]
            # The box is that of the whole shape, of which others may cover a third.
            assert inside.sum() == mask.sum() > 0.2 * width * height


def test_masks_are_the_same_in_each_format(tmp_path: Path) -> None:
    masks = {}
    for format in ("coco", "voc", "yolo"):
        write_sample(tmp_path / format, format=format, images=6, size=(96, 64), masks=True)
        dataset = load_dataset(tmp_path / format, tmp_path / "cache", masks=True)
        document = json.loads(dataset.splits["train"].annotations.read_text())
        masks[format] = [
            _fill_mask(entry["segmentation"], 64, 96).tobytes() for entry in document["annotations"]
        ]
    assert masks["coco"] == masks["voc"] == masks["yolo"]


def _fill_mask(
    segmentation: dict[str, object] | list[object], height: int, width: int
) -> npt.NDArray[np.bool_]:
    """Return the pixels of a segmentation."""
    if isinstance(segmentation, list):
        segmentation = reference.merge(reference.frPyObjects(segmentation, height, width))
    return reference.decode(segmentation).astype(bool)


def test_images_have_contrast() -> None:
    scene = draw_scene(0, 0, (192, 160))
    assert isinstance(scene.content, bytes)
    pixels = np.asarray(Image.open(io.BytesIO(scene.content)))
    assert pixels.shape == (160, 192, 3)
    assert pixels.std() > 20


def test_loading_the_sample_draws_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "detreg.data.sample.write_sample.__kwdefaults__",
        {"format": "coco", "images": 9, "seed": 0, "size": (64, 64), "masks": False},
    )
    dataset = load_dataset("sample", tmp_path)
    assert dataset.name == "sample"
    assert dataset.format == "sample"
    assert dataset.classes == CLASSES

    (folder,) = (tmp_path / "samples").iterdir()
    before = folder.stat().st_mtime_ns
    assert load_dataset("sample", tmp_path).digest == dataset.digest
    assert folder.stat().st_mtime_ns == before

    masked = load_dataset("sample", tmp_path, masks=True)
    assert masked.digest == dataset.digest
    assert masked.splits["train"].masks == dataset.splits["train"].boxes
    assert folder.stat().st_mtime_ns == before


def test_all_wrong_arguments_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError) as error:
        write_sample(tmp_path, format="tfrecord", images=2, seed=-1, size=(32, 90))

    *arguments, folder = error.value.problems
    assert [problem.split()[0] for problem in arguments] == ["format", "images", "seed", "size"]
    assert "not an empty folder" in folder
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

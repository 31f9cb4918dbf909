"""What a detector finds in one image, valid once made."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_detector import encode_image

from detreg.errors import DataError, NotFoundError, UsageError
from detreg.inference.detections import Detections
from detreg.inference.masks import Masks
from detreg.inference.outputs import REQUIRED_OUTPUTS

CLASSES = ("boat", "buoy")
TWO = Detections(
    boxes=np.array([[8, 16, 24, 48], [8, 16, 16, 32]], np.float32),
    scores=np.array([0.75, 0.5], np.float32),
    labels=np.array([0, 1]),
    class_names=CLASSES,
)
GRIDS = np.stack([np.ones((28, 28), np.float16), np.zeros((28, 28), np.float16)])
MASKS = Masks(GRIDS, TWO.boxes, size=(64, 64))
"""The first object fills its box, the second one has no pixel."""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"boxes": np.zeros((2, 4))}, "boxes must be float32"),
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes must be float32 \(2, 4\)"),
        ({"labels": np.zeros(2, np.int32)}, "labels must be int64"),
        ({"scores": np.array([0.1, 0.2], np.float32)}, "descend"),
        ({"scores": np.array([np.nan, 0.2], np.float32)}, "finite"),
        ({"labels": np.array([0, 2])}, "labels must lie in 0..1"),
        ({"masks": MASKS.select(np.array([0]))}, "masks must be 2, one for each score, but got 1"),
    ],
)
def test_detections_are_valid_once_made(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        replace(TWO, **changes)


def test_every_required_output_has_an_array() -> None:
    assert list(TWO.arrays) == [output.name for output in REQUIRED_OUTPUTS]
    assert TWO.arrays["labels"].tolist() == [0, 1]


def test_filtering_keeps_the_best_over_a_threshold() -> None:
    assert TWO.filter(0.6).names == ["boat"]
    assert TWO.filter(0.5).names == ["boat", "buoy"]
    assert TWO.filter(0.0, max_detections=1).names == ["boat"]
    assert len(TWO.filter(0.8)) == 0


def test_masks_follow_their_detections() -> None:
    equal_scores = np.array([0.75, 0.75], np.float32)
    kept = replace(TWO, masks=MASKS, scores=equal_scores).filter(0.6)
    assert kept.masks is not None
    np.testing.assert_array_equal(kept.masks.boxes, TWO.boxes)

    best = replace(TWO, masks=MASKS).filter(0.6).masks
    assert best is not None
    np.testing.assert_array_equal(best.boxes, TWO.boxes[:1])


def test_clipping_leaves_the_grids_of_masks_where_they_are() -> None:
    grids = np.zeros((2, 28, 28), np.float32)
    grids[0] = 0.75
    clipped = Detections.clip_to_image(
        TWO.boxes, TWO.scores, TWO.labels, CLASSES, size=(12, 40), masks=grids
    )
    assert clipped.masks is not None and clipped.masks.size == (12, 40)
    np.testing.assert_array_equal(clipped.masks.boxes, TWO.boxes)
    arrays = clipped.masks.to_arrays()
    # The outer half of the outer cells fades to nothing outside the grid.
    assert arrays[0, 17:, 9:].all() and not arrays[0, :16].any() and not arrays[1].any()


def test_clipping_drops_what_lies_outside_the_image() -> None:
    clipped = Detections.clip_to_image(TWO.boxes, TWO.scores, TWO.labels, CLASSES, size=(20, 16))
    assert len(clipped) == 0

    clipped = Detections.clip_to_image(TWO.boxes, TWO.scores, TWO.labels, CLASSES, size=(20, 20))
    assert clipped.boxes.tolist() == [[8, 16, 20, 20], [8, 16, 16, 20]]


def test_coco_rows() -> None:
    assert TWO.to_coco(7)[0] == {
        "image_id": 7,
        "category_id": 0,
        "category_name": "boat",
        "bbox": [8.0, 16.0, 16.0, 32.0],
        "score": 0.75,
    }


def test_coco_rows_have_masks_in_the_form_asked_for() -> None:
    found = replace(TWO, masks=MASKS)
    polygons = [row["segmentation"] for row in found.to_coco(7)]
    assert polygons[0][0][:2] == [8.25, 16.25] and polygons[1] == []
    codes = [row["segmentation"] for row in found.to_coco(7, masks="rle")]
    assert [code["size"] for code in codes] == [[64, 64], [64, 64]]
    assert found.to_coco(7, masks="none") == TWO.to_coco(7)


def test_filtering_keeps_the_image() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert replace(TWO, image=image).filter(0.6).image is image


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([0, 1, 0], "Detections(3: boat 2, buoy 1)"),
        ([], "Detections(0)"),
        ([2, 3, 4, 5, 6, 7, 7], "Detections(7: h 2, c 1, d 1, e 1, f 1 and 1 classes more)"),
    ],
)
def test_detections_are_shown_by_their_counts(labels: list[int], shown: str) -> None:
    count = len(labels)
    boxes = np.zeros((count, 4), np.float32)
    scores = np.ones(count, np.float32)
    found = Detections(boxes, scores, np.array(labels, np.int64), (*CLASSES, *"cdefgh"))
    assert repr(found) == shown


def test_they_are_drawn_on_the_image_that_they_were_found_in(tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(encode_image(image))
    drawn = replace(TWO, image=image).draw()
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    assert (drawn != image).any() and (image == 90).all()
    for found in (replace(TWO, image=path).draw(), TWO.draw(image), TWO.draw(str(path))):
        np.testing.assert_array_equal(found, drawn)


def test_an_image_that_is_not_known_or_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"do not know their image: give it, draw\(image\)"):
        TWO.draw()
    with pytest.raises(NotFoundError, match=r"gone\.png"):
        replace(TWO, image=tmp_path / "gone.png").draw()


def test_supervision_gets_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """As supervision 0.31 takes it: arrays of its own types, and names as data."""
    module = ModuleType("supervision")
    monkeypatch.setattr(module, "Detections", SimpleNamespace, raising=False)
    monkeypatch.setitem(sys.modules, "supervision", module)
    made: Any = TWO.to_supervision()
    np.testing.assert_array_equal(made.xyxy, TWO.boxes)
    np.testing.assert_array_equal(made.confidence, TWO.scores)
    np.testing.assert_array_equal(made.class_id, TWO.labels)
    assert made.mask is None
    assert made.data["class_name"].tolist() == ["boat", "buoy"]
    masked: Any = replace(TWO, masks=MASKS).to_supervision()
    assert masked.mask.shape == (2, 64, 64) and masked.mask[0].sum() == 16 * 32


def test_supervision_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        TWO.to_supervision()

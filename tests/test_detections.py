"""What a detector finds in one image, valid once made."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detreg.errors import DataError
from detreg.inference.detections import Detections
from detreg.inference.outputs import REQUIRED_OUTPUTS

CLASSES = ("boat", "buoy")
TWO = Detections(
    boxes=np.array([[8, 16, 24, 48], [8, 16, 16, 32]], np.float32),
    scores=np.array([0.75, 0.5], np.float32),
    labels=np.array([0, 1]),
    class_names=CLASSES,
)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"boxes": np.zeros((2, 4))}, "boxes must be float32"),
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes must be float32 \(2, 4\)"),
        ({"labels": np.zeros(2, np.int32)}, "labels must be int64"),
        ({"scores": np.array([0.1, 0.2], np.float32)}, "descend"),
        ({"scores": np.array([np.nan, 0.2], np.float32)}, "finite"),
        ({"labels": np.array([0, 2])}, "labels must lie in 0..1"),
        ({"masks": np.zeros((2, 3, 4))}, "masks must be bool"),
        ({"masks": np.zeros((1, 3, 4), bool)}, r"masks must be bool \(2, height, width\)"),
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
    masks = np.zeros((2, 30, 40), bool)
    masks[1] = True
    kept = replace(TWO, masks=masks, scores=np.array([0.75, 0.75], np.float32)).filter(0.6)
    assert kept.masks is not None
    np.testing.assert_array_equal(kept.masks, masks)

    best = replace(TWO, masks=masks).filter(0.6).masks
    assert best is not None
    assert best.shape == (1, 30, 40)
    assert not best.any()


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

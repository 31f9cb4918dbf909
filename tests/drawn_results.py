"""Images with objects, drawn from a seed, as MMDetection's transforms pass them on."""

from typing import Any

import numpy as np

Results = dict[str, Any]
SIZES = [(96, 64), (64, 64), (96, 10), (3, 64), (40, 31), (96, 2), (200, 150), (2, 64), (95, 64)]
"""Widths and heights of images, of which most fit the canvas, as after resizing."""


class Images:
    """As much of a dataset as transforms look at: images drawn from a seed, always anew."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 12

    def get_data_info(self, index: int) -> Results:
        """Return what annotations say: every third image has no objects."""
        return {"instances": [{}] * (index % 3)}

    def __getitem__(self, index: int) -> Results:
        rng = np.random.default_rng([self.seed, index])
        width, height = SIZES[rng.integers(len(SIZES))]
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels.flags.writeable = False  # as those of a memory-mapped file

        objects = (index % 3) * int(rng.integers(1, 4))
        corners = rng.uniform(0, 1, (2, objects, 2)) * (width, height)
        boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
        return {
            "img": pixels,
            "img_shape": (height, width),
            "ori_shape": (height, width),
            "gt_bboxes": boxes.astype(np.float32),
            "gt_bboxes_labels": rng.integers(0, 5, objects),
            "gt_ignore_flags": rng.random(objects) < 0.3,
        }


def copy_results(results: Results) -> Results:
    """Return an image that MMDetection may write to, with the images to mix it with."""
    copied = {
        key: value.copy() if isinstance(value, np.ndarray) else value
        for key, value in results.items()
    }
    if "mix_results" in results:
        copied["mix_results"] = [copy_results(other) for other in results["mix_results"]]
    return copied


def assert_equal(ours: Results, theirs: Results, levels: int) -> None:
    """Compare objects exactly, and pixels within some levels."""
    assert ours["img_shape"] == theirs["img_shape"] == ours["img"].shape[:2]
    for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"):
        np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours[key].dtype == theirs[key].dtype

    assert ours["img"].dtype == theirs["img"].dtype == np.uint8
    difference = np.abs(ours["img"].astype(int) - theirs["img"])
    assert difference.max(initial=0) <= levels


def draw_next_number() -> float:
    """Return a number that shows how many have been drawn before it."""
    return float(np.random.uniform())

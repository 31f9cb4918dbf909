"""Detections of one image, written as short rows."""

import numpy as np

from detreg.inference.detections import Detections

CLASSES = ("boat", "buoy", "crane")

Row = tuple[float, float, int]
"""The left side of a box of 40 times 20 pixels, its score and its label."""

APART: tuple[Row, ...] = ((0, 0.9, 0), (60, 0.7, 1), (120, 0.7, 1), (180, 0.7, 0), (240, 0.3, 2))
"""Five boxes beside one another, three of them with one score."""

# What may go wrong with APART, and how many detections of both sides then have no partner.
MISTAKES: dict[str, tuple[tuple[Row, ...], int]] = {
    "a shifted box": ((*APART[:2], (123, 0.7, 1), *APART[3:]), 2),
    "a swapped label": ((*APART[:2], (120, 0.7, 0), *APART[3:]), 2),
    "a missing detection in the middle": ((*APART[:2], *APART[3:]), 1),
    "a missing detection at the end": (APART[:4], 1),
    "a score off by 0.01": ((*APART[:2], (120, 0.71, 1), *APART[3:]), 2),
    "a detection too many": ((*APART, (120, 0.7, 1)), 1),
    "all shifted": (tuple((left + 3, score, label) for left, score, label in APART), 10),
}


def make_detections(*rows: Row) -> Detections:
    """Return detections in order of score; those of equal score keep the order of the rows."""
    ordered = sorted(rows, key=lambda row: -row[1])
    boxes = [[left, 10, left + 40, 30] for left, _, _ in ordered]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], np.float32),
        np.array([label for _, _, label in ordered], np.int64),
        CLASSES,
    )

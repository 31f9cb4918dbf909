"""What a detector finds in one picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError

MAX_DETECTIONS = 300
"""Detections of one picture that a model keeps, best first. COCO scores the first 100 of each class."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one picture, best first, valid once made.

    `boxes` is float32 (n, 4), x1 y1 x2 y2 in the picture's own pixels; `scores` float32 (n,), descending; `labels` int64 (n,),
    positions in `class_names`, which holds every class of the model. Raises DataError for anything else.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = self._wrong_arrays() or self._wrong_values()
        if problems:
            raise DataError(problems)

    @classmethod
    def clip_to_image(
        cls,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        labels: NDArray[np.int64],
        names: tuple[str, ...],
        size: tuple[int, int],
    ) -> "Detections":
        """Detections clipped to a picture of `size` (width, height); what has no extent there is left out."""
        clipped = np.clip(boxes, 0, np.array(size * 2, np.float32))
        seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        return cls(clipped[seen], scores[seen], labels[seen], names)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    def filter(
        self, score_threshold: float = 0.0, max_detections: int | None = None
    ) -> "Detections":
        """The detections with at least this score, at most so many of them."""
        keep = np.flatnonzero(self.scores >= score_threshold)[:max_detections]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.class_names)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Rows of a COCO result file (bbox is x, y, width, height; category_id is the label) with the class name added."""
        corners = self.boxes.astype(float)
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        rows = zip(
            sizes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names, strict=True
        )
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "category_name": name,
                "bbox": box,
                "score": score,
            }
            for box, score, label, name in rows
        ]

    def _wrong_arrays(self) -> list[str]:
        count = len(self.scores)
        wanted = {
            "boxes": (np.float32, (count, 4)),
            "scores": (np.float32, (count,)),
            "labels": (np.int64, (count,)),
        }
        arrays = {name: np.asarray(getattr(self, name)) for name in wanted}
        return [
            f"{name} must be {np.dtype(dtype)} {shape}, but got {arrays[name].dtype} {arrays[name].shape}"
            for name, (dtype, shape) in wanted.items()
            if arrays[name].dtype != dtype or arrays[name].shape != shape
        ]

    def _wrong_values(self) -> list[str]:
        problems = []
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            problems.append("boxes and scores must be finite numbers")
        if (np.diff(self.scores) > 0).any():
            problems.append("scores must descend")
        if len(self) and (self.labels.min() < 0 or self.labels.max() >= len(self.class_names)):
            problems.append(
                f"labels must lie in 0..{len(self.class_names) - 1}, but got {self.labels.min()}..{self.labels.max()}"
            )
        return problems
